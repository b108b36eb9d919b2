"""A training recipe: one flat YAML file whose every key is also a flag."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import shlex
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from ..data import DATASETS
from ..data.augmentation import Augmentation
from ..errors import FerError
from ..models.weight_files import existing_path
from ..repo_names import check_repo_name

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}", re.ASCII)


@dataclass
class Recipe(Augmentation):
    """Everything about a run but the method's own configuration, which sits in `model`.

    Args:
        output_dir: the run folder; it must be new or empty unless the run is resumed.
        dataset: a name for `load_fer_dataset`: a dataset of ours, a prepared folder, a Hub id.
        data_root: the raw download, for datasets that need one.
        dataset_options: options of that dataset, such as `{label_rule: majority, classes: 8}`.
        train_split, validation_split, test_split: names of the splits.
        validation_share: share of the training split to set aside and select on, for data without a validation split
            of their own; 0 takes `validation_split`.
        test_share: as `validation_share`, of all that is there, to report on; 0 takes `test_split`.
        hold_out_by: "image" takes these shares of every class, "group" whole videos, subjects or characters.
        imbalance_factor: thin the training split out until its largest class is so many times its smallest
            (`make_imbalanced`); 1 leaves it as it is.
        label_noise: share of the training labels to move to another class (`inject_label_noise`).
        data_seed: of the shares set aside, the thinning out and the label noise; apart from `seed`, so that runs of
            several seeds share their data.
        soft_targets: train on the vote distribution of each image instead of its label.
        sampling: "shuffle" draws every image once an epoch, "class_balanced" every class equally often,
            "group_balanced" up to `images_per_group` of each group and `images_per_class` of each class from those
            (GReFEL's data refinement; where nobody knows the groups, every image is one).
        images_per_group, images_per_class: of "group_balanced".
        resize_size: bring the shorter side of an image to so many px; training crops `image_size` out at a random
            place, everything else in the middle. null: resize to `image_size` at once.
        in_memory: decode all images once (False: at every visit, in `num_workers` processes; null: once, if a
            split takes at most 4 GiB then, over the processes of a machine).
        num_workers: loader processes.
        backbone_weights: pretrained weights to start from: a timm name, a Hub repository or a file, as for
            `load_backbone_weights`; null starts from scratch.
        image_mean, image_std: normalisation, three numbers each of pixels in [0, 1]; null: what `backbone_weights`
            were trained with where that is known, else 0.5 and 0.25.
        freeze_batch_norm: batch normalisation keeps the statistics it has, as in eval mode; for small batches.
        epochs: passes over the training split.
        patience: stop after so many validations without a better one; 0 never stops early.
        batch_size: images per process and step.
        gradient_accumulation: steps per optimiser update.
        optimizer: "adam", "adamw" or "sgd".
        learning_rate: of the backbone; `head_lr_multiplier` times that elsewhere.
        weight_decay: decoupled for adamw, L2 for the others.
        decay_norms_and_biases: apply it to one-dimensional parameters too.
        momentum, beta2: SGD's momentum, or Adam's β1 and β2.
        schedule: "constant", "cosine", "exponential" (× lr_decay per epoch) or "step" (× lr_decay per lr_step_epochs).
        lr_decay, lr_step_epochs, min_lr_ratio, warmup_epochs: of the schedule.
        gradient_clip: largest gradient norm; 0 does not clip.
        loss_limit: a loss above it counts as exploded and stops the run, as one that is not finite does.
        ema_decay: exponential moving average of the weights, evaluated and saved instead of them; 0 for none.
        mixed_precision: "no", "fp16" or "bf16"; null leaves it to `accelerate launch`.
        channels_last: memory format of images and weights.
        compile: torch.compile the model.
        activation_checkpointing: compute the backbone's activations twice instead of keeping them: larger batches on a
            GPU, at about a third more time. (Batch normalisation then sees every batch twice.)
        cpu_threads: threads of each process; null shares the cores out among the processes (`accelerate launch`
            alone would leave every process one). Sums depend on it in their last bit.
        seed: of initialisation, order, augmentation and dropout.
        eval_resolutions: down-sampling factors of the validation and test reports, the first of them 1; they count
            from the images' own sides.
        eval_reference_side: count these factors from so many px instead: HSAC's protocol takes 224 "regardless of the
            original image size".
        select_by: which validation figure picks the best epoch: "accuracy" or "mean_class_accuracy", at
            factor 1 or, with the suffix "_over_resolutions", averaged over `eval_resolutions`.
        eval_batch_size: images per evaluation batch.
        validate_every: epochs between validations; the last epoch is always validated.
        checkpoint_every: write a resumable checkpoint every so many updates (one is written after each epoch too).
        keep_checkpoints: how many of them stay.
        log_every: updates between log entries; several processes also heed SIGTERM only then.
        tracker: an Accelerate tracker's name, such as tensorboard, trackio, wandb or mlflow, or "none".
        resume: go on from the newest checkpoint in output_dir.
        diagnose: measure the method's own figures and draw the map of the embeddings on the test split, after the
            training; false saves a sweep of short runs that time.
        half_precision_export: save the final weights in float16 (they load as float32).
        license: of the weights, as the Hub writes it (`apache-2.0`, `cc-by-nc-4.0`), for the card; yours to choose,
            within what the licences of the data and of the weights to start from allow. null: not said.
        push: push the finished run to this repository of the Hub (`owner/name`, or a name of your own), with the token
            of `hf auth login` or HF_TOKEN; null pushes nothing. The written recipe.yaml has no such key: who repeats
            the run does not push.
        push_private: into a private repository only; false makes a new one public.
    """

    output_dir: str = ""
    dataset: str = ""
    data_root: str | None = None
    dataset_options: dict[str, Any] = field(default_factory=dict)
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str = "test"
    validation_share: float = 0.0
    test_share: float = 0.0
    hold_out_by: Literal["image", "group"] = "image"
    imbalance_factor: float = 1.0
    label_noise: float = 0.0
    data_seed: int = 0
    soft_targets: bool = False
    sampling: Literal["shuffle", "class_balanced", "group_balanced"] = "shuffle"
    images_per_group: int = 512
    images_per_class: int = 500
    resize_size: int | None = None
    in_memory: bool | None = None
    num_workers: int = 0
    backbone_weights: str | None = None
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    freeze_batch_norm: bool = False
    epochs: int = 60
    patience: int = 0
    batch_size: int = 32
    gradient_accumulation: int = 1
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-4
    head_lr_multiplier: float = 1.0
    weight_decay: float = 0.0
    decay_norms_and_biases: bool = True
    momentum: float = 0.9
    beta2: float = 0.999
    schedule: Literal["constant", "cosine", "exponential", "step"] = "constant"
    lr_decay: float = 0.9
    lr_step_epochs: float = 10.0
    min_lr_ratio: float = 0.0
    warmup_epochs: float = 0.0
    gradient_clip: float = 0.0
    loss_limit: float = 1e6
    ema_decay: float = 0.0
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    channels_last: bool = True
    compile: bool = False
    activation_checkpointing: bool = False
    cpu_threads: int | None = None
    seed: int = 0
    eval_resolutions: list[float] = field(default_factory=lambda: [1.0])
    eval_reference_side: int | None = None
    select_by: Literal[
        "accuracy",
        "mean_class_accuracy",
        "accuracy_over_resolutions",
        "mean_class_accuracy_over_resolutions",
    ] = "accuracy"
    eval_batch_size: int = 256
    validate_every: int = 1
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    log_every: int = 20
    tracker: str = "tensorboard"
    resume: bool = False
    diagnose: bool = True
    half_precision_export: bool = False
    license: str | None = None
    push: str | None = None
    push_private: bool = True
    model: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least = {
            "epochs": 1,
            "batch_size": 1,
            "eval_batch_size": 1,
            "validate_every": 1,
            "gradient_accumulation": 1,
            "keep_checkpoints": 1,
            "log_every": 1,
            "degrade_max": 1,
            "images_per_group": 1,
            "images_per_class": 1,
            "imbalance_factor": 1,
        }
        not_negative = (
            "rotation",
            "scale",
            "weight_decay",
            "warmup_epochs",
            "gradient_clip",
            "num_workers",
            "checkpoint_every",
            "seed",
            "data_seed",
            "patience",
        )
        positive = ("learning_rate", "head_lr_multiplier", "lr_decay", "lr_step_epochs", "loss_limit")
        shares = (
            "flip",
            "translation",
            "brightness",
            "contrast",
            "saturation",
            "random_grayscale",
            "erasing",
            "degrade",
            "min_lr_ratio",
            "label_noise",
        )
        below_one = ("ema_decay", "momentum", "beta2", "validation_share", "test_share")
        for name, bound in (*at_least.items(), *((n, 0) for n in not_negative)):
            self._check(name, getattr(self, name) >= bound, f"at least {bound}")
        for name in positive:
            self._check(name, 0 < getattr(self, name) < math.inf, "positive")
        for name in shares:
            self._check(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in below_one:
            self._check(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self._check("degrade_law", self.degrade_law in ("log_uniform", "uniform"), "'log_uniform' or 'uniform'")
        self._check("hue", 0 <= self.hue <= 0.5, "in [0, 0.5]")
        self._check("imbalance_factor", self.imbalance_factor < math.inf, "finite")
        if self.label_noise:
            self._check("label_noise", not self.soft_targets, "0 with soft_targets, which do not look at the labels")
        for name in ("image_mean", "image_std"):
            values, least = getattr(self, name), 0 if name == "image_mean" else 1e-6
            valid = values is None or (len(values) == 3 and all(least <= value < math.inf for value in values))
            self._check(name, valid, "three numbers of pixels in [0, 1], or null")
        self._check("dataset", self.dataset != "", "the name of a dataset")
        self._check("output_dir", self.output_dir != "", "a folder")
        factors = self.eval_resolutions
        different = len({f"{factor:g}" for factor in factors}) == len(factors) > 0
        valid = different and factors[0] == 1 and all(1 <= factor < math.inf for factor in factors)
        self._check("eval_resolutions", valid, "different factors of at least 1, the first of them 1")
        if self.push is not None:
            check_repo_name(self.push)
        named = self.license is None or (isinstance(self.license, str) and bool(_LICENSE.fullmatch(self.license)))
        self._check("license", named, "a licence as the Hub writes it, such as apache-2.0, or null")
        for name in ("cpu_threads", "eval_reference_side", "resize_size"):
            self._check(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1, or null")

    def _check(self, name: str, valid: bool, allowed: str) -> None:
        if not valid:
            raise FerError(f"Recipe key {name} must be {allowed}, got {getattr(self, name)!r}.")

    @property
    def public_dataset(self) -> str:
        """`dataset`, of a prepared folder `./` and its name: no data set of ours or of the Hub is called that."""
        return _public_dataset(self.dataset)

    def to_yaml(self) -> str:
        """The recipe as flat YAML, without what `public_recipe` leaves out."""
        import yaml

        flat = dataclasses.asdict(self)
        flat.update(flat.pop("model"))
        return yaml.safe_dump(public_recipe(flat), sort_keys=True, allow_unicode=True)

    def push_command(self) -> str:
        """What pushes the finished run as `push` and `push_private` say, for a shell."""
        visibility = "--private" if self.push_private else "--public"
        return shlex.join(["hf-fer", "push", self.output_dir, self.push or "OWNER/NAME", visibility])


def public_recipe(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A flat recipe as it may be pushed: what was done, not where (`output_dir`, `data_root`, `push`) nor in how many
    goes, and by whose token.

    Of a prepared folder, of files with pretrained weights and of whatever lies somewhere on this machine the name alone
    is left.
    """
    places = ("output_dir", "data_root", "resume", "push", "push_private")
    public = {key: value for key, value in flat.items() if key not in places}
    if "dataset_options" in public:
        public["dataset_options"] = _without_places(public["dataset_options"])
    if isinstance(public.get("dataset"), str):
        public["dataset"] = _public_dataset(public["dataset"])
    for weights in ("backbone_weights", "landmark_weights"):
        if isinstance(value := public.get(weights), str):
            path = existing_path(value)
            public[weights] = _without_places(value) if path is None else path.resolve().name
    return public


def _public_dataset(name: str) -> str:
    folder = None if name in DATASETS else existing_path(name)
    if folder is not None:
        return f"./{folder.resolve().name}"
    public = _without_places(name)
    return name if public == name else f"./{public}"


def _without_places(value: Any) -> Any:
    """`value` with the name alone of each absolute path in it, and without the keys that say whose machine it was."""
    if isinstance(value, dict):
        private = ("cache_dir", "token")
        return {key: _without_places(item) for key, item in value.items() if key not in private}
    if isinstance(value, (list, tuple)):
        return [*map(_without_places, value)]
    if isinstance(value, str):
        path = PureWindowsPath(value)
        # A name may begin with "~" where it is nobody's home.
        if path.is_absolute() or value.startswith("/") or os.path.expanduser(value) != value:  # noqa: PTH111
            return path.name
    return value


def load_recipe(config_class: type, path: str | Path | None, flags: list[str]) -> Recipe:
    """Reads a YAML file and flags over it.

    Keys are the fields of `Recipe` and those of the method's configuration; the latter land in `Recipe.model`.

    Args:
        config_class: the method's `PreTrainedConfig` subclass.
        path: a YAML file, or None for the defaults.
        flags: `--key value` or `--key=value`; values are YAML; a bare `--key` is true.

    Raises:
        FerError: no such file, no valid YAML, an unknown key (with the nearest valid one), a wrong type or value.
    """
    values = {**_read_yaml(path), **_parse_flags(flags)}
    recipe_types = typing.get_type_hints(Recipe)
    own_fields = [f.name for f in dataclasses.fields(Recipe) if f.name != "model"]
    model_types = method_fields(config_class)
    model_fields = list(model_types)
    recipe_values: dict[str, Any] = {}
    model_values: dict[str, Any] = {}
    for name, value in values.items():
        if name in own_fields:
            recipe_values[name] = _typed(name, value, recipe_types[name])
        elif name in model_fields:
            model_values[name] = _typed(name, value, model_types[name])
        else:
            near = difflib.get_close_matches(str(name), [*own_fields, *model_fields], 1)
            where = f" in {path}" if path else ""
            hint = f"did you mean {near[0]}?" if near else f"valid: {', '.join(sorted(own_fields + model_fields))}."
            raise FerError(f"Unknown recipe key {name!r}{where}; {hint}")
    return Recipe(**recipe_values, model=model_values)


def method_fields(config_class: type) -> dict[str, Any]:
    """The fields a method's configuration adds to transformers' own, with their types."""
    annotations = {}
    for cls in config_class.__mro__:
        for name in set(vars(cls).get("__annotations__", {})) & config_class.method_fields():
            # Not get_type_hints of the class itself: transformers' annotations name modules it imports for type
            # checkers only.
            own = type("Own", (), {"__annotations__": {name: cls.__annotations__[name]}, "__module__": cls.__module__})
            annotations.setdefault(name, typing.get_type_hints(own)[name])
    return annotations


def _read_yaml(path: str | Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FerError(f"No recipe file {path}; the ones shipped are in recipes/configs.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FerError(f"Recipe file {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise FerError(f"Recipe file {path} must hold `key: value` lines, got {type(content).__name__}.")
    return content


def _parse_flags(flags: list[str]) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = {}
    position = 0
    while position < len(flags):
        flag = flags[position]
        position += 1
        if not flag.startswith("--"):
            raise FerError(f"Expected a flag such as --epochs 10, got {flag!r}.")
        name, equals, text = flag[2:].partition("=")
        if not equals:
            if position < len(flags) and not flags[position].startswith("--"):
                text = flags[position]
                position += 1
            else:
                text = "true"
        try:
            values[name.replace("-", "_")] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise FerError(f"The value of --{name} is no valid YAML: {' '.join(str(error).split())}") from error
    return values


def _typed(name: str, value: Any, kind: Any) -> Any:
    """`value` if it is of the annotated type; integers pass for floats, and '1e-4' (a string in YAML 1.1) too."""
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _typed(name, value, next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        if value is False and "no" in arguments:  # YAML 1.1 reads a bare no as false
            value = "no"
        if value not in arguments:
            raise FerError(f"Recipe key {name} must be one of {', '.join(map(str, arguments))}, got {value!r}.")
        return value
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise FerError(f"Recipe key {name} must be a list, got {value!r}.")
        return [_typed(name, item, arguments[0]) for item in value]
    kind = origin or kind
    if kind is float:
        try:
            if not isinstance(value, bool):
                return float(value)
        except (TypeError, ValueError):
            pass
    elif kind is str and isinstance(value, (str, Path)):
        return str(value)
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    wanted = {float: "a number", int: "a whole number", bool: "true or false", str: "text", dict: "a mapping"}
    raise FerError(f"Recipe key {name} must be {wanted.get(kind, kind)}, got {value!r}.")
