"""From a run folder to a whole model repository: files of known kinds only, and the code that hf_fer itself runs."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._auto import METHODS, config_class, model_class
from ..checkpoints.checks import Weights, bounded_construction, check_config, config_error, first_sentence
from ..digests import git_sha1, sha256
from ..errors import FerError
from ..evaluation.systems import digest_of
from ..evaluation.whole_files import shown
from ..inference.calibration import CALIBRATION, read_calibration_file
from .card import PLOTS, build_card
from .code import code_hashes
from .folder import check_link
from .run_files import read_run_files

#: Lists every other file of a release: what was pushed, and what a later release may replace or delete.
MANIFEST = "release.json"
CARD = "README.md"

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
#: Files that are loaded instead of, or besides, those of a release where somebody else has put them beside it.
LOADED_FIRST = frozenset({_WEIGHTS, _INDEX, "processor_config.json", "adapter_config.json"})
_RECIPE = "recipe.yaml"
_OF_A_RUN = ("report.json", _RECIPE, "metrics.jsonl")
_JSON_LIMIT = 64 << 20  # bytes; the largest honest one is the index of many shards


def build_release(source: str | os.PathLike[str], out: str | os.PathLike[str], *, repo_id: str | None = None) -> Path:
    """Writes the folder `out`, which holds all that belongs into the model's repository, and nothing else.

    That is `config.json`, the weights (safetensors, in one file or in shards), `preprocessor_config.json`, the model's
    code, the card, `release.json`, `calibration.json` if there is one, and of a training run `report.json`,
    `recipe.yaml`, `metrics.jsonl` and the plots of `card.PLOTS`. Pickles, checkpoints, logs and hidden files stay
    behind. The code is that of the installed hf_fer. What tells of this machine is left out of `config.json`
    (`_name_or_path`) and of the recipe (`training.recipe.public_recipe`); where that changes the model's digest,
    `calibration.json` gets the new one.

    Args:
        source: a run folder, or what `save_pretrained` of a model of this package and of its processor wrote; or a
            release, whose card stays as it is if somebody edited it.
        out: a new or empty folder; it gets its name once it is complete.
        repo_id: `owner/name` that it is meant for, which the card names; default: the name of `out`.

    Returns:
        `out`.

    Raises:
        FerError: `source` lacks one of these files, or one is damaged, no file, or a link that leads out of the folder;
            its code is not the installed one's; it is a release that is not as its `release.json` says; `out` is not
            empty; no room.
    """
    return _build(source, out, repo_id, shutil.copyfile)


def link_release(source: str | os.PathLike[str], out: str | os.PathLike[str], *, repo_id: str | None = None) -> Path:
    """`build_release`, but the files that stay as they are may be hard links: for a folder that is only read."""
    return _build(source, out, repo_id, _link_or_copy)


def _build(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    repo_id: str | None,
    copy: Callable[[Path, Path], object],
) -> Path:
    source, out = Path(source), Path(out)
    if not source.is_dir():
        raise FerError(f"{shown(source)} is no folder; name a run folder, or one that save_pretrained wrote.")
    if out.resolve() == source.resolve():
        raise FerError(f"A release of {shown(source)} cannot be built in that folder itself; choose another one.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FerError(f"{shown(out)} is not empty; build the release in a new folder.")
    config = _read_json(source, _CONFIG)
    method = config.get("model_type")
    if not isinstance(method, str) or method not in METHODS:
        raise FerError(
            f"{shown(source / _CONFIG)} has the model_type {json.dumps(method)[:80]}, which is no method of hf_fer "
            f"({', '.join(METHODS)}); such a model cannot be released by it."
        )
    code_of = model_code(method)
    _check_code(source, code_of)
    _check_processor(source)
    edited_card = _edited_card(source)
    copied = {name: _plain_file(source, name) for name in (*_weights(source), _PROCESSOR)}
    for name in (*_OF_A_RUN, *PLOTS):
        if _is_there(source / name):
            copied[name] = _plain_file(source, name)
    written = {_CONFIG: _config(source, config, method)}
    if _RECIPE in copied and (recipe := _recipe(source)) is not None:
        written[_RECIPE] = recipe
        del copied[_RECIPE]
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        try:
            for name, path in {**copied, **code_of}.items():
                copy(path, unfinished / name)
            for name, content in written.items():
                (unfinished / name).write_bytes(content)
            if _is_there(source / CALIBRATION):
                (unfinished / CALIBRATION).write_bytes(_calibration(source, unfinished))
            if edited_card is None:
                text = build_card(unfinished, repo_id or out.resolve().name)
                (unfinished / CARD).write_text(text, encoding="utf-8", newline="\n")
            else:
                copy(edited_card, unfinished / CARD)
            (unfinished / MANIFEST).write_bytes(manifest(listing({path.name: path for path in unfinished.iterdir()})))
            if out.exists():
                out.rmdir()
            unfinished.rename(out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise FerError(
            f"No release can be written to {shown(out)} ({error.strerror or error}); make room, or choose another "
            "place."
        ) from error
    return out


def model_code(method: str) -> dict[str, Path]:
    """The files of the installed hf_fer that a model of `method` is made of, by name: what `save_pretrained` copies."""
    import sys

    from transformers.dynamic_module_utils import get_relative_import_files

    files: dict[str, Path] = {}
    for cls in (config_class(method), model_class(method)):
        first = Path(str(sys.modules[cls.__module__].__file__))
        files |= {path.name: path for path in (first, *map(Path, get_relative_import_files(first)))}
    return dict(sorted(files.items()))


def listing(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Of each file, by its name in the repository: size, SHA-256, and the SHA-1 that git gives to it."""
    return {
        name: {"sha256": sha256(path), "git_sha1": git_sha1(path), "size": path.stat().st_size}
        for name, path in sorted(files.items())
    }


