"""What a configuration's method may be called: the paper's name for all of it, a row of its tables, or neither."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from .._auto import METHODS, config_class
from ..evaluation.markdown import code, escape

#: Rows of a paper's tables in which nothing of the paper's own takes part, by what they are.
BASELINES: dict[str, dict[str, str]] = {
    "mek": {
        "Table 6: baseline": "plain cross-entropy",
        "baseline: class-balanced loss": "class-balanced cross-entropy",
        "baseline: EAC": "EAC",
    },
    "hsac": {"Table 1, row 1: L_ce": "plain cross-entropy"},
    "neural_resizer": {"Table 3: CE, vanilla": "plain cross-entropy"},
    "multires": {"baseline: one resolution": "class-balanced cross-entropy"},
}
# Facts of the training set, and what a card says of the network anyway.
_NO_SETTINGS = {
    "class_counts", "label_prior", "landmark_weights", "image_size", "grayscale", "backbone", "backbone_kwargs",
}  # fmt: skip


def describe_method(config: Mapping[str, Any]) -> tuple[str, str]:
    """(name, what it is), as Markdown that is safe.

    The switches are the fields that the method's `ablations` override. All at their defaults, it is the method. At the
    values of a row of the tables, it is that row (or the baseline that the row is). Otherwise it is the method "with
    changed switches", and they are listed. Rows that name a backbone count with that backbone only. Any other setting
    that is not the default is listed behind.

    Args:
        config: a configuration's fields, none left out. A `model_type` that is not ours is its own name.
    """
    method = str(config["model_type"])
    if method not in METHODS:
        return escape(method), "a method that this version of hf-fer does not know"
    cls = config_class(method)
    name = METHODS[method][0].removesuffix("Config")
    summary = (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.name in cls.method_fields()}
    switches = {field for overrides in cls.ablations.values() for field in overrides} - {"backbone"}
    changed = {field for field in defaults if _plain(config[field]) != _plain(defaults[field])} - _NO_SETTINGS
    rows = [
        row
        for row, overrides in cls.ablations.items()
        if all(_plain(config[field]) == _plain({**defaults, **overrides}[field]) for field in {*switches, *overrides})
    ]
    described = _listed(sorted(changed & switches), config, defaults)
    baselines = BASELINES.get(method, {})
    if not changed & switches:
        title, detail = name, summary
    elif known := next((row for row in rows if row in baselines), None):
        title = baselines[known]
        detail = (
            f"run by the code of {name} with nothing of {name}'s own (there: “{escape(known)}”), so this is a baseline "
            f"and not {name}; {described}"
        )
    elif rows:
        title = f"{name}, {escape(rows[0])}"
        detail = f"a row of its paper's comparisons, not {name} as a whole: {described}"
    else:
        title, detail = f"{name} with changed switches", f"no row of its paper's tables: {described}"
    if others := sorted(changed - switches):
        detail += f". Other settings than the defaults: {_listed(others, config, defaults)}"
    return title, detail


def _listed(fields: Iterable[str], config: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    def value(of: Mapping[str, Any], field: str) -> str:
        return json.dumps(_plain(of[field]), ensure_ascii=False, default=str)

    return ", ".join(f"{code(f'{f}: {value(config, f)}')} (default {code(value(defaults, f))})" for f in fields)


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return [*value] if isinstance(value, tuple) else value
