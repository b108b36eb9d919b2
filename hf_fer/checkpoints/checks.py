"""What is checked of a checkpoint before anything of it is built: a hostile one costs no memory and runs nothing.

Everything here reads files of a folder or plain values, and refuses with one `FerError`. The limits are far above what
image classifiers have: ImageNet-21k has 21 843 labels, a ViT-22B about a thousand tensors, and Donut, the stock
classifier with the largest images, takes 2560 x 1920 px.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import stat
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..digests import sha256
from ..errors import FerError

if TYPE_CHECKING:
    from torch import nn

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
RELEASE = "release.json"
PROCESSORS = ("processor_config.json", "preprocessor_config.json")  # the first wins where it holds one

MAX_JSON_BYTES = 8 << 20
MAX_HEADER_BYTES = 16 << 20
MAX_SHARDS = 1000
MAX_LABELS = 100_000
MAX_LABEL_CHARACTERS = 500
MAX_SIZE = 1_000_000
"""Of any whole number of a config that transformers knows the field of: widths, depths, sides, vocabularies."""
MAX_SIDE = 4096
"""Side in px of the images that a processor may make."""

# Beyond a multiple of what the file holds: heads that a constructor makes and drops (VGG: 124 M), tied weights.
_SPARE_TENSORS, _SPARE_MODULES, _SPARE_ELEMENTS = 4096, 20_000, 1 << 27

_NO_SIZES = {"id2label", "label2id", "class_counts"}
_TIMM_FIELDS = {"num_classes", "num_features", "num_labels", "model_args", "pretrained_cfg"}
_SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)
_TORCH_SHARD = re.compile(r"shard-\d{5}-model-.*\.safetensors")
_PROCESSOR = re.compile(r"\w+(ImageProcessor(Fast|Pil)?|FeatureExtractor)", re.ASCII)
_PROCESSOR_SIZE = re.compile(r"size|edge|height|width")
_TIMM_NAME = re.compile(r"[\w.-]{1,200}", re.ASCII)
_JOINERS = "\u200c\u200d"  # inside words of Persian and inside emoji


@dataclass(frozen=True)
class Weights:
    """What the headers of a checkpoint's files say; no values are read for it.

    Attributes:
        tensors: their number.
        elements: numbers in all of them.
        not_floats: names of those that hold integers, booleans or complex numbers.
    """

    tensors: int
    elements: int
    not_floats: frozenset[str]


# --- config.json ---------------------------------------------------------------------------------------------


def check_config(folder: Path, where: str) -> dict[str, Any]:
    """Read a folder's config.json and refuse what must not even become a configuration.

    Args:
        folder: of the checkpoint.
        where: what messages call it.

    Raises:
        FerError: no such file, over 8 MiB, not a JSON object, more labels or larger numbers than any model has, or
            fields by which transformers or timm would read other files than the checkpoint's safetensors, or code.
    """
    config = _read_json(folder / CONFIG, lambda reason: config_error(where, reason))
    for name, value in _fields(config):
        if name in ("checkpoint_path", "transformers_weights") and value is not None:
            raise config_error(where, f"{name} names a file to load, and only {WEIGHTS} is read; remove it")
        if name.endswith(("attn_implementation", "experts_implementation")) and "/" in str(value):
            raise config_error(where, f"{name} asks for code from the Hub, which is not run; remove it")
        if name == "quantization_config" and value is not None:
            raise config_error(where, "its weights are quantised; use the checkpoint that it was made from")
    kind, timm = config.get("model_type"), config.get("architecture")
    if kind in (None, "timm_wrapper") and not (timm is None or (isinstance(timm, str) and _TIMM_NAME.fullmatch(timm))):
        raise config_error(where, "architecture must be the plain name of a timm model")
    counts = {name: config.get(name) for name in ("num_labels", "num_classes")}
    counts |= {name: len(config[name]) for name in ("id2label", "label_names") if hasattr(config.get(name), "__len__")}
    for name, count in counts.items():
        if isinstance(count, int | float) and not count <= MAX_LABELS:
            raise config_error(where, f"{name} is of {_brief(count)} labels, and the limit is {MAX_LABELS}")
    for name in sorted(_known_fields(kind) & config.keys()):
        largest = max(_integers(config[name]), key=abs, default=0)
        if abs(largest) > MAX_SIZE:
            raise config_error(where, f"{name} is {_brief(largest)}, and the limit is {MAX_SIZE}")
    return config


def check_labels(id2label: Any, where: str) -> None:
    """Refuse class names that could not be answered with, or not be printed.

    Raises:
        FerError: ids that are not 0, 1, 2, ... without a gap, a name that is no text, is over 500 characters, holds
            control characters, or stands twice.
    """
    if not isinstance(id2label, Mapping) or sorted(map(str, id2label)) != sorted(map(str, range(len(id2label)))):
        raise config_error(where, "the ids of id2label must be 0, 1, 2, ... without a gap")
    seen: dict[str, Any] = {}
    for k, label in id2label.items():
        text = str(label)
        if seen.setdefault(text, k) != k:  # probabilities by name would lose one of the two
            raise config_error(where, f"labels {seen[text]} and {k} are both {_brief(text)}; rename one")
        if not isinstance(label, str | int | float) or isinstance(label, bool):
            raise config_error(where, f"label {k} is a {type(label).__name__}, not a text")
        if len(text) > MAX_LABEL_CHARACTERS:
            raise config_error(where, f"label {k} has {len(text)} characters, and the limit is {MAX_LABEL_CHARACTERS}")
        if not all(c.isprintable() or (c.isspace() and c >= "\u00a0") or c in _JOINERS for c in text):
            raise config_error(where, f"label {k} holds control characters ({_brief(text)}); rename it")


def config_error(where: str, reason: str) -> FerError:
    """The sentence about a config.json."""
    return FerError(f"{where}: its config.json cannot be used ({reason})")


def _known_fields(model_type: Any) -> set[str]:
    """Fields of which the model is built; what else a config holds, such as a seed, is nobody's business."""
    from transformers import CONFIG_MAPPING

    known = {*_TIMM_FIELDS}
    if isinstance(model_type, str) and model_type in CONFIG_MAPPING:
        kind = CONFIG_MAPPING[model_type]
        known |= {field.name for field in dataclasses.fields(kind)} | {*getattr(kind, "attribute_map", {})}
    return known - _NO_SIZES


