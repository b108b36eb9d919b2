"""A dataset as a folder of Parquet files with its card: what `datasets.load_dataset(folder)` and the Hub read."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from ..repo_names import check_repo_name
from . import _LOADERS, _SPLIT, _WITH_ROOT, load_fer_dataset
from .raw_files import short

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict, Features
    from PIL import Image

#: Bytes of one Parquet file, unless asked for otherwise.
MAX_SHARD_BYTES = 200_000_000

# Rows in one group of a Parquet file, as `datasets` itself chooses for images: what a reader holds in memory.
_ROWS = 100
_PRIVATE_OPTIONS = ("cache_dir", "token")
_ABSOLUTE = re.compile(r"[/\\~]|[A-Za-z]:[/\\]")

_OWNED = """\
**The images belong to their owners and may not be redistributed.** Who gets the raw data from its owners agrees to
their terms; this folder is a copy in another form, under the same terms. Keep it to yourself: on the Hub, in a private
repository that only people who have agreed to the same terms can read."""
_UNKNOWN = """\
These images were taken from another prepared data set, and its terms go on to apply. Unless they say otherwise, the
images belong to their owners and may not be redistributed: keep this folder to yourself, and on the Hub in a private
repository."""
_DRAWN = "The images were drawn by a program. They show nobody, and may be passed on."


def prepare(
    name: str,
    out: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write a dataset to `out` as `data/<split>-00000-of-0000N.parquet` and `README.md`.

    `load_fer_dataset(out)` gives the same rows again. Images are embedded byte for byte as they are.

    Args:
        name, root, options: of `load_fer_dataset`.
        out: folder to write; it gets its name once it is complete.
        max_shard_bytes, force, progress: see `write_prepared`.

    Returns:
        As `write_prepared`.

    Raises:
        FerError: see `load_fer_dataset` and `write_prepared`.
    """
    check_out(Path(out), force, source_folder(name, root))
    splits = load_fer_dataset(name, root, **dict(options or {}))
    card = source_card(name, options)
    return write_prepared(splits, out, card, max_shard_bytes=max_shard_bytes, force=force, progress=progress)


