"""Fills networks with pretrained weights, whatever layout and names they come in."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .weight_files import (
    SUFFIXES,
    WAY_OUT,
    WEIGHT_FILES,
    existing_path,
    first_line,
    read_file,
    read_state_dict,
    some,
    weights_file,
)


@dataclass(frozen=True)
class WeightsReport:
    """What `load_pretrained_weights` did; `str(report)` is for people.

    Attributes:
        source: as the user gave it; of a local path the last part only, so that it can be published.
        layout: whose naming of the weights it was.
        matched: names in the module that were filled.
        missing: names in the module that nothing fitting was found for.
        unexpected: names in the file that nobody wanted, classifier heads included.
        adapted: those of `matched` whose shape or channel order was changed on the way.
        image_mean: what the weights were trained with where that is known, in RGB order, of pixels in [0, 1].
        image_std: as `image_mean`.
        notes: what was adapted and how, which shapes did not fit, what else to know about the weights.
    """

    source: str
    layout: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    adapted: tuple[str, ...]
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.source} ({self.layout})",
            f"  filled: {len(self.matched)} tensors, {len(self.adapted)} of them adapted",
            f"  missing: {some(self.missing)}",
            f"  unexpected: {some(self.unexpected)}",
        ]
        if self.image_mean is not None and self.image_std is not None:
            mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (self.image_mean, self.image_std))
            lines.append(f"  trained with: mean ({mean}), std ({std})")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


@dataclass(frozen=True)
class _Layout:
    """A naming of the weights, recognised by names (`marks`) that stand under one common prefix.

    `renames` are pairs of a pattern and its replacement, applied in order to the names after that prefix;
    they lead to the names of timm, or of the network itself.
    """

    name: str
    marks: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    applies: Callable[[_Checkpoint, str], bool] = lambda checkpoint, prefix: True
    bgr: bool = False
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    note: str = ""


@dataclass
class _Checkpoint:
    """What a source holds, before anything of ours is looked at.

    Attributes:
        bare: name without wrappers -> name.
    """

    source: str
    tensors: dict[str, Tensor]
    numpy_pickle: bool = False
    from_timm: bool = False
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        self.bare = _without_wrappers(self.tensors)


# Caffe's images: BGR in 0-255 less these means (cydonia999/VGGFace2-pytorch, datasets/vgg_face2.py).
_VGGFACE2_MEAN = (131.0912 / 255, 103.8827 / 255, 91.4953 / 255)
_VGGFACE2_STD = (1 / 255, 1 / 255, 1 / 255)
_VGGFACE2_IDENTITIES = 8631


def _is_vggface2_port(checkpoint: _Checkpoint, prefix: str) -> bool:
    """A ResNet converted from Caffe: no batch counters, and NumPy arrays or the head of VGGFace2.

    A network trained by torch has counters, and saw whatever its author fed it, most often RGB.
    """
    if any(name.endswith("num_batches_tracked") for name in checkpoint.tensors):
        return False
    head = checkpoint.bare.get(f"{prefix}fc.weight")
    if head is None:
        return checkpoint.numpy_pickle
    return len(checkpoint.tensors[head]) == _VGGFACE2_IDENTITIES


_IR50_STAGES = ((1, 0, 3), (2, 3, 7), (3, 7, 21), (4, 21, 24))  # stage, first unit, end
_LAYOUTS = (
    _Layout(
        "VGGFace2 SENet (PyTorch port)",
        marks=("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv4.weight", "layer1.0.conv5.bias"),
        renames=(
            (r"^(conv1|bn1)\.", r"layer0.\1."),
            (r"^(layer\d\.\d+)\.conv4\.", r"\1.se_module.fc1."),
            (r"^(layer\d\.\d+)\.conv5\.", r"\1.se_module.fc2."),
        ),
        bgr=True,
        image_mean=_VGGFACE2_MEAN,
        image_std=_VGGFACE2_STD,
    ),
    _Layout(
        "VGGFace2 ResNet (PyTorch port)",
        marks=("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer1.0.conv3.weight"),
        applies=_is_vggface2_port,
        bgr=True,
        image_mean=_VGGFACE2_MEAN,
        image_std=_VGGFACE2_STD,
        note="trained with each stage's stride in its first 1x1 convolution (timm's resnet50: in the 3x3 one)",
    ),
    _Layout("torchvision ResNet", marks=("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight")),
    _Layout(
        "torchvision ResNet as a sequence",  # nn.Sequential(*resnet.children()), as in SCN, EAC and DAN
        marks=("0.weight", "1.running_mean", "4.0.conv1.weight"),
        renames=(
            (r"^0\.", "conv1."),
            (r"^1\.", "bn1."),
            *((rf"^{stage + 3}\.", f"layer{stage}.") for stage in (1, 2, 3, 4)),
        ),
    ),
    _Layout(
        "face.evoLVe IR-50",
        marks=("input_layer.0.weight", "body.0.res_layer.1.weight"),
        renames=tuple(
            (rf"^body\.{unit}\.", f"body{stage}.{unit - first}.")
            for stage, first, end in _IR50_STAGES
            for unit in range(first, end)
        ),
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
    ),
    _Layout(
        "POSTER++ IR-50",  # the same weights, one sequence a stage
        marks=("input_layer.0.weight", "body1.0.res_layer.1.weight"),
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
    ),
    _Layout(
        "MobileFaceNet",
        marks=("conv1.conv.weight", "conv2_dw.conv.weight", "conv_23.conv.conv.weight"),
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
        note="its authors' demo feeds it BGR images in [0, 1], POSTER and POSTER++ RGB ones: the stem is left as it is",
    ),
    _Layout(
        "Microsoft Swin",  # merges patches at the end of a stage, timm since 0.9 at the start of the next
        marks=("patch_embed.proj.weight", "layers.0.downsample.reduction.weight"),
        renames=tuple((rf"^layers\.{i}\.downsample\.", f"layers.{i + 1}.downsample.") for i in (2, 1, 0)),
    ),
)
_AS_NAMED = _Layout("timm", marks=())

# What wrappers put before the names: DataParallel, torch.compile, Lightning, timm, our own models.
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|model|net|backbone|body(?!\.\d))\.)+")
_LEARNED = {"weight", "bias", "running_mean", "running_var"}


def load_pretrained_weights(module: nn.Module, source: str | Path, minimum: float = 0.8) -> WeightsReport:
    """Fills a feature extractor with pretrained weights, whatever their layout calls them.

    Wanted are the module's parameters, and of its saved buffers those that are learned (of normalisations).
    Counters of batches are filled too, but not missed; index tables and attention masks stay as they are.
    Values are copied into the tensors there are (device and dtype stay), after everything has been checked:
    on an error the module is as it was.

    Args:
        module: a `Backbone`, a timm model, an IR-50 or a MobileFaceNet.
        source: a file or folder; else a Hub repository `owner/name` or `owner/name@revision`; else a timm
            model name with or without a tag.
        minimum: the share of the wanted tensors that must be filled, in (0, 1].

    Returns:
        What was filled and what was not.

    Raises:
        ValueError: the source does not exist, cannot be had or read, would execute code, holds values that are
            no finite numbers, or fits less than `minimum` of the module.
    """
    if not 0 < minimum <= 1:
        raise ValueError(f"load_pretrained_weights: minimum must be over 0 and at most 1, got {minimum!r}")
    network = _Network(module)
    checkpoint = _read_source(source)
    reading = _best_reading(checkpoint, network)
    plan = _plan(reading, checkpoint, network)

    layout = "timm" if checkpoint.from_timm else reading.layout.name
    missing = tuple(name for name in network.tensors if name in network.wanted and name not in plan.values)
    claimed = {original for key, original in reading.names.items() if key in network.names}
    unexpected = tuple(name for name in checkpoint.tensors if name not in claimed)
    misfits = [f"{name}: {shapes}" for name, shapes in plan.misfits.items()]
    total = len(network.wanted)
    if total - len(missing) < minimum * total:
        useless = [name for name in unexpected if not name.endswith("num_batches_tracked")]
        raise ValueError(
            f"{source}: the weights (read as {layout}) fill only {total - len(missing)} of the {total} tensors of the "
            f"{type(module).__name__}, and {100 * minimum:g} % are needed: missing are {some(missing)}, of no use are "
            f"{some(useless)}, of another shape are {some(misfits, 1)}; give weights of the same architecture"
        )
    # Not as a part of a larger model, which was then trained on with who knows what.
    first = reading.layout.marks[:1]
    as_published = any(name.removeprefix("module.") in first for name in checkpoint.tensors)
    with torch.no_grad():
        for name, value in plan.values.items():
            network.tensors[name].copy_(value)
    return WeightsReport(
        source=checkpoint.source,
        layout=layout,
        matched=tuple(name for name in network.tensors if name in plan.values),
        missing=missing,
        unexpected=unexpected,
        adapted=tuple(plan.adapted),
        image_mean=checkpoint.image_mean or (reading.layout.image_mean if as_published else None),
        image_std=checkpoint.image_std or (reading.layout.image_std if as_published else None),
        notes=(
            *(f"{name}: {how}" for name, how in plan.adapted.items()),
            *misfits,
            *_remarks(reading, checkpoint, network, unexpected),
        ),
    )


# Where weights come from -----------------------------------------------------------------------------------


def _read_source(source: str | Path) -> _Checkpoint:
    text = str(source)
    if (path := existing_path(source)) is not None:
        file = weights_file(path, source)
        tensors, numpy_pickle = read_file(file, source)
        mean, std = _normalization(lambda name: file.parent / name if file.name in WEIGHT_FILES else None)
        return _Checkpoint(path.absolute().name, tensors, numpy_pickle, image_mean=mean, image_std=std)

    looks_like_path = text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1
    if isinstance(source, Path) or looks_like_path or text.lower().endswith((*SUFFIXES, ".tar", "/")):
        raise ValueError(f"{text}: there is no such file or folder; {WAY_OUT}")
    if "/" in text:
        return _download(text)

    import timm

    if text and timm.is_model(text):
        return _timm_weights(text)
    near = timm.list_models(f"{text.split('.')[0].split('_')[0]}*")[:3] if text else []
    hint = f" (timm has {', '.join(near)})" if near else ""
    raise ValueError(f"{text!r} is no file, no folder, no Hub repository and no timm model{hint}; {WAY_OUT}")


def _download(source: str) -> _Checkpoint:
    """Weights of a Hub repository, `owner/name` or `owner/name@revision`, from the cache or the network."""
    from huggingface_hub import errors, hf_hub_download

    repository, _, revision = source.partition("@")

    def fetch(name: str) -> Path:
        return Path(hf_hub_download(repository, name, revision=revision or None))

    problems = (  # subclasses first
        (errors.GatedRepoError, "the Hub repository is gated; accept its terms there and run `hf auth login`"),
        (
            errors.RepositoryNotFoundError,
            "no such file here, and no such repository on the Hub, or a private one; check the name",
        ),
        (
            errors.RevisionNotFoundError,
            f"the Hub repository has no revision {revision!r}; name a branch, tag or commit",
        ),
        (errors.HFValidationError, f"this is no file, and no name for a Hub repository; {WAY_OUT}"),
        (errors.LocalEntryNotFoundError, "the Hub cannot be reached and its cache lacks the weights; give a file"),
        (
            errors.EntryNotFoundError,
            f"the Hub repository has neither {' nor '.join(WEIGHT_FILES)}; download and give a file",
        ),
    )
    file, failure = None, None
    for name in WEIGHT_FILES:
        try:
            file = fetch(name)
            break
        except errors.EntryNotFoundError as e:  # without a network, the other file may still be in the cache
            failure = e
        except Exception as e:  # what a network can do to a client is no closed list
            failure = e
            break
    if file is None:
        what = next((text for kind, text in problems if isinstance(failure, kind)), None)
        raise ValueError(f"{source}: {what or f'the download failed ({first_line(failure)}); try again'}") from failure
    tensors, numpy_pickle = read_file(file, source)
    mean, std = _normalization(fetch)
    return _Checkpoint(source, tensors, numpy_pickle, image_mean=mean, image_std=std)


def _timm_weights(name: str) -> _Checkpoint:
    """The weights timm publishes under a name, as timm's own loader brings them up to date."""
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.has_weights:
            raise RuntimeError("timm has none for it")
        with torch.random.fork_rng(devices=[]):  # the throw-away initialisation is nobody's business
            model = timm.create_model(name, pretrained=True)
    except Exception as e:  # unknown tags, the network, the Hub, damaged files
        raise ValueError(
            f"{name}: timm's pretrained weights could not be had ({first_line(e)}); "
            f"connect to the Hub, choose another of timm.list_pretrained(), or give a file"
        ) from e
    return _Checkpoint(name, dict(model.state_dict()), False, True, _triple(config.mean), _triple(config.std))


