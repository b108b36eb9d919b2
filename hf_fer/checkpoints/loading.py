"""From a name to a classifier that is ready to answer: folder, Hub id, or the checkpoint inside the package."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._auto import METHODS
from ..errors import FerError
from . import checks
from .checks import first_sentence

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

DEFAULT_MODEL = "default"
"""The name of the checkpoint that comes inside the package; `default-<method>` are the small ones of the methods."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def load_classifier(
    model: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    processor: BaseImageProcessor | None = None,
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load an image classifier and its image processor, ready to predict.

    The weights are read from safetensors alone, never from a pickle, and what the files say is checked before
    anything is built of it (`checks`): a checkpoint from strangers is refused or harmless.

    Args:
        model: a checkpoint folder, a Hub id, None or "default" for the checkpoint inside the package, or
            "default-<method>" for another one of `embedded_models`. A folder is read without any network access, and
            wins over a Hub id of the same name.
        device: a torch device; None takes CUDA where there is one, else the CPU.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: let the checkpoint bring Python code and run it. Our own models never need it.
        processor: an image processor to use in place of the saved one.

    Returns:
        The model (eval mode, float32, on the device) and its processor.

    Raises:
        FerError: no such folder or repository, an incomplete, damaged or hostile checkpoint, a model that is not
            an image classifier or whose classification head was never trained, or a device that is not there.
    """
    import torch

    source, local = resolve_model(model)
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    try:
        where = torch.device(where)
        torch.empty(0, device=where)
    except Exception as error:  # RuntimeError, AssertionError or NotImplementedError, depending on the backend
        raise FerError(f"device {device!s} cannot be used ({first_sentence(error)}); try --device cpu") from error

    if local:
        folder = Path(source)
        said = checks.check_config(folder, source)
    else:
        folder, said = _fetch(source, revision, trust_remote_code)
    if processor is None:
        checks.check_processor(folder, said, source, own_code=trust_remote_code)
    # On the Hub another client may have pushed new weights beside an old list, and whoever loads cannot mend that.
    weights = checks.read_weights(folder, source, as_released=local)

    # What was checked is what is read. Code of the checkpoint's own may want other files of its repository.
    hub: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    place = os.fspath(folder)
    if trust_remote_code and not local:
        place, hub = source, {"trust_remote_code": True, "revision": folder.name}
    config = _load_config(source, place, hub)
    checks.check_labels(config.id2label, source)
    network = _load_weights(source, place, config, weights, hub)
    processor = processor or _load_processor(source, place, hub)
    network.name_or_path = network.config._name_or_path = source
    if not local:
        network.config._commit_hash = folder.name  # transformers knows a path only; records name the commit
    # Channels last: the layout convolutions are fastest in, on CPUs and GPUs alike.
    return network.to(where, memory_format=torch.channels_last).eval(), processor


def embedded_model_path(method: str | None = None) -> str:
    """Folder of a checkpoint that comes inside the package; any `from_pretrained` of transformers takes it.

    Args:
        method: None for the default, else the small checkpoint of a method, such as "hsac".

    Raises:
        FerError: an installation without it, or no such method.
    """
    inside = _embedded()
    folder = inside.get(f"{DEFAULT_MODEL}-{method}" if method else DEFAULT_MODEL)
    if folder is None:
        listed = ", ".join(name.partition("-")[2] for name in inside if name != DEFAULT_MODEL) or "none"
        raise FerError(f"no checkpoint of {method!r} comes inside the package; there are those of {listed}")
    if not (folder / "config.json").is_file():
        raise FerError(f"the checkpoint inside the package is missing ({folder}); reinstall hf-fer or name a model")
    return str(folder)


def embedded_models() -> list[str]:
    """Names of the checkpoints inside the package: "default", and "default-<method>" for the methods that have one."""
    return list(_embedded())


def embedded_name(folder: str | os.PathLike[str]) -> str | None:
    """Which of `embedded_models` lies in a folder; None for any other folder."""
    where = Path(folder).resolve()
    return next((name for name, place in _embedded().items() if place == where), None)


def _embedded() -> dict[str, Path]:
    """Folders by name. The default's may be missing: then the installation is broken, which is for others to say."""
    assets = Path(__file__).resolve().parent.parent / "assets"
    small = {f"{DEFAULT_MODEL}-{method}": assets / method for method in METHODS}
    return {DEFAULT_MODEL: assets, **{n: folder for n, folder in small.items() if (folder / "config.json").is_file()}}