def write_prepared(
    splits: DatasetDict,
    out: str | os.PathLike[str],
    card: Mapping[str, str],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write splits to a new folder, as `prepare` does. Memory does not grow with the data.

    Args:
        splits: with columns `image` and `label` (`ClassLabel`); streamed ones, too.
        out: folder to write.
        card: what the card says: `title`, `about`, `made`, `rights`, each Markdown; see `source_card`.
        max_shard_bytes: what the rows in one file take at most (Parquet's own share, about 1 %, comes on top); a single
            larger row is a file by itself.
        force: replace `out` if it is such a folder.
        progress: show a progress bar on standard error.

    Returns:
        `{split: {"images": …, "files": …, "bytes": …, "classes": {name: images}}}`.

    Raises:
        FerError: `out` holds something already; an image that is missing or none.
    """
    from tqdm.auto import tqdm

    out = check_out(Path(out), force)
    for split in splits:
        if not _SPLIT.fullmatch(str(split)):
            raise FerError(f"A split is named by letters, digits and underscores, not {short(split)}; rename it.")
    if type(max_shard_bytes) is not int or max_shard_bytes < 1:
        raise FerError(f"The size of a file must be a whole number of bytes, at least 1, not {max_shard_bytes!r}.")
    total = sum(len(dataset) for dataset in splits.values()) if all(map(_has_length, splits.values())) else None
    summary: dict[str, Any] = {}
    with (
        _complete_folder(out, force) as folder,
        tqdm(total=total, unit="image", desc="write", disable=not progress) as bar,
    ):
        (folder / "data").mkdir()
        for split, dataset in splits.items():
            summary[str(split)] = _write_split(dataset, str(split), folder / "data", max_shard_bytes, bar)
        features = next(iter(splits.values())).features
        text = _card_text(card, features, summary)
        (folder / "README.md").write_text(text, encoding="utf-8", newline="\n")
        for figures in summary.values():
            del figures["table_bytes"]
    return summary


def source_card(name: str, options: Mapping[str, Any] | None = None) -> dict[str, str]:
    """What the card of a prepared dataset says about where it comes from. No path of this machine is in it."""
    shown = {
        key: value
        for key, value in (options or {}).items()
        if key not in _PRIVATE_OPTIONS and not (isinstance(value, str) and _ABSOLUTE.match(value))
    }
    title = dataset_title(name)
    source = f"{name if name in _LOADERS else title}{' --raw RAW' if name in _WITH_ROOT else ''}"
    flags = "".join(f" --option {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in shown.items())
    return {
        "title": title,
        "about": first_line(name) if name in _LOADERS else "",
        "source": source,
        "flags": flags,
        "made": f"Written by `hf-fer data prepare {source} --out OUT{flags}`.",
        "rights": _UNKNOWN if name not in _LOADERS else _OWNED if name in _WITH_ROOT else _DRAWN,
    }


def dataset_title(name: str) -> str:
    """The name of a dataset for people: of ours as its loader spells it, of a folder its last part."""
    if name in _LOADERS:
        head, colon, _ = first_line(name).partition(":")
        return head.strip("` ") if colon and len(head) <= 40 else name
    return Path(name).resolve().name if Path(name).expanduser().is_dir() else name


def first_line(name: str) -> str:
    """What a dataset of ours is: the first line of its loader's module."""
    return (loader_module(name).__doc__ or name).strip().splitlines()[0]


def loader_module(name: str) -> Any:
    """The module of a loader of ours."""
    return importlib.import_module(f".{_LOADERS[name][0]}", __package__)


# --- images as they are stored --------------------------------------------------------------------


def stored_tables(dataset: Dataset, columns: list[str] | None = None, rows: int = _ROWS) -> Iterator[pa.Table]:
    """The rows of a dataset as Arrow tables of at most `rows` rows; no image is decoded."""
    if columns is not None:
        dataset = dataset.select_columns(columns)
    return dataset.with_format("arrow").iter(batch_size=rows)


def image_bytes(value: Mapping[str, Any] | None) -> bytes:
    """The file of a stored image (`bytes`, or the `path` of a local file), as it is.

    Raises:
        FerError: no image at all, or a file that cannot be read.
    """
    if not value or (value["bytes"] is None and not value["path"]):
        raise FerError("there is no image")
    if value["bytes"] is not None:
        return value["bytes"]
    try:
        return Path(value["path"]).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FerError(f"the image file {value['path']} cannot be read ({reason})") from error


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the header of an image file, without decoding it.

    Raises:
        FerError: not an image.
    """
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            return image.size
    except Exception as error:  # Pillow's readers raise anything from OSError to struct.error on damaged files
        what = "the file is empty" if not data else f"not an image that can be read ({brief(error)})"
        raise FerError(what) from error


def decoded_image(data: bytes) -> Image.Image:
    """An image file as RGB, the right way up, as `datasets` gives it.

    Raises:
        FerError: it cannot be decoded.
    """
    import PIL.Image
    from PIL import ImageOps

    from .images import to_rgb

    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error on damaged files
        what = "the file is empty" if not data else f"it cannot be decoded ({brief(error)})"
        raise FerError(what) from error


def with_path(error: FerError, value: Mapping[str, Any] | None) -> str:
    """What is wrong with a stored image, and the file's name if it has one."""
    path = value["path"] if value else None
    return f"{error} ({path})" if path and path not in str(error) else str(error)


def brief(error: BaseException) -> str:
    """The message of an exception on one short line, without the addresses of objects."""
    text = re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error)) or type(error).__name__
    return " ".join(text.split())[:160]


# --- writing ----------------------------------------------------------------------------------------


def _has_length(dataset: Any) -> bool:
    return hasattr(dataset, "__len__")


