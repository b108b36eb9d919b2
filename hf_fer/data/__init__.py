"""Raw downloads to `datasets.DatasetDict`, behind one function. Importing this imports nothing heavy."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from ..labels import EXPRESSIONS, OTHER, canonical_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from datasets import Dataset, DatasetDict

__all__ = ["DATASETS", "load_fer_dataset"]

# Where each loader is; `synthetic` alone has no raw download.
_LOADERS: dict[str, tuple[str, str]] = {
    "ferplus": ("ferplus", "load_ferplus"),
    "affectnet": ("affectnet", "load_affectnet"),
    "affwild2": ("affwild2", "load_affwild2"),
    "fer2013": ("fer2013", "load_fer2013"),
    "rafdb": ("rafdb", "load_rafdb"),
    "jaffe": ("jaffe", "load_jaffe"),
    "ferg": ("ferg", "load_ferg"),
    "sfew": ("sfew", "load_sfew"),
    "caers": ("caers", "load_caers"),
    "synthetic": ("synthetic", "load_synthetic"),
}
_WITH_ROOT = tuple(name for name in _LOADERS if name != "synthetic")
#: Datasets with a loader of ours; every other name is a prepared folder or a Hub id.
DATASETS: tuple[str, ...] = (*_LOADERS,)

_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_SPLIT = re.compile(r"\w+(\.\w+)*")


def load_fer_dataset(name: str, root: str | os.PathLike[str] | None = None, **options: Any) -> DatasetDict:
    """Load a facial expression dataset with columns `image` and `label`.

    Args:
        name: one of `DATASETS`; or a prepared local folder (Parquet or image folders with `image` and
            `label`, or what `DatasetDict.save_to_disk` wrote); or a Hub dataset id `owner/name`.
        root: folder of the raw download, for datasets of ours that have one.
        **options: the loader's own: see `load_<name>` in `hf_fer.data.<name>`, such as `label_rule`, `classes`,
            `form`, `check_counts` and `cache_dir` of `hf_fer.data.ferplus.load_ferplus`. Prepared folders and
            Hub ids: `revision`, `config`, `token`, `cache_dir`, `image_column`, `label_column`.

    Returns:
        A `DatasetDict`. `image` is a lazily decoded `datasets.Image`, `label` a `ClassLabel` whose names are
        canonical expressions; a prepared dataset keeps its own id order.

    Raises:
        FerError: unknown dataset or option, missing or damaged data, labels outside the vocabulary.
    """
    if not isinstance(name, str) or not name:
        raise FerError(f"A dataset is named by a text, not {name!r}; choose {_known()}.")
    if root is not None and name not in _WITH_ROOT:
        others = "" if name in _LOADERS else f", or choose a dataset that has one ({', '.join(_WITH_ROOT)})"
        raise FerError(f"Dataset {name!r} has no raw download, so root= does not apply; leave it out{others}.")
    if name not in _LOADERS:
        _check_options(name, _load_prepared, options)
        return _load_prepared(name, **options)
    module, function = _LOADERS[name]
    loader = getattr(importlib.import_module(f".{module}", __name__), function)
    _check_options(name, loader, options)
    return loader(root, **options) if name in _WITH_ROOT else loader(**options)


def _known() -> str:
    return f"one of {', '.join(DATASETS)}, a prepared folder, or a Hub dataset id (owner/name)"


def _check_options(name: str, loader: Callable[..., Any], options: dict[str, Any]) -> None:
    parameters = inspect.signature(loader).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return  # the loader checks its options itself
    valid = [parameter.name for parameter in parameters if parameter.name not in ("root", "source")]
    for option in options:
        if option not in valid:
            near = difflib.get_close_matches(option, valid, n=1, cutoff=0.0)[0]
            raise FerError(
                f"Dataset {name!r} has no option {option!r}, the nearest is {near!r}; choose among {', '.join(valid)}."
            )


# --- prepared folders and Hub ids ---------------------------------------------------------------


def _load_prepared(
    source: str,
    *,
    revision: str | None = None,
    config: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    image_column: str = "image",
    label_column: str = "label",
) -> DatasetDict:
    from datasets import DatasetDict

    folder = _local_folder(source)
    where = f"Dataset {source!r}"
    if folder is not None and (folder / "dataset_dict.json").is_file():
        splits = _call(where, lambda: DatasetDict.load_from_disk(str(folder)))
    elif folder is not None and (folder / "state.json").is_file():
        from datasets import Dataset

        single = _call(where, lambda: Dataset.load_from_disk(str(folder)))
        splits = {str(single.split or "train"): single}
    else:
        from datasets import load_dataset

        if folder is None and not _HUB_ID.fullmatch(source):
            near = difflib.get_close_matches(source[:64].lower(), DATASETS, n=1, cutoff=0.6)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise FerError(f"There is no dataset or folder {source[:200]!r}{hint}; choose {_known()}.")
        splits = _call(
            where,
            lambda: load_dataset(
                source if folder is None else str(folder),
                config,
                revision=None if folder is not None else revision,
                token=None if folder is not None else token,
                cache_dir=None if cache_dir is None else str(cache_dir),
            ),
        )
    odd = next((str(split) for split in splits if not _SPLIT.fullmatch(str(split))), None)
    if odd is not None:  # a folder names its splits as it likes, and files get these names
        raise FerError(f"{where}: a split is named by letters, digits and underscores, not {odd[:200]!r}; rename it.")
    if not splits:
        raise FerError(f"{where} has no split; get it anew.")
    places = {split: f"{where}, split {split!r}" for split in splits}
    splits = {
        split: _named_columns(dataset, places[split], image_column, label_column) for split, dataset in splits.items()
    }
    texts = _label_texts(splits, places)
    result = {split: _canonical_labels(dataset, texts, places[split]) for split, dataset in splits.items()}
    orders = {split: tuple(dataset.features["label"].names) for split, dataset in result.items()}
    if len(set(orders.values())) > 1:
        listed = "; ".join(f"{split}: {', '.join(order)}" for split, order in orders.items())
        raise FerError(
            f"{where} numbers its classes differently from split to split "
            f"({listed}); "
            "save all splits with one ClassLabel."
        )
    return DatasetDict(result)


def _local_folder(source: str) -> Path | None:
    """`source` as an existing folder, or None if it can only be a Hub id."""
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return path
    except (OSError, RuntimeError, ValueError):  # too long a name, no such home, a NUL
        return None
    if source.startswith((".", "~", os.sep)):
        raise FerError(f"The dataset folder {source!r} does not exist; give the path of a prepared folder.")
    return None


def _call(where: str, load: Callable[[], Any]) -> Any:
    """`load()`, with what `datasets` and the Hub client raise (wrong name, no network, a pickle) in one sentence."""
    from pickle import UnpicklingError

    from datasets.exceptions import DatasetsError
    from yaml import YAMLError

    known = (DatasetsError, YAMLError, OSError, ValueError, RuntimeError, KeyError, TypeError, UnpicklingError)
    try:
        return load()
    except known as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        # Escapes, of which some of these messages are made, would act on a terminal.
        reason = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in reason)
        raise FerError(
            f"{where} cannot be loaded: {reason.rstrip('.')}; check the name, the network and what lies in the folder."
        ) from error


def _named_columns(dataset: Dataset, where: str, image_column: str, label_column: str) -> Dataset:
    """`dataset` with its columns named `image` (an `Image`) and `label`; no image is copied."""
    from datasets import Image

    for column in (image_column, label_column):
        if column not in dataset.column_names:
            is_raw = "votes" in dataset.column_names
            raw = " (raw FERPlus is loaded by name 'ferplus' with root=)" if is_raw else ""
            raise FerError(
                f"{where} has no column {column!r} but {', '.join(dataset.column_names)}; "
                f"name yours by image_column= and label_column={raw}."
            )
    for old, new in ((image_column, "image"), (label_column, "label")):
        if old != new:
            if new in dataset.column_names:
                raise FerError(f"{where} has both {old!r} and {new!r}; drop one before loading.")
            dataset = dataset.rename_column(old, new)
    feature = dataset.features["image"]
    if isinstance(feature, dict) and set(feature) == {"bytes", "path"}:
        dataset = _call(where, lambda: dataset.cast_column("image", Image()))
    elif not isinstance(feature, Image):
        # Nor text: as an Image it would open whatever file of this machine it names.
        raise FerError(f"{where}: column 'image' is {feature}, not images; make it a datasets.Image.")
    return dataset


def _label_texts(splits: dict[str, Dataset], places: dict[str, str]) -> dict[str, str]:
    """The expression of every text that stands as a label in any split; empty for ClassLabels."""
    from datasets import Value

    texts: dict[str, str] = {}
    for split, dataset in splits.items():
        if not isinstance(dataset.features["label"], Value):
            continue
        names = {name for name in dataset.unique("label") if isinstance(name, str)} - texts.keys()
        texts.update(zip(sorted(names), _resolve(sorted(names), places[split], unique=False), strict=True))
    return texts


def _canonical_labels(dataset: Dataset, texts: dict[str, str], where: str) -> Dataset:
    """`dataset` with canonical class names; ids and row order stay, no image is copied."""
    from datasets import ClassLabel, Value

    feature = dataset.features["label"]
    values = dataset.with_format(None)["label"][:]
    if isinstance(feature, ClassLabel):
        given = list(feature.names)
        canonical = _resolve(given, where)
        wrong = next((i for i, v in enumerate(values) if v is None or not 0 <= v < len(given)), None)
        if wrong is not None:
            raise FerError(
                f"{where}, row {wrong}: label {values[wrong]!r} is no class id in 0..{len(given) - 1}; "
                "drop unlabelled rows."
            )
        if canonical == given:
            return dataset
        ids = values
    elif isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
        wrong = next((i for i, value in enumerate(values) if value is None), None)
        if wrong is not None:
            raise FerError(f"{where}, row {wrong}: the label is empty; drop unlabelled rows.")
        # Text labels have no id order of their own: take the vocabulary's.
        canonical = [*EXPRESSIONS, *([OTHER] if OTHER in texts.values() else [])]
        ids = [canonical.index(texts[value]) for value in values]
    else:
        raise FerError(
            f"{where}: column 'label' is {feature}, and class ids mean nothing without names; "
            "make it a datasets.ClassLabel with the expressions' names."
        )
    # By column, not cast_column: that would write all images anew.
    columns = dataset.column_names
    relabelled = dataset.remove_columns("label").add_column("label", ids, feature=ClassLabel(names=canonical))
    return relabelled.select_columns(columns)


def _resolve(names: Iterable[str], where: str, unique: bool = True) -> list[str]:
    resolved: list[str] = []
    for name in names:
        try:
            expression = canonical_expression(name)
        except FerError as error:
            raise FerError(f"{where}: {error}") from None
        if unique and expression in resolved:
            raise FerError(f"{where}: two label names both mean {expression!r}; merge them before loading.")
        resolved.append(expression)
    return resolved
