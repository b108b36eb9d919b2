"""Super-resolution as a data step: a Swin2SR model of transformers enlarges every image of a dataset, once.

Neural Resizer's authors up-sampled FERPlus from 48 to 384 pixels this way before training (METHODS: rows c to e of
their Table 2). What the model adds is learnt from other pictures: good for training, no evidence of what a face was.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FerError
from .prepare import brief, decoded_image, image_bytes, with_path
from .raw_files import short

if TYPE_CHECKING:
    import torch
    from datasets import Dataset, DatasetDict
    from PIL import Image
    from transformers import Swin2SRForImageSuperResolution, Swin2SRImageProcessor

# Part of the cache key: raise it when the same model gives other pictures.
_VERSION = 1
# What a config says beside the network: where it came from, and what wrote it.
_NOT_THE_NETWORK = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


@dataclass(frozen=True)
class SuperResolution:
    """A loaded Swin2SR model with its processor, see `load_super_resolution`."""

    name: str
    model: Swin2SRForImageSuperResolution
    processor: Swin2SRImageProcessor
    device: torch.device

    @property
    def upscale(self) -> int:
        """How many times larger an image gets by one pass."""
        return int(self.model.config.upscale)

    def fingerprint(self) -> str:
        """Hash of the weights, the architecture and the processing: the same for the same pictures, from anywhere."""
        digest = hashlib.blake2b(digest_size=8)
        config = {key: value for key, value in self.model.config.to_dict().items() if key not in _NOT_THE_NETWORK}
        digest.update(json.dumps([_VERSION, config, self.processor.to_dict()], sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_super_resolution(
    model: str | os.PathLike[str], *, device: str | None = None, revision: str | None = None
) -> SuperResolution:
    """Load a Swin2SR checkpoint, such as `caidas/swin2SR-classical-sr-x4-64`.

    Args:
        model: Hub id, or folder as `save_pretrained` of the model and of its processor wrote it.
        device: torch device; None is CUDA if there is any, else the CPU.
        revision: branch, tag or commit on the Hub.

    Raises:
        FerError: no such model, not a Swin2SR for RGB images, missing weights, no such device.
    """
    import torch
    from transformers import AutoConfig, Swin2SRForImageSuperResolution, Swin2SRImageProcessor

    name = os.fspath(model)
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise FerError(f"device {device!r} cannot be used ({brief(error)}); try cpu.") from error
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise FerError(
            f"The super-resolution model {short(name)} cannot be loaded ({brief(error)}); give a folder or the Hub id "
            "of a Swin2SR checkpoint."
        ) from error
    # transformers would build a random Swin2SR from any other checkpoint, and only log that it did.
    if config.model_type != "swin2sr" or config.num_channels != 3 or config.num_channels_out != 3:
        what = (
            f"for {config.num_channels} channels" if config.model_type == "swin2sr" else f"a {config.model_type} model"
        )
        raise FerError(f"The model {short(name)} is {what}, not a Swin2SR for RGB images; choose one that is.")
    try:
        network, report = Swin2SRForImageSuperResolution.from_pretrained(
            name, revision=revision, output_loading_info=True
        )
        processor = Swin2SRImageProcessor.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise FerError(
            f"The super-resolution model {short(name)} cannot be loaded ({brief(error)}); it needs weights and "
            "preprocessor_config.json."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise FerError(
            f"The model {short(name)} lacks {len(missing)} weights of a Swin2SR for super-resolution, such as "
            f"{missing[0]}; choose a complete checkpoint."
        )
    return SuperResolution(name, network.eval().to(chosen), processor, chosen)


def super_resolve(
    dataset: Dataset | DatasetDict,
    model: str | os.PathLike[str] | SuperResolution,
    *,
    scale: int | None = None,
    batch_size: int = 8,
    device: str | None = None,
    revision: str | None = None,
) -> Any:
    """Enlarge every image of a dataset by a Swin2SR model.

    Works through `datasets.map`: with its progress bar, image by image on disk, and cached where the dataset lies in
    a cache (keyed by the rows, the weights and `scale`).

    Args:
        dataset: with a column `image`; or a `DatasetDict` of such.
        model: Hub id, folder, or what `load_super_resolution` gave.
        scale: times larger in each direction, a whole number of at least 2; None is what the model does in one pass.
            A larger scale takes several passes; what is then too large is resized down (bicubic).
        batch_size: images of the same size in one forward pass.
        device, revision: see `load_super_resolution`.

    Returns:
        The same rows and columns. `image` is PNG: mode "L" where the picture was grey (all channels equal, whatever
        its mode), else "RGB"; transparency over white, the right way up.

    Raises:
        FerError: see `load_super_resolution`; a wrong argument; an image that cannot be decoded or enlarged.
    """
    from datasets import DatasetDict, IterableDatasetDict

    if type(batch_size) is not int or batch_size < 1:
        raise FerError(f"batch_size={batch_size!r} must be a whole number of at least 1.")
    if scale is not None and (type(scale) is not int or scale < 2):
        raise FerError(f"scale={scale!r} must be a whole number of at least 2; leave it out to take the model's own.")
    if isinstance(dataset, IterableDatasetDict):
        raise FerError("A streamed data set cannot be enlarged; load it without streaming.")
    if not isinstance(model, SuperResolution):
        model = load_super_resolution(model, device=device, revision=revision)
    if scale is not None and model.upscale < 2:
        raise FerError(
            f"The model {short(model.name)} does not enlarge, so scale={scale} does not apply; leave it out."
        )
    key = f"{model.fingerprint()} {scale}"
    if isinstance(dataset, DatasetDict):
        return DatasetDict(
            {
                split: _super_resolve(part, model, scale, batch_size, key, f"split {split!r}, ")
                for split, part in dataset.items()
            }
        )
    return _super_resolve(dataset, model, scale, batch_size, key, "")


def _super_resolve(
    dataset: Dataset, network: SuperResolution, scale: int | None, batch_size: int, key: str, where: str
) -> Dataset:
    from datasets import Image

    if not isinstance(dataset.features.get("image"), Image):
        raise FerError(f"The data set has no images in a column 'image', only {', '.join(dataset.column_names)}.")

    def enlarge(batch: dict[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        pictures = []
        for row, stored in zip(rows, batch["image"], strict=True):
            try:
                pictures.append(decoded_image(image_bytes(stored)))
            except FerError as error:
                raise FerError(
                    f"{where}row {row}: {with_path(error, stored)}; `hf-fer data check` lists all that is broken."
                ) from error
        try:
            larger = _enlarge(pictures, network, scale)
        except FerError:
            raise
        except (
            RuntimeError,
            ValueError,
            LookupError,
            MemoryError,
        ) as error:  # out of memory is a RuntimeError in torch
            sizes = ", ".join(sorted({f"{picture.width}x{picture.height}" for picture in pictures}))
            raise FerError(
                f"{where}rows {rows[0]} to {rows[-1]}: the model cannot enlarge {len(pictures)} images of {sizes} "
                f"({brief(error)}); leave out images of a few pixels; for want of memory, use a smaller batch size."
            ) from error
        names = [stored["path"] and f"{PurePath(stored['path']).stem}.png" for stored in batch["image"]]
        return {"image": [{"bytes": _png(p), "path": name} for p, name in zip(larger, names, strict=True)]}

    # Given, not computed: `datasets` would pickle the whole network to find it.
    fingerprint = hashlib.blake2b(f"{dataset._fingerprint} {key}".encode(), digest_size=8).hexdigest()
    return (
        dataset.with_format(None)
        .cast_column("image", Image(decode=False))
        .map(
            enlarge,
            with_indices=True,
            batched=True,
            batch_size=batch_size,
            features=dataset.features,
            new_fingerprint=fingerprint,
            desc="super-resolve",
        )
    )


def _enlarge(pictures: Sequence[Image.Image], network: SuperResolution, scale: int | None) -> list[Image.Image]:
    """RGB pictures of any sizes, enlarged; grey ones as mode "L"."""
    import PIL.Image

    wanted = scale or network.upscale
    result: list[Image.Image | None] = [None] * len(pictures)
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, picture in enumerate(pictures):
        by_size.setdefault(picture.size, []).append(i)
    for (width, height), places in by_size.items():
        pixels = [np.array(pictures[i]) for i in places]
        grey = [bool((p == p[..., :1]).all()) for p in pixels]
        reached = 1
        while True:
            pixels = _one_pass(pixels, grey, network)
            reached *= network.upscale
            if reached >= wanted:
                break
        for i, is_grey, array in zip(places, grey, pixels, strict=True):
            image = PIL.Image.fromarray(np.ascontiguousarray(array[..., 0]) if is_grey else array)
            if reached > wanted:
                image = image.resize((width * wanted, height * wanted), PIL.Image.Resampling.BICUBIC)
            result[i] = image
    return [image for image in result if image is not None]


def _one_pass(pixels: list[np.ndarray], grey: list[bool], network: SuperResolution) -> list[np.ndarray]:
    """(H, W, 3) uint8 each, all of one size, to (H·upscale, W·upscale, 3) uint8; grey ones to equal channels."""
    import torch

    height, width = (side * network.upscale for side in pixels[0].shape[:2])
    inputs = network.processor(pixels, return_tensors="pt", input_data_format="channels_last")
    with torch.inference_mode():
        # The processor pads at the right and at the bottom: (B, 3, H', W').
        output = network.model(inputs["pixel_values"].to(network.device)).reconstruction[..., :height, :width]
        if output.shape[-2:] != (height, width):
            raise ValueError(f"the model gives {tuple(output.shape)} instead of {height}x{width} pixels")
        output = output.float().clamp(0, 1)
        is_grey = torch.tensor(grey, device=output.device)[:, None, None, None]
        output = torch.where(is_grey, output.mean(dim=1, keepdim=True), output)
        eight_bit = output.mul(255).round().to(torch.uint8)
    return list(eight_bit.permute(0, 2, 3, 1).cpu().numpy())


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
