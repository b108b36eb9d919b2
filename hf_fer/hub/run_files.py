"""What a card is made from: config, report and recipe of a folder, read without trusting them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._auto import METHODS, config_class
from ..errors import FerError
from ..evaluation.markdown import shorten

_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class RunFiles:
    """A run folder's files, or of a plain `save_pretrained` folder the config alone.

    Attributes:
        folder: where they lie.
        config: `config.json`, the defaults that it leaves out put back.
        recipe, report: `recipe.yaml` and `report.json`; both None where nothing is known of a training.
    """

    folder: Path
    config: dict[str, Any]
    recipe: dict[str, Any] | None
    report: dict[str, Any] | None


def read_run_files(run_or_report: str | Path) -> RunFiles:
    """Reads a run folder, a `save_pretrained` folder of one of our models, or the folder of the report that is named.

    Raises:
        FerError: a file is missing or damaged; or the folder is no run and its model none of ours.
    """
    given = Path(run_or_report)
    folder = given if given.is_dir() or given.suffix != ".json" else given.parent
    config = _with_defaults(_read_json(folder / "config.json"))
    report = given if folder != given else folder / "report.json"
    if folder == given and not report.exists() and not (folder / "recipe.yaml").exists():
        if str(config.get("model_type")) not in METHODS:
            raise FerError(
                f"{folder} holds neither a run nor one of our models: its config.json says model_type "
                f"{shorten(repr(config.get('model_type')), 60)}; cards are for {', '.join(METHODS)}."
            )
        return RunFiles(folder, config, None, None)
    return RunFiles(folder, config, _read_recipe(folder / "recipe.yaml"), _read_json(report))


def _with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """A saved config holds only what differs from its class: this puts the rest back."""
    method = str(config.get("model_type"))
    if method not in METHODS:
        return config
    fields = dataclasses.fields(config_class(method))
    return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING} | config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise FerError(f"{path} cannot be read ({error}); a card needs the files of a finished run.") from error
    if not isinstance(content, dict):
        raise FerError(f"{path} holds a {type(content).__name__}, not an object; use the file of a finished run.")
    return content


def _read_recipe(path: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # a few lines of them can stand for more values than memory holds
                raise yaml.YAMLError("it has aliases, which no recipe of ours has")
            return super().compose_node(parent, index)

    try:
        content = yaml.load(_text(path), Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise FerError(
            f"{path} cannot be read ({shorten(error, 200)}); a card needs the files of a finished run."
        ) from error
    if not isinstance(content, Mapping):
        raise FerError(f"{path} holds no `key: value` lines; use the recipe of a finished run.")
    return {str(key): value for key, value in content.items()}


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES >> 20} MiB")
    return data.decode("utf-8")