def _write_split(dataset: Dataset, split: str, folder: Path, max_shard_bytes: int, bar: Any) -> dict[str, Any]:
    """Write one split; the files get their names when it is known how many there are."""
    import numpy as np
    import pyarrow.parquet as pq
    from datasets.table import embed_table_storage

    features = dataset.features
    names = features["label"].names
    schema = features.arrow_schema  # with the class names and the types that Arrow has not, in its metadata
    plain = [name for name in schema.names if name != "image"]
    counts = np.zeros(len(names), dtype=np.int64)
    shards: list[Path] = []
    writer, written, rows, table_bytes = None, 0, 0, 0

    def close() -> None:
        if writer is not None:
            writer.close()

    def new_shard() -> pq.ParquetWriter:
        close()
        shards.append(folder / f"{split}.{len(shards)}.unfinished")
        # The smallest and the largest of the images' bytes would be noted for every group of rows: of no use to anyone.
        return pq.ParquetWriter(shards[-1], schema, use_dictionary=plain, write_statistics=plain)

    try:
        for table in stored_tables(dataset):
            table = embed_table_storage(_embed_images(table.cast(schema), f"Split {split!r}", rows))
            labels = np.asarray(table.column("label").to_pylist(), dtype=object)
            known = np.array([label is not None and 0 <= label < len(names) for label in labels], dtype=bool)
            counts += np.bincount(labels[known].astype(np.int64), minlength=len(names))
            start, end = 0, len(table)
            for row in range(end):
                size = table.slice(row, 1).nbytes
                if writer is None or (written and written + size > max_shard_bytes):
                    if row > start:
                        writer.write_table(table.slice(start, row - start))
                    start, written, writer = row, 0, new_shard()
                written += size
                table_bytes += size
            writer.write_table(table.slice(start))
            rows += end
            bar.update(end)
        if writer is None:  # a split without rows is one empty file
            writer = new_shard()
    finally:
        close()
    paths = [folder / f"{split}-{i:05d}-of-{len(shards):05d}.parquet" for i in range(len(shards))]
    for shard, path in zip(shards, paths, strict=True):
        shard.rename(path)
    return {
        "images": rows,
        "files": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
        "table_bytes": table_bytes,
        "classes": dict(zip(names, counts.tolist(), strict=True)),
    }


def _embed_images(table: pa.Table, where: str, first_row: int) -> pa.Table:
    """`table` with the bytes of every image in it, and of its path the last part: the rest is this machine's."""
    import pyarrow as pa

    stored = []
    for i, value in enumerate(table.column("image").to_pylist()):
        try:
            data = image_bytes(value)
            image_size(data)  # not whatever a path happens to name
        except FerError as error:
            raise FerError(
                f"{where}, row {first_row + i}: {with_path(error, value)}; get it anew, or see all that is broken by "
                "`hf-fer data check`."
            ) from error
        stored.append({"bytes": data, "path": Path(value["path"]).name if value["path"] else None})
    place = table.schema.get_field_index("image")
    field = table.schema.field(place)
    return table.set_column(place, field, pa.array(stored, type=field.type))


def source_folder(name: str, root: str | os.PathLike[str] | None) -> Path | None:
    """The folder that `load_fer_dataset(name, root)` reads, absolute, if it is one of this machine."""
    source = root if name in _LOADERS else name
    return Path(source).expanduser().resolve() if source is not None and _is_folder(source) else None


def check_outside(out: Path, source: Path | None, *, above: bool = False) -> None:
    """Raises FerError where `out`, absolute, is the folder that is read from or lies in it; `above`: or holds it."""
    if source is not None and (source in (out, *out.parents) or (above and out in source.parents)):
        raise FerError(f"{out}: the data are read from {source}, which stays as it is; write somewhere else.")


def check_out(out: Path, force: bool, source: Path | None = None) -> Path:
    """`out`, absolute, if it may be written; what is lost by `force` must be what this module wrote."""
    out = out.expanduser().resolve()
    check_outside(out, source, above=True)
    if not out.exists():
        return out
    if not out.is_dir():
        raise FerError(f"{out}: a file; name the folder to write.")
    if os.path.ismount(out):
        raise FerError(f"{out}: a mount point, which cannot be replaced as a whole; name a folder in it.")
    if any(out.iterdir()):
        if not force:
            raise FerError(f"{out}: the folder is not empty; choose another one, or overwrite it with --force.")
        others = [path.name for path in out.iterdir() if path.name not in ("README.md", "data")]
        data = out / "data"
        others += [path.name for path in data.glob("*") if path.suffix != ".parquet"] if data.is_dir() else []
        if others or not (out / "README.md").is_file() or not data.is_dir():
            listed = f" ({short(', '.join(sorted(others)))})" if others else ""
            raise FerError(
                f"{out}: it holds other things than a prepared data set{listed}, which --force does not overwrite; "
                "choose another folder."
            )
    return out


