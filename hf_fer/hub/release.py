"""From a run folder to a whole model repository: files of known kinds only, and the code that hf_fer itself runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._auto import METHODS, config_class, model_class
from ..errors import FerError
from ..evaluation.whole_files import shown
from .card import PLOTS, build_card
from .code import code_hashes

#: Lists every other file of a release: what was pushed, and what a later release may replace or delete.
MANIFEST = "release.json"
CARD = "README.md"

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_OF_A_RUN = ("report.json", "recipe.yaml", "metrics.jsonl")
_JSON_LIMIT = 64 << 20  # bytes; the largest honest one is the index of many shards
_CHUNK = 1 << 20


def build_release(source: str | os.PathLike[str], out: str | os.PathLike[str], *, repo_id: str | None = None) -> Path:
    """Writes the folder `out`, which holds all that belongs into the model's repository, and nothing else.

    That is `config.json`, the weights (safetensors, in one file or in shards), `preprocessor_config.json`, the model's
    code, the card, `release.json`, and of a training run `report.json`, `recipe.yaml`, `metrics.jsonl` and the plots
    of `card.PLOTS`. Pickles, checkpoints, logs and hidden files stay behind. The code is that of the installed hf_fer.

    Args:
        source: a run folder, or what `save_pretrained` of a model of this package and of its processor wrote.
        out: a new or empty folder; it gets its name once it is complete.
        repo_id: `owner/name` that it is meant for, which the card names; default: the name of `out`.

    Returns:
        `out`.

    Raises:
        FerError: `source` lacks one of these files, or one is damaged, no file, or a link that leads out of the folder;
            its code is not the installed one's; `out` is not empty; no room.
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
    copied = {name: _plain_file(source, name) for name in (*_weights(source), _PROCESSOR)}
    for name in (*_OF_A_RUN, *PLOTS):
        if _is_there(source / name):
            copied[name] = _plain_file(source, name)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        for name, path in {**copied, **code_of}.items():
            copy(path, unfinished / name)
        (unfinished / _CONFIG).write_bytes(_config(source, config, method))
        text = build_card(unfinished, repo_id or out.resolve().name)
        (unfinished / CARD).write_text(text, encoding="utf-8", newline="\n")
        names = [path.name for path in unfinished.iterdir()]
        (unfinished / MANIFEST).write_bytes(manifest({name: unfinished / name for name in names}))
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    except OSError as error:
        raise FerError(
            f"No release can be written to {shown(out)} ({error.strerror or error}); make room, or choose another "
            "place."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
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


def manifest(files: Mapping[str, Path]) -> bytes:
    """`release.json` of these files, by their names in the repository: hf_fer's version, each size and SHA-256."""
    from .. import __version__

    listed = {name: {"sha256": sha256(files[name]), "size": files[name].stat().st_size} for name in sorted(files)}
    return (json.dumps({"hf_fer": __version__, "files": listed}, indent=2) + "\n").encode()


def read_manifest(data: bytes) -> dict[str, str]:
    """SHA-256 of each file that a `release.json` lists. Whatever is not as `manifest` writes it counts for nothing."""
    try:
        files = json.loads(data)["files"]
        listed = {name: entry["sha256"] for name, entry in files.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    return {name: digest for name, digest in listed.items() if isinstance(digest, str)}


def is_release(folder: str | os.PathLike[str]) -> bool:
    """Whether `build_release` wrote this folder."""
    return _is_there(Path(folder) / MANIFEST)


def release_files(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """The files of a folder that `build_release` wrote, by name, without `release.json`.

    The card may have been edited since.

    Raises:
        FerError: another file is missing, or differs from what `release.json` lists.
    """
    folder = Path(folder)
    listed = read_manifest(_plain_file(folder, MANIFEST).read_bytes()) if is_release(folder) else {}
    known = {_CONFIG, _PROCESSOR, _WEIGHTS, _INDEX, CARD, *_OF_A_RUN, *PLOTS}
    for name in listed:
        if not (name in known or _SHARD.fullmatch(name) or re.fullmatch(r"\w+\.py", name, re.ASCII)):
            raise FerError(f"{shown(folder / MANIFEST)} lists a file that is in no release; build the release again.")
    files = {name: _plain_file(folder, name) for name in listed}
    changed = [name for name, path in files.items() if name != CARD and sha256(path) != listed[name]]
    more = sorted({path.name for path in folder.glob("*.py")} - {*files})
    if changed or more or not {_CONFIG, _PROCESSOR, CARD} <= {*files}:
        what = f" ({', '.join((changed + more)[:5])})" if changed or more else ""
        raise FerError(
            f"{shown(folder)} is not as its {MANIFEST} says{what}; build the release again from the run folder."
        )
    return files


def sha256(path: Path) -> str:
    """Of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# --- checks -------------------------------------------------------------------------------------


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _plain_file(folder: Path, name: str) -> Path:
    """The file of that name, if it is one and lies in the folder."""
    path = folder / name
    if not _is_there(path):
        raise FerError(f"{shown(path)} is missing, and a release needs it; save model and processor there first.")
    if folder.resolve() not in path.resolve().parents:
        raise FerError(f"{shown(path)} is a link that leads out of its folder; put the file itself there.")
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
    """Names of the files with the weights, each of which opens as safetensors."""
    names = [_WEIGHTS]
    if not _is_there(source / _WEIGHTS) and _is_there(source / _INDEX):
        listed = _read_json(source, _INDEX).get("weight_map")
        shards = sorted({*map(str, listed.values())}) if isinstance(listed, dict) else []
        if not shards or not all(map(_SHARD.fullmatch, shards)):
            raise FerError(f"{shown(source / _INDEX)} does not name shards of a model; save the model there again.")
        names = shards
    from safetensors import SafetensorError, safe_open

    for name in names:
        path = _plain_file(source, name)
        try:
            with safe_open(path, "np") as opened:  # checks that header and size agree
                empty = not [*opened.keys()]
        except (OSError, SafetensorError) as error:
            raise FerError(f"{shown(path)} is damaged ({error}); save the model there again.") from error
        if empty:
            raise FerError(f"{shown(path)} holds no weights; save the model there again.")
    return names if names == [_WEIGHTS] else [*names, _INDEX]


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


# --- contents -----------------------------------------------------------------------------------


def _config(source: Path, config: Mapping[str, Any], method: str) -> bytes:
    """`config.json` that names the code beside it; as it is, where it does so already."""
    named = {
        "AutoConfig": f"configuration_{method}.{METHODS[method][0]}",
        "AutoModelForImageClassification": f"modeling_{method}.{METHODS[method][1]}",
    }
    if config.get("auto_map") == named:
        return (source / _CONFIG).read_bytes()
    return (json.dumps({**config, "auto_map": named}, indent=2, sort_keys=True) + "\n").encode()


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