# --- image processor -----------------------------------------------------------------------------------------


def check_processor(folder: Path, config: Mapping[str, Any], where: str, *, own_code: bool = False) -> None:
    """Refuse a processor that would make images of impossible size or values, or be something else altogether.

    Args:
        folder: of the checkpoint.
        config: its config.json; timm's checkpoints hold the processor there.
        where: what messages call it.
        own_code: the checkpoint may bring a class of its own.

    Raises:
        FerError: a file that cannot be read, sides over 4096 px, a mean or deviation that is no finite number or is 0,
            an unknown interpolation, or a class that is no image processor.
    """

    def refuse(reason: str) -> FerError:
        return processor_error(where, reason)

    found: list[Mapping[str, Any]] = []
    for name in PROCESSORS:
        if _exists(folder / name):
            content = _read_json(folder / name, refuse)
            found += [content, content["image_processor"]] if "image_processor" in content else [content]
    timm = config.get("pretrained_cfg")
    for values in [*found, *([timm] if timm is not None else [])]:
        if not isinstance(values, Mapping):
            raise refuse("it is not a mapping")
        kind = values.get("image_processor_type") or values.get("feature_extractor_type") or "ImageProcessor"
        if not own_code and not (isinstance(kind, str) and (kind == "ImageProcessor" or _PROCESSOR.fullmatch(kind))):
            raise refuse(f"{_brief(kind)} is no image processor")
        if any(name in values for name in ("class_info_file", "repo_path")):  # OneFormer's, for segmentation
            raise refuse("it names a file to load")
        _check_pixels(values, refuse)


def processor_error(where: str, reason: str) -> FerError:
    """The sentence about an image processor."""
    return FerError(
        f"{where}: its image processor cannot be loaded, preprocessor_config.json is missing or damaged ({reason})"
    )


def _check_pixels(values: Mapping[str, Any], refuse: Any) -> None:
    """The numbers of an image processor."""
    for name, value in values.items():
        if _PROCESSOR_SIZE.search(name):
            for side in _numbers(value):
                if not 0 <= side <= MAX_SIDE:
                    raise refuse(f"{name} is {_brief(side)}, and must be from 0 to {MAX_SIDE} px")
        elif name in ("image_mean", "image_std", "mean", "std") and value is not None:
            numbers = value if isinstance(value, list) else [value]
            least = 0 if name.endswith("std") else -math.inf
            if not 0 < len(numbers) <= 4 or not all(_is_number(n) and n > least for n in numbers):
                allowed = "finite numbers" + (" over 0" if least == 0 else "")
                raise refuse(f"{name} must be {allowed}, one for each channel, not {_brief(value)}")
        elif name == "rescale_factor" and value is not None and not (_is_number(value) and 0 < value < 1e6):
            raise refuse(f"{name} must be a number over 0, not {_brief(value)}")
        elif name == "crop_pct" and value is not None and not (_is_number(value) and 0.05 <= value <= 2):
            raise refuse(f"{name} must be a number from 0.05 to 2, not {_brief(value)}")
        elif name == "resample" and value is not None and value not in range(6):
            raise refuse(f"{name} must be an interpolation of Pillow, 0 to 5, not {_brief(value)}")