def resolve_model(model: str | os.PathLike[str] | None) -> tuple[str, bool]:
    """Decide what a model argument means.

    Returns:
        (folder or Hub id, whether it is a folder).

    Raises:
        FerError: neither a checkpoint folder nor something that can be a Hub id.
    """
    name = DEFAULT_MODEL if model is None else os.fspath(model)
    if name in _embedded():
        return embedded_model_path(name.partition("-")[2] or None), True
    if not name:
        raise FerError("'': no such folder; an empty name names no model")
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FerError(f"{name}: not a checkpoint folder, it has no config.json")
        return name, True
    if path.exists():
        raise FerError(f"{name}: a file; name the checkpoint folder that holds config.json and model.safetensors")
    if not _HUB_ID.fullmatch(name):
        raise FerError(f"{name!r}: no such folder, and not a Hub id of the form owner/name")
    return name, False


def _fetch(source: str, revision: str | None, own_code: bool) -> tuple[Path, dict[str, Any]]:
    """Bring a checkpoint from the Hub, its weights only once its config.json has been looked at.

    Returns:
        The folder in the Hub's cache, named by the commit, and the content of config.json.
    """
    small = [checks.CONFIG, *checks.PROCESSORS, checks.INDEX, checks.RELEASE, "calibration.json"]
    folder = _download(source, revision, [*small, "*.py"] if own_code else small)
    config = checks.check_config(folder, source)
    # By commit: the branch may have moved on in the meantime. An index beside a whole file is of an earlier save.
    _download(source, folder.name, [checks.WEIGHTS])
    if not (folder / checks.WEIGHTS).exists() and (shards := checks.shard_names(folder, source)):
        _download(source, folder.name, shards)
    return folder, config


def _download(source: str, revision: str | None, patterns: list[str]) -> Path:
    """The files of a Hub repository that match, in the cache; from it alone where there is no network."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except Exception as error:  # of the Hub, of the network, and of names that lead out of the cache
        reasons = (  # subclasses first
            (errors.GatedRepoError, "it is gated: accept its terms there and run `hf auth login`"),
            (errors.RepositoryNotFoundError, "none has that name, or it is private"),
            (errors.RevisionNotFoundError, f"it has no revision {revision}"),
        )
        reason = next((text for kind, text in reasons if isinstance(error, kind)), first_sentence(error))
        reason = re.sub(r"\?[^\s'\"]+", "", reason)
        # From None: addresses that the Hub has signed stand in the errors behind this one.
        raise FerError(f"{source}: no such folder here, and the Hub gave no such model ({reason})") from None


def _load_config(source: str, place: str, hub: dict[str, Any]) -> Any:
    """Read config.json and make sure that it describes an image classifier."""
    from transformers import AutoConfig, AutoModelForImageClassification

    import hf_fer  # noqa: F401  (registers our models, whichever way this module was reached)

    try:
        config = AutoConfig.from_pretrained(place, **hub)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise _code_error(source) from error
        raise checks.config_error(source, first_sentence(error)) from error
    remote = hub["trust_remote_code"] and "AutoModelForImageClassification" in (getattr(config, "auto_map", None) or {})
    if type(config) not in AutoModelForImageClassification._model_mapping and not remote:
        raise FerError(f"{source}: a {config.model_type} model, which is not an image classifier")
    return config


def _load_weights(
    source: str, place: str, config: Any, weights: checks.Weights, hub: dict[str, Any]
) -> PreTrainedModel:
    """Load the weights and refuse a checkpoint that leaves part of the model random."""
    import torch
    from transformers import AutoModelForImageClassification

    try:
        with checks.bounded_construction(weights, source):
            model, report = AutoModelForImageClassification.from_pretrained(
                place, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **hub
            )
    except FerError:
        raise
    except Exception as error:
        raise checks.weights_error(source, first_sentence(error)) from error
    # A batch-norm counter is absent from old checkpoints and changes no answer.
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("num_batches_tracked"))
    if missing:
        raise FerError(
            f"{source}: not a trained image classifier, the checkpoint lacks {len(missing)} weights"
            f" such as {missing[-1]}"
        )
    checks.check_values(model, weights, source)
    return model


def _load_processor(source: str, place: str, hub: dict[str, Any]) -> BaseImageProcessor:
    from transformers import AutoImageProcessor
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(place, **hub)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise _code_error(source) from error
        raise checks.processor_error(source, first_sentence(error)) from error
    if not isinstance(processor, BaseImageProcessor) and not hub["trust_remote_code"]:
        raise checks.processor_error(source, f"a {type(processor).__name__} is no image processor")
    return processor


def _code_error(source: str) -> FerError:
    return FerError(f"{source}: brings its own Python code; read it, then allow it with --trust-remote-code")
