"""What a sweep runs: grids of values and seeds, all checked before anything starts."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._auto import config_class, model_class
from ..errors import FerError
from .recipe import Recipe, _parse_flags, _read_yaml, load_recipe

ABLATION = "ablation"  # the one grid key that is no recipe key
_NOT_IN_A_GRID = {
    "seed": "say how many with --seeds N",
    "output_dir": "the sweep gives every run a folder of its own",
    "resume": "call the same sweep again, and it goes on",
    "push": "the runs would push over each other",
    "push_private": "a sweep does not push",
    "data_root": "a recipe.yaml does not tell where its data were; sweep over dataset or dataset_options",
}


@dataclass
class Run:
    """One run of a sweep.

    Args:
        overrides: the grid point, as recipe.yaml tells it (no tokens, no paths of weights); of an ablation, the
            row's name.
        seed: the run's seed.
        folder: the run folder.
        flags: what `hf-fer train` gets after CONFIG.
        recipe: what that makes.
        status: "pending", "finished", "failed" or "unfinished" (interrupted).
        error: why it failed, in one sentence.
        report: the run's `report.json`, once it is finished.
    """

    overrides: dict[str, Any]
    seed: int
    folder: Path
    flags: list[str]
    recipe: Recipe
    status: str = "pending"
    error: str | None = None
    report: dict[str, Any] | None = None

    def __str__(self) -> str:
        return ", ".join([*(f"{k}={text_of(v)}" for k, v in self.overrides.items()), f"seed {self.seed}"])


def plan(method: str, config: str, grids: Sequence[str], seeds: int, flags: Sequence[str] = ()) -> list[Run]:
    """The checked runs, all grid points with seed 0 first: an interrupted sweep is a comparison all the same.

    Raises:
        FerError: see `sweep`.
    """
    import yaml

    kind = config_class(method)
    plain = load_recipe(kind, config, [*flags])  # first, so that its errors are not the grid's
    in_file, in_flags = _read_yaml(config), _parse_flags([*flags])
    for where, keys in ((f"in {config}", in_file), ("as a flag", in_flags)):
        if "seed" in keys:
            raise FerError(f"seed stands {where}, but a sweep sets it to 0, 1, …; leave it out, and use --seeds N.")
    if plain.push is not None:
        raise FerError(
            f"The runs of a sweep would push over each other in {plain.push}; leave push out, and push the run that "
            "you choose with `hf-fer push`."
        )
    grid = _parse_grids(grids, kind)
    for key in grid:
        if key in in_flags:
            raise FerError(f"--{key} and --grid {key} contradict each other; leave one of them out.")
    _check_rows(kind, grid, in_flags, plain.model)
    runs: list[Run] = []
    seen: dict[str, str] = {}
    buildable: set[str] = set()
    for seed, values in itertools.product(range(seeds), itertools.product(*grid.values())):
        point = dict(zip(grid, values, strict=True))
        changes = {key: value for key, value in point.items() if key != ABLATION}
        changes.update(kind.ablations[point[ABLATION]] if ABLATION in point else {})
        run_flags = [*flags, *(f"--{key}={flow(value)}" for key, value in changes.items()), f"--seed={seed}"]
        recipe = load_recipe(kind, config, run_flags)
        public = yaml.safe_load(recipe.to_yaml())
        overrides = {key: value if key == ABLATION else public[key] for key, value in point.items()}
        name = ",".join(f"{key}={_file_name(text_of(value))}" for key, value in overrides.items())
        if len(name) > 150:
            name = f"{name[:150]}-{_hash(name)}"
        folder = Path(recipe.output_dir) / name / f"seed-{seed}"
        run_flags.append(f"--output_dir={flow(str(folder))}")
        run = Run(overrides, seed, folder, run_flags, recipe)
        same = seen.setdefault(recipe.to_yaml(), str(run))
        if same != str(run) or any(run.folder == other.folder for other in runs):
            raise FerError(f"The grid asks twice for the same run ({same}; {run}); leave one of the two out.")
        model = json.dumps(recipe.model, sort_keys=True, default=str)
        if model not in buildable:
            _check_model(method, recipe)
            buildable.add(model)
        runs.append(run)
    return runs


def _parse_grids(grids: Sequence[str], kind: type) -> dict[str, list[Any]]:
    import yaml

    grid: dict[str, list[Any]] = {}
    for text in grids:
        key, equals, listed = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise FerError(f"--grid {text}: write it as key=a,b.")
        if key in grid:
            raise FerError(f"--grid {key} is there twice; put all its values into one list, {key}=a,b,c.")
        if key in _NOT_IN_A_GRID:
            raise FerError(f"{key} cannot be in a grid: {_NOT_IN_A_GRID[key]}.")
        if key == ABLATION:
            values = _row_names(listed, kind)
        else:
            try:
                values = yaml.safe_load(f"[{listed}]")
            except yaml.YAMLError:
                values = None
            if not isinstance(values, list):
                raise FerError(f"--grid {text}: the values are no YAML list; quote those that hold , : # [ ] {{ or }}.")
        if not values:
            raise FerError(f"--grid {text}: no values; write {key}=a,b, or leave the grid out.")
        grid[key] = values
    return grid


def _row_names(listed: str, kind: type) -> list[str]:
    """Names of rows, which may hold commas themselves: the longest name that is one wins."""
    rows = kind.ablations
    parts, names = listed.split(",") if listed.strip() else [], []
    while parts:
        lengths = range(len(parts), 0, -1)
        length = next((n for n in lengths if ",".join(parts[:n]).strip() in rows), 0)
        if not length:
            near = [n for n in (1, 2) for n in difflib.get_close_matches(",".join(parts[:n]).strip(), rows, 3, 0.5)]
            hint = f"the nearest are {'; '.join(dict.fromkeys(near))}" if near else f"there are {'; '.join(rows)}"
            raise FerError(f"{kind.__name__} has no ablation row {parts[0].strip()!r}; {hint}.")
        names.append(",".join(parts[:length]).strip())
        parts = parts[length:]
    return names


def _check_rows(kind: type, grid: dict[str, list[Any]], flags: dict[str, Any], given: dict[str, Any]) -> None:
    """A row of a table is that row only if nothing else decides what its table is about."""
    names = grid.get(ABLATION, [])
    switches = {key for name in names for key in kind.ablations[name]}
    for key in sorted(switches & {*grid, *flags}):
        raise FerError(f"The rows of --grid ablation set {key}, and so do you; leave one of the two out.")
    defaults = kind()
    for name, key in itertools.product(names, sorted(switches & {*given})):
        if key not in kind.ablations[name] and given[key] != getattr(defaults, key):
            raise FerError(
                f"Ablation row {name!r} stands for {key} {flow(getattr(defaults, key))}, but the recipe sets it to "
                f"{flow(given[key])}; take {key} out of the recipe."
            )


def _check_model(method: str, recipe: Recipe) -> None:
    """What a run would find out about the method's own keys, without data and without memory."""
    import torch

    values = {key: value for key, value in recipe.model.items() if key != "landmark_weights"}  # loaded by the run
    known = values.get("class_counts") or values.get("label_prior")
    try:
        with torch.device("meta"):
            model_class(method)(config_class(method)(num_labels=len(known) if known else 8, **values))
    except ValueError as error:
        raise FerError(str(error)) from error
    except (RuntimeError, NotImplementedError):  # no verdict: a layer that wants real memory
        return


def flow(value: Any) -> str:
    """One line of YAML that reads back as `value`."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return text.strip().removesuffix("\n...").strip()


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else flow(value)


def _file_name(text: str) -> str:
    """`text` for any file system; where something is lost (case, where it does not count), a hash tells it apart."""
    safe = re.sub(r"[^a-z0-9._+-]+", "_", text, flags=re.IGNORECASE)
    if safe == text.lower() and len(safe) <= 40:
        return safe
    return f"{safe[:40]}-{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