# --- weights -------------------------------------------------------------------------------------------------


def shard_names(folder: Path, where: str) -> list[str]:
    """The files that a folder's index of shards names, [] without an index.

    Raises:
        FerError: it is damaged, or names over 1000 files, or anything but safetensors in the same folder.
    """
    path = folder / INDEX
    if not _exists(path):
        return []
    places = _read_json(path, lambda reason: weights_error(where, reason)).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise weights_error(where, f"{INDEX} has no weight_map")
    names = {name if isinstance(name, str) else "" for name in places.values()}
    if len(names) > MAX_SHARDS:
        raise weights_error(where, f"{INDEX} names {len(names)} files, and the limit is {MAX_SHARDS}")
    odd = next((name for name in sorted(names) if not _SHARD.fullmatch(name)), None)
    if odd is not None:
        raise weights_error(where, f"{INDEX} names {_brief(odd)}, which is no safetensors file beside it")
    return sorted(names)


def read_weights(folder: Path, where: str, *, as_released: bool = True) -> Weights:
    """The size of what a folder's safetensors hold, from their headers, which the safetensors library checks.

    Raises:
        FerError: there are none, they are damaged, cut short, not regular files or not those that a `release.json`
            lists, or the folder holds what transformers would load instead or on top.
    """
    if _exists(folder / "adapter_config.json"):
        raise weights_error(where, "it holds an adapter (adapter_config.json), which must be merged into the model")
    if any(_TORCH_SHARD.fullmatch(path.name) for path in folder.iterdir()):
        raise weights_error(where, "it was saved by torch.distributed.checkpoint; consolidate it into one file")
    names = [WEIGHTS] if _exists(folder / WEIGHTS) else shard_names(folder, where)
    if not names:
        raise weights_error(
            where,
            f"there is no {WEIGHTS}; pickles such as pytorch_model.bin can run code and are never read: "
            "if you trust it, load it with transformers and save_pretrained it anew",
        )
    if as_released:
        _compare_with_release(folder, names, where)
    tensors = elements = 0
    not_floats: set[str] = set()
    for name in names:
        for key, kind, shape in _read_header(folder / name, where):
            tensors += 1
            elements += math.prod(shape)
            if not kind.startswith(("F", "BF")):
                not_floats.add(key)
    return Weights(tensors, elements, frozenset(not_floats))


def weights_error(where: str, reason: str) -> FerError:
    """The sentence about the weights."""
    return FerError(f"{where}: its weights cannot be loaded ({reason})")


def _compare_with_release(folder: Path, names: list[str], where: str) -> None:
    """Flipped bits inside the tensors are seen by nothing else; what is no `release.json` of ours says nothing."""
    try:
        listed = _read_json(folder / RELEASE, FerError).get("files")
    except FerError:
        return
    for name in names:
        entry = listed.get(name) if isinstance(listed, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str) or not (folder / name).is_file():
            continue
        if sha256(folder / name) != entry["sha256"]:
            raise weights_error(
                where,
                f"{name} is not the file that {RELEASE} lists, it was damaged or replaced: get it anew, or delete"
                f" {RELEASE} if it was you who replaced it",
            )


def _read_header(path: Path, where: str) -> list[tuple[str, str, list[int]]]:
    """Name, type and shape of each tensor of a file."""
    from safetensors import safe_open

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise weights_error(where, f"{path.name} is not a regular file")
        with path.open("rb") as file:
            start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if length > MAX_HEADER_BYTES:
            raise weights_error(where, f"{path.name} is damaged, its header claims {length} bytes; get it anew")
        with safe_open(path, framework="pt") as file:
            slices = ((key, file.get_slice(key)) for key in file.keys())  # noqa: SIM118 (no mapping)
            return [(key, part.get_dtype(), part.get_shape()) for key, part in slices]
    except FerError:
        raise
    except Exception as error:  # SafetensorError, OSError and what bindings raise besides
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_sentence(error)
        raise weights_error(where, f"{path.name} is missing, damaged or cut short: {reason}; get it anew") from error