def _normalization(
    fetch: Callable[[str], Path | None],
) -> tuple[tuple[float, float, float] | None, tuple[float, float, float] | None]:
    """Mean and standard deviation that the files beside the weights name: transformers' or timm's."""
    for name in ("preprocessor_config.json", "config.json"):
        try:
            path = fetch(name)
            content = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        except Exception:  # there need not be one; the weights are there
            continue
        if not isinstance(content, dict):
            continue
        timm_config = content.get("pretrained_cfg")
        config = timm_config if isinstance(timm_config, dict) else {}
        mean = _triple(content.get("image_mean", config.get("mean")))
        std = _triple(content.get("image_std", config.get("std")))
        if mean and std and content.get("do_normalize", True):
            return mean, std
    return None, None


def _triple(values: Any) -> tuple[float, float, float] | None:
    if isinstance(values, (list, tuple)) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values):
        return float(values[0]), float(values[1]), float(values[2])
    return None


# From their names to ours ----------------------------------------------------------------------------------


class _Network:
    """The tensors of the module that is to be filled.

    Attributes:
        tensors: by name.
        wanted: names that must be filled: parameters, and the learned ones of the buffers.
        names: canonical name -> name.
        stem: name of the first convolution's weight.
    """

    def __init__(self, module: nn.Module) -> None:
        self.tensors = module.state_dict(keep_vars=True)
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        self.wanted = {
            name
            for name, tensor in self.tensors.items()
            if tensor.is_floating_point() and (name in parameters or name.rpartition(".")[2] in _LEARNED)
        }
        if not self.wanted or any(tensor.is_meta for tensor in self.tensors.values()):
            state = "is on the meta device" if self.wanted else "has no weights"
            raise ValueError(f"load_pretrained_weights: the {type(module).__name__} {state}; build it with its weights")
        bare = _without_wrappers(self.tensors)
        self.names = {_dotted(key): name for key, name in bare.items()}
        if len(self.names) < len(bare):
            raise ValueError(
                f"load_pretrained_weights: names of the {type(module).__name__} differ in '_' and '.' alone; rename one"
            )
        self.stem = next((name for name, t in self.tensors.items() if name in self.wanted and t.ndim == 4), "")

    def way(self, key: str, value: Tensor) -> str | None:
        """How `value` can fill the tensor of this canonical name: "" as it is, None not at all."""
        name = self.names.get(key)
        if name is None:
            return None
        return _way_to_fit(name, value.shape, self.tensors[name].shape, name == self.stem)