def manifest(listed: Mapping[str, Mapping[str, Any]]) -> bytes:
    """`release.json` of what `listing` found, and of hf_fer's version."""
    from .. import __version__

    return (json.dumps({"hf_fer": __version__, "files": listed}, indent=2) + "\n").encode()


def read_manifest(data: bytes, where: str) -> dict[str, dict[str, Any]]:
    """What a `release.json` lists, as `listing` gives it, but for the digests in it nobody checked.

    Raises:
        FerError: it is none of ours; the sentence begins with `where`.
    """
    try:
        content = json.loads(data)
        listed = content["files"]
        ours = isinstance(content["hf_fer"], str) and all(isinstance(entry, dict) for entry in listed.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        ours = False
    if not ours:
        raise FerError(
            f"{where} has a {MANIFEST} that is none of hf-fer's, which lists in a file of that name what it pushes; "
            "rename that file first."
        )
    return dict(listed)


def is_release_name(name: str) -> bool:
    """Whether a file of that name can be in a release, besides `release.json`."""
    known = {_CONFIG, _PROCESSOR, _WEIGHTS, _INDEX, CALIBRATION, CARD, *_OF_A_RUN, *PLOTS}
    return name in known or bool(_SHARD.fullmatch(name) or re.fullmatch(r"\w+\.py", name, re.ASCII))


# --- checks -------------------------------------------------------------------------------------


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _plain_file(folder: Path, name: str) -> Path:
    """The file of that name, if it is one and lies in the folder."""
    path = folder / name
    if not _is_there(path):
        raise FerError(f"{shown(path)} is missing, and a release needs it; save model and processor there first.")
    check_link(path, folder.resolve())
    if not path.is_file():
        raise FerError(f"{shown(path)} is no file; put the file of that name there.")
    return path


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = _plain_file(folder, name)
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise ValueError(f"larger than {_JSON_LIMIT >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FerError(f"{shown(path)} cannot be read as JSON ({error}); save the model there again.") from error
    if not isinstance(content, dict):
        raise FerError(f"{shown(path)} holds no JSON object; save the model there again.")
    return content


def _weights(source: Path) -> list[str]:
    """Names of the files with the weights: safetensors, which together hold all that the model has."""
    names = [_WEIGHTS]
    if not _is_there(source / _WEIGHTS) and _is_there(source / _INDEX):
        listed = _read_json(source, _INDEX).get("weight_map")
        shards = sorted({*map(str, listed.values())}) if isinstance(listed, dict) else []
        if not shards or not all(map(_SHARD.fullmatch, shards)):
            raise FerError(f"{shown(source / _INDEX)} does not name shards of a model; save the model there again.")
        names = shards
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        path = _plain_file(source, name)
        try:
            with safe_open(path, "np") as opened:  # checks that header and size agree
                held = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise FerError(f"{shown(path)} is damaged ({error}); save the model there again.") from error
        if not held:
            raise FerError(f"{shown(path)} holds no weights; save the model there again.")
        shapes |= held
    _check_complete(source, shapes)
    return names if names == [_WEIGHTS] else [*names, _INDEX]


def _check_complete(source: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises FerError where weights of these shapes are not all of the model that `config.json` describes."""
    import torch

    config = check_config(source, shown(source))
    method = config["model_type"]
    weights = Weights(len(shapes), sum(map(math.prod, shapes.values())), frozenset())
    try:
        with torch.device("meta"), bounded_construction(weights, shown(source)):  # takes no memory
            model = model_class(method)(config_class(method).from_dict(config))
    except FerError:
        raise
    except Exception as error:  # of whatever a constructor does with a wrong value
        raise config_error(shown(source), first_sentence(error)) from error
    needed = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    lacking = [name for name, shape in needed.items() if shapes.get(name) != shape]
    lacking = [name for name in lacking if not name.endswith("num_batches_tracked")]
    if lacking:
        raise FerError(
            f"{shown(source)} lacks {len(lacking)} weight{'s' * (len(lacking) > 1)} such as {lacking[0]} "
            f"{needed[lacking[0]]}, which its {_CONFIG} asks for; save the whole model there again."
        )


def _check_code(source: Path, code_of: Mapping[str, Path]) -> None:
    """Raises FerError where Python files lie in the source that are not those which will be released."""
    from .. import __version__

    for path in source.glob("*.py"):
        _plain_file(source, path.name)
    installed = {name: sha256(path) for name, path in code_of.items()}
    different = sorted(name for name, digest in code_hashes(source).items() if installed.get(name) != digest)
    if different:
        listed = ", ".join(name if name.isprintable() else repr(name) for name in different[:5])
        raise FerError(
            f"{shown(source)} holds code that is not of the model's in hf_fer {__version__} ({listed}); use the "
            "version of hf_fer that made the folder, or remove these files to release the model with the installed "
            "code."
        )


def _check_processor(source: Path) -> None:
    if "auto_map" in _read_json(source, _PROCESSOR):
        raise FerError(
            f"{shown(source / _PROCESSOR)} names code of its own (auto_map), and a release has the model's only; save "
            "a stock image processor of transformers there."
        )


def _edited_card(source: Path) -> Path | None:
    """The card of a release that was built before, if somebody edited it since, or kept another one when it was pushed.

    Raises:
        FerError: another file is missing, new, or differs from what `release.json` lists.
    """
    if not _is_there(source / MANIFEST):
        return None
    listed = read_manifest(_plain_file(source, MANIFEST).read_bytes(), shown(source))
    there = {path.name for path in source.iterdir() if is_release_name(path.name)}
    edited = {name for name in there & {*listed} if sha256(_plain_file(source, name)) != listed[name].get("sha256")}
    changed = sorted(((there ^ {*listed}) | edited) - {CARD})
    if changed:
        raise FerError(
            f"{shown(source)} is not as its {MANIFEST} says ({', '.join(map(shown, changed[:5]))}); build the release "
            f"again, or remove {MANIFEST} to release what is there now."
        )
    return _plain_file(source, CARD) if CARD in edited | (there - {*listed}) else None


# --- contents -----------------------------------------------------------------------------------


def _config(source: Path, config: Mapping[str, Any], method: str) -> bytes:
    """`config.json` that names the code beside it and no place on this machine; as it is, where it does so already."""
    named = {
        "AutoConfig": f"configuration_{method}.{METHODS[method][0]}",
        "AutoModelForImageClassification": f"modeling_{method}.{METHODS[method][1]}",
    }
    public = {name: value for name, value in config.items() if name != "_name_or_path"} | {"auto_map": named}
    if public == config:
        return (source / _CONFIG).read_bytes()
    return (json.dumps(public, indent=2, sort_keys=True) + "\n").encode()


def _recipe(source: Path) -> bytes | None:
    """`recipe.yaml` without what tells of this machine; None where it can stay as it is."""
    import yaml

    from ..training.recipe import public_recipe

    recipe = read_run_files(source).recipe
    if recipe is None or (public := public_recipe(recipe)) == recipe:
        return None
    return yaml.safe_dump(public, sort_keys=True, allow_unicode=True).encode()


def _calibration(source: Path, release: Path) -> bytes:
    """`calibration.json` for the model in `release`, which was made of that in `source` and answers alike.

    Raises:
        FerError: it is damaged, or of another model; better here than where somebody loads the release.
    """
    path = _plain_file(source, CALIBRATION)
    content = read_calibration_file(path)
    before, after = digest_of(source), digest_of(release)
    if content["model_digest"] == after:
        return path.read_bytes()
    if content["model_digest"] == before:
        return (json.dumps(content | {"model_digest": after}, indent=2) + "\n").encode()
    raise FerError(
        f"{shown(path)} was made for another model than the one beside it; make it again with `hf-fer calibrate`, or "
        "remove it."
    )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