# --- the model -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bounded_construction(weights: Weights, where: str) -> Iterator[None]:
    """Stop the making of a model that is far larger than its weights, as soon as it becomes so.

    transformers builds on the meta device: until the weights that a file lacks are filled in, a model of any width
    costs nothing, and one of any depth as much as its modules. Both are counted as the constructor registers them.

    Args:
        weights: what the checkpoint holds.
        where: what messages call it.

    Raises:
        FerError: from within the constructor.
    """
    from torch.nn.modules import module as registry

    thread = threading.get_ident()  # the hooks are global, and other threads may build models of their own
    limits = {
        "tensors": 4 * weights.tensors + _SPARE_TENSORS,
        "modules": 32 * weights.tensors + _SPARE_MODULES,
        "numbers": 4 * weights.elements + _SPARE_ELEMENTS,
    }
    counts = dict.fromkeys(limits, 0)

    def add(what: str, count: int) -> None:
        counts[what] += count
        if counts[what] > limits[what]:
            raise config_error(
                where,
                f"it describes a model of over {limits[what]} {what}, but the file of weights holds"
                f" {weights.tensors} tensors with {weights.elements} numbers",
            )

    def on_tensor(_module: nn.Module, _name: str, tensor: Any) -> None:
        if tensor is not None and threading.get_ident() == thread:
            add("tensors", 1)
            add("numbers", tensor.numel())

    def on_module(_module: nn.Module, _name: str, child: Any) -> None:
        if child is not None and threading.get_ident() == thread:
            add("modules", 1)

    with contextlib.ExitStack() as stack:
        for handle in (
            registry.register_module_parameter_registration_hook(on_tensor),
            registry.register_module_buffer_registration_hook(on_tensor),
            registry.register_module_module_registration_hook(on_module),
        ):
            stack.callback(handle.remove)
        yield


def check_values(model: nn.Module, weights: Weights, where: str) -> None:
    """Refuse a model with weights that are no numbers: it would answer nonsense, or nothing.

    Raises:
        FerError: a parameter that is not finite or was saved as integers, or a buffer (a running mean) that is NaN.
    """
    for name, value in model.named_parameters():
        if name in weights.not_floats:
            raise weights_error(where, f"{name} is saved in a type that holds no floats; get the file anew")
        if not value.isfinite().all():
            raise weights_error(where, f"{name} holds values that are not finite; the file is damaged")
    for name, value in model.named_buffers():
        if value.is_floating_point() and value.isnan().any():
            raise weights_error(where, f"{name} holds values that are not numbers; the file is damaged")


# --- texts and values ----------------------------------------------------------------------------------------


def first_sentence(error: BaseException) -> str:
    """The beginning of a library's message, on one printable line of at most 200 characters."""
    text = " ".join(str(error)[:4000].split()) or type(error).__name__
    return printable(text.split(". ")[0][:200].rstrip("."))


def printable(text: str) -> str:
    """`text` with control characters, which would act on a terminal, written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _brief(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return printable(text if len(text) <= 60 else f"{text[:60]}...")


def _exists(path: Path) -> bool:
    """Also of what is no regular file: that is refused when it is read."""
    return path.exists() or path.is_symlink()


def _read_json(path: Path, error: Any) -> dict[str, Any]:
    """The JSON object in a small regular file; `error(reason)` is raised where it is none."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path.name} is not a regular file")
        if status.st_size > MAX_JSON_BYTES:
            raise error(f"{path.name} has {status.st_size} bytes, and the limit is {MAX_JSON_BYTES}")
        content = json.loads(path.read_bytes())
    except OSError as e:
        raise error(f"{path.name}: {e.strerror or 'cannot be read'}") from e
    except RecursionError as e:
        raise error(f"{path.name} is nested too deep") from e
    except FerError:
        raise
    except ValueError as e:  # no JSON, no UTF-8, or an integer of thousands of digits
        raise error(f"{path.name}: {first_sentence(e)}") from e
    if not isinstance(content, dict):
        raise error(f"{path.name} holds no mapping")
    return content


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Every name and its value, at any depth."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield from item.items()
            stack += item.values()
        elif isinstance(item, list):
            stack += item


def _numbers(value: Any) -> Iterator[int | float]:
    """Every number, at any depth; booleans are none."""
    values: Iterable[Any] = [value] if not isinstance(value, dict | list) else _leaves(value)
    return (n for n in values if isinstance(n, int | float) and not isinstance(n, bool))


def _integers(value: Any) -> Iterator[int]:
    return (n for n in _numbers(value) if isinstance(n, int))


def _leaves(value: Any) -> Iterator[Any]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict | list):
            stack += item.values() if isinstance(item, dict) else item
        else:
            yield item


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