@dataclass
class _Reading:
    """One way to understand the names of a checkpoint.

    Attributes:
        names: canonical name -> name in the file, for what stands under `prefix`.
        score: wanted tensors that this reading can fill.
    """

    layout: _Layout
    prefix: str
    names: dict[str, str]
    score: int


def _without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Names without wrappers -> names. Where two would become one, the wrappers stay."""
    names = list(names)
    bare = {_WRAPPERS.sub("", name): name for name in names}
    return bare if len(bare) == len(names) else {name: name for name in names}


def _dotted(name: str) -> str:
    """`layers_0.x` is what timm's feature extractors call `layers.0.x`: both become the same."""
    return name.replace("_", ".")


def _best_reading(checkpoint: _Checkpoint, network: _Network) -> _Reading:
    """The layout and prefix under which most wanted tensors are found, by name and by a shape that fits."""

    def fits(key: str, original: str) -> bool:
        wanted = network.names.get(key) in network.wanted
        return wanted and network.way(key, checkpoint.tensors[original]) is not None

    readings = []
    for layout in (*_LAYOUTS, _AS_NAMED):
        for prefix in _prefixes(layout, checkpoint, fits):
            names: dict[str, str] = {}
            for key, original in checkpoint.bare.items():
                if key.startswith(prefix):
                    key = key[len(prefix) :]
                    for pattern, replacement in layout.renames:
                        key = re.sub(pattern, replacement, key)
                    names.setdefault(_dotted(key), original)
            readings.append(_Reading(layout, prefix, names, sum(fits(k, o) for k, o in names.items())))
    return max(readings, key=lambda reading: reading.score)  # of equals the first