def _is_folder(source: Any) -> bool:
    try:
        return Path(source).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):
        return False


@contextlib.contextmanager
def _complete_folder(out: Path, force: bool) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its place in the end; nothing is left of it after an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for cut_short in out.parent.glob(".*.tmp"):  # what a killed run left, which may be as large as the data
        number = cut_short.name.removeprefix(f".{out.name}.").removesuffix(".tmp")
        if number.isdecimal() and not _is_running(int(number)):
            shutil.rmtree(cut_short, ignore_errors=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    replaced = out.with_name(f".{out.name}.{os.getpid()}.old")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        check_out(out, force)  # again: it may have been filled meanwhile
        if out.exists():
            out.rename(replaced)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if replaced.exists() and not out.exists():  # the last rename failed
            replaced.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # where this signal is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's; no number of a process
        pass
    return True


# --- the card ---------------------------------------------------------------------------------------


def _card_text(card: Mapping[str, str], features: Features, summary: Mapping[str, Any]) -> str:
    from datasets import DatasetInfo, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    splits = SplitDict()
    for split, figures in summary.items():
        splits.add(SplitInfo(name=split, num_bytes=figures["table_bytes"], num_examples=figures["images"]))
    info = DatasetInfo(
        features=features,
        splits=splits,
        download_size=sum(figures["bytes"] for figures in summary.values()),
        dataset_size=sum(figures["table_bytes"] for figures in summary.values()),
    )
    files = [{"split": split, "path": f"data/{split}-*"} for split in summary]
    data = DatasetCardData(
        license="other",
        pretty_name=card["title"],
        task_categories=["image-classification"],
        size_categories=[_size_category(sum(figures["images"] for figures in summary.values()))],
        tags=["hf-fer", "facial-expression-recognition"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    names = features["label"].names
    columns = "\n".join(f"- `{name}`: `{feature!r}`" for name, feature in features.items() if name != "label")
    head = ["label", "class", *summary]
    table = [
        [k, name, *(f"{figures['classes'][name]:,}" for figures in summary.values())] for k, name in enumerate(names)
    ]
    table.append(["", "all", *(f"{figures['images']:,}" for figures in summary.values())])
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *table)]
    about = f"{card['about']}\n\n" if card["about"] else ""
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {card['title']}\n\n{about}Facial expressions, prepared for "
        f"[`datasets`](https://huggingface.co/docs/datasets). {card['made']}\n\n"
        "```python\nfrom datasets import load_dataset\n\nsplits = load_dataset(FOLDER_OR_REPO)\n```\n\n"
        f"## Images\n\n" + "\n".join(lines) + f"\n\n## Columns\n\n- `label`: the id of the class, see the table\n"
        f"{columns}\n\n## Rights\n\n{card['rights']}\n"
    )


def _size_category(images: int) -> str:
    """The Hub's word for a number of rows."""
    steps = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((word for limit, word in steps if images < limit), "1M<n<10M")


# --- the Hub ----------------------------------------------------------------------------------------


def may_be_public(name: str) -> bool:
    """Whether a dataset may be redistributed: of ours, those that need no raw download."""
    return name in _LOADERS and name not in _WITH_ROOT


def check_push(name: str, repo: str, private: bool) -> None:
    """Raises FerError where `repo` is no repository name, or `name` may not be pushed to where everybody sees it."""
    check_repo_name(repo)
    if not private and not may_be_public(name):
        whose = "may not be redistributed" if name in _WITH_ROOT else "may belong to somebody else"
        raise FerError(
            f"The images of {dataset_title(name)} {whose}, so they are pushed to a private repository only; "
            "add --private."
        )