def _prefixes(layout: _Layout, checkpoint: _Checkpoint, fits: Callable[[str, str], bool]) -> list[str]:
    """Prefixes under which the names may be of this layout, the shortest first."""
    theirs = checkpoint.bare
    if layout.marks:
        first = layout.marks[0]
        prefixes = {key[: -len(first)] for key in theirs if f".{key}".endswith(f".{first}")}
        found = [p for p in prefixes if all(p + mark in theirs for mark in layout.marks)]
        return sorted((p for p in found if layout.applies(checkpoint, p)), key=lambda p: (len(p), p))
    votes: Counter[str] = Counter({"": 0})
    for key, original in theirs.items():
        parts = key.split(".")
        for i in range(len(parts)):
            if fits(_dotted(".".join(parts[i:])), original):
                votes["".join(f"{part}." for part in parts[:i])] += 1
    return [min(votes, key=lambda p: (-votes[p], len(p), p))]


def _way_to_fit(name: str, theirs: torch.Size, ours: torch.Size, is_stem: bool) -> str | None:
    """How a tensor of one shape can fill one of another: "" as it is, None not at all."""
    if theirs == ours:
        return ""
    if len(theirs) != len(ours):
        return None
    differ = [dim for dim, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b]
    if len(differ) > 1:
        return None
    a, b = theirs[differ[0]], ours[differ[0]]
    if is_stem and differ == [1] and (a, b) == (3, 1):
        return "summed over RGB"
    if name.endswith("relative_position_bias_table") and len(ours) == 2 and differ == [0] and _window(a, b):
        return "resampled"
    if name.endswith("pos_embed") and len(ours) == 3 and differ == [1] and _grid(a, b):
        return "resampled"
    return None


def _side(area: int) -> int:
    """The side of a square, 0 if it is none."""
    side = math.isqrt(max(area, 0))
    return side if side * side == area else 0


def _window(theirs: int, ours: int) -> int:
    """Side of our window, if both tables are of square windows (BEiT's have three further entries); else 0."""
    for extra in (0, 3):
        if _side(theirs - extra) % 2 and _side(ours - extra) % 2:
            return (_side(ours - extra) + 1) // 2
    return 0


def _grid(theirs: int, ours: int) -> tuple[int, int] | None:
    """Side of our grid and number of tokens before it, if both grids are square."""
    for tokens in (1, 0, 2):
        if _side(theirs - tokens) and _side(ours - tokens):
            return _side(ours - tokens), tokens
    return None


def _adapt(value: Tensor, shape: torch.Size) -> Tensor:
    """(O, 3, k, k) -> (O, 1, k, k); ((2v-1)², heads) -> ((2w-1)², heads); (1, t+n², C) -> (1, t+m², C)."""
    if value.ndim == 4:
        return value.sum(dim=1, keepdim=True)

    from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table

    if value.ndim == 2:
        side = _window(value.shape[0], shape[0])
        return resize_rel_pos_bias_table(value, new_window_size=(side, side), new_bias_shape=tuple(shape))
    side, tokens = _grid(value.shape[1], shape[1]) or (0, 0)
    return resample_abs_pos_embed(value, [side, side], num_prefix_tokens=tokens)


@dataclass
class _Plan:
    """What is to be copied, all of it checked: values by our names, and what was done to which or did not fit."""

    values: dict[str, Tensor]
    adapted: dict[str, str]
    misfits: dict[str, str]


def _plan(reading: _Reading, checkpoint: _Checkpoint, network: _Network) -> _Plan:
    plan = _Plan({}, {}, {})
    for key, name in network.names.items():
        if key not in reading.names:
            continue
        original = reading.names[key]
        target, value = network.tensors[name], checkpoint.tensors[original]
        way = network.way(key, value)
        if name not in network.wanted:  # tables and masks are of this network's own geometry, and stay
            if name.endswith("num_batches_tracked") and way == "" and value.dtype == target.dtype:
                plan.values[name] = value
            continue
        if way is None:
            plan.misfits[name] = f"{tuple(value.shape)} in the file, {tuple(target.shape)} here"
            continue
        if not value.is_floating_point():
            raise ValueError(
                f"{checkpoint.source}: tensor {original!r} is of type {value.dtype} where floats are needed; "
                f"give weights that are not quantised"
            )
        if way:
            value = _adapt(value, target.shape)
            plan.adapted[name] = way
        elif reading.layout.bgr and name == network.stem and value.shape[1] == 3:
            value = value.flip(1)
            plan.adapted[name] = "BGR turned into RGB"
        value = value.to(target.dtype)
        if not value.isfinite().all():
            raise ValueError(
                f"{checkpoint.source}: tensor {original!r} holds values that are not finite as {target.dtype}; "
                f"the file is damaged or its training diverged, so use another"
            )
        plan.values[name] = value
    return plan


def _remarks(
    reading: _Reading, checkpoint: _Checkpoint, network: _Network, unexpected: tuple[str, ...]
) -> Iterator[str]:
    """What a user should know who got no error."""
    if reading.prefix:
        yield f"the names in the file stand under {reading.prefix.rstrip('.')!r}"
    if reading.layout.note:
        yield reading.layout.note
    head = checkpoint.tensors.get(reading.names.get("fc.weight", ""))
    if reading.layout.name == "torchvision ResNet" and head is not None and len(head) == _VGGFACE2_IDENTITIES:
        yield "trained on VGGFace2: if they were converted from Caffe they want BGR, and the stem was not turned"
    # All of ours may be filled and mean nothing, as where the file's blocks have squeeze-and-excitation.
    blocks = {block for key in network.names for block in _blocks(key)}
    within = [
        original
        for key, original in reading.names.items()
        if original in unexpected and key.endswith(".weight") and blocks.intersection(_blocks(key))
    ]
    if within:
        yield f"another architecture? Blocks of the file that were used have no place here for {some(within)}"


def _blocks(name: str) -> list[str]:
    """`layer1.0.conv1.weight` lies in the block `layer1.0`."""
    return [name[: found.end()] for found in re.finditer(r"\.\d+(?=\.)", name)]


__all__ = ["WeightsReport", "load_pretrained_weights", "read_state_dict"]
