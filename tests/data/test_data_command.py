"""`hf-fer data`: what it writes reads back the same, what it refuses stays as it is, what it says is so."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer, Repo
from PIL import Image

from hf_fer import cli
from hf_fer.data import DATASETS, load_fer_dataset, prepare, statistics
from hf_fer.errors import FerError
from hf_fer.labels import EXPRESSIONS

datasets = pytest.importorskip("datasets")

SMALL = ["--option", "train=20", "--option", "validation=8", "--option", "test=9", "--option", "size=24"]


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`hf-fer data` as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-m", "hf_fer.cli", "data", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)


def sentence(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `hf-fer data` says about a mistake: one line, after what bars there were."""
    assert cli.main(["data", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("hf-fer: ") == 1 and "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("hf-fer: ")
    return last


def png(seed: int, size: tuple[int, int] = (12, 12), mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def ferplus_tree(root: Path, per_split: int = 10) -> Path:
    """The official folders of a release of a few noise images, with all votes for one expression."""
    for n, name in enumerate(("FER2013Train", "FER2013Valid", "FER2013Test")):
        (root / name).mkdir(parents=True)
        with (root / name / "label.csv").open("w", newline="") as stream:
            for i in range(per_split):
                file = f"fer{per_split * n + i:07d}.png"
                (root / name / file).write_bytes(png(per_split * n + i, (48, 48)))
                votes = [10 * (column == i % 8) for column in range(10)]
                csv.writer(stream).writerow([file, "(0, 0, 48, 48)", *votes])
    return root


def rows_of(splits: Any) -> dict[str, list[dict[str, Any]]]:
    """Every row with its stored bytes; of paths the last part."""
    raw = {split: part.cast_column("image", datasets.Image(decode=False)) for split, part in splits.items()}
    return {str(split): list(part) for split, part in raw.items()}


def split_columns(**splits: list[tuple[dict[str, Any] | None, int | None]]) -> Any:
    """A `DatasetDict` of whatever is given as (image, label)."""
    names = datasets.ClassLabel(names=list(EXPRESSIONS))
    features = datasets.Features({"image": datasets.Image(), "label": names})
    columns = {split: {"image": [r[0] for r in rows], "label": [r[1] for r in rows]} for split, rows in splits.items()}
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(part, features=features) for split, part in columns.items()}
    )


def saved(folder: Path, **splits: list[tuple[dict[str, Any] | None, int | None]]) -> str:
    """The same as a folder that `load_fer_dataset` reads."""
    split_columns(**splits).save_to_disk(str(folder))
    return str(folder)


def stored(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


# --- list ---------------------------------------------------------------------------------------------


def test_list_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hf_fer.cli import main;"
        "codes = [main(['data', 'list']), main(['data', '--help']), main(['data', 'list', 'ferplus'])];"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'matplotlib', 'huggingface_hub'} & set(sys.modules);"
        "assert codes == [0, 0, 0] and not heavy, (codes, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = {line.split()[0]: re.split(r"  +", line) for line in lines[1 : 1 + len(DATASETS)]}
    assert tuple(rows) == DATASETS
    assert rows["ferplus"][1:4] == ["8 or 7", "train, validation, test", "yes"]
    assert rows["synthetic"][1:4] == ["8 or 7", "train, validation, test", "no"]
    assert rows["ferplus"][4].startswith("FERPlus: FER2013's 48x48 faces")
    assert all(len(row) == 5 and "?" not in row[1:3] for row in rows.values()), rows
    assert "https://github.com/microsoft/FERPlus" in done.stdout
    assert 'label_rule="majority"' in done.stdout


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_says_where_it_comes_from(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "list", name]) == 0
    out = capsys.readouterr().out
    get = re.search(r"^get it: +(.+)$", out, re.MULTILINE)
    assert get and (get[1] == "no download") == (name == "synthetic")
    assert prepare.first_line(name) in out


# --- prepare ------------------------------------------------------------------------------------------


def test_prepare_round_trip(tmp_path: Path) -> None:
    out = tmp_path / "new" / "faces"
    done = run("prepare", "synthetic", "--out", str(out), *SMALL, "--max-shard-size", "10 kB")
    assert done.returncode == 0, done.stderr
    assert "37/37" in done.stderr
    assert [path.name for path in out.parent.iterdir()] == ["faces"]
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "data"]

    original = load_fer_dataset("synthetic", train=20, validation=8, test=9, size=24)
    for again in (load_fer_dataset(str(out)), datasets.load_dataset(str(out))):
        assert list(again) == ["train", "validation", "test"]
        assert all(again[split].features == original[split].features for split in original)
        assert rows_of(again) == rows_of(original)

    for split, dataset in original.items():
        names = sorted(path.name for path in (out / "data").glob(f"{split}-*"))
        assert names == [f"{split}-{i:05d}-of-{len(names):05d}.parquet" for i in range(len(names))]
        sizes = [len(row["image"]["bytes"]) for row in rows_of({split: dataset})[split]]
        assert sum(sizes) / 10_000 <= len(names) <= sum(sizes) / 10_000 * 2  # as large as they may be
    assert len(list((out / "data").iterdir())) > 3

    card = (out / "README.md").read_text()
    assert "| 0 | neutral | 3 | 1 | 2 |" in card
    assert "|  | all | 20 | 8 | 9 |" in card
    assert "may be passed on" in card and "may not be redistributed" not in card
    from huggingface_hub import DatasetCardData, RepoCard

    data = RepoCard(card, ignore_metadata_errors=False).data
    assert isinstance(DatasetCardData(**data.to_dict()).to_yaml(), str)
    assert data.license == "other"
    assert [split["num_examples"] for split in data.dataset_info["splits"]] == [20, 8, 9]
    assert data.dataset_info["features"][1]["dtype"]["class_label"]["names"]["7"] == "contempt"


def test_a_shard_is_never_larger_than_asked_for(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    images = [stored(png(i, (30 + 7 * (i % 5), 40))) for i in range(250)]
    splits = load_fer_dataset(saved(tmp_path / "raw", train=[(image, i % 8) for i, image in enumerate(images)]))
    summary = prepare.write_prepared(splits, tmp_path / "out", prepare.source_card("x/y"), max_shard_bytes=40_000)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out" / "data").iterdir())]
    assert len(tables) == summary["train"]["files"] > 5
    sizes = [[len(image["bytes"]) for image in table.column("image").to_pylist()] for table in tables]
    assert all(sum(part) <= 40_000 for part in sizes)
    with_the_rest = [[size + 50 for size in part] for part in sizes]  # label, lengths
    assert all(sum(part) + after[0] > 40_000 for part, after in itertools.pairwise(with_the_rest))
    assert rows_of(load_fer_dataset(str(tmp_path / "out"))) == rows_of(splits)
    single = prepare.write_prepared(splits, tmp_path / "one", prepare.source_card("x/y"), max_shard_bytes=1)
    assert single["train"]["files"] == 250
    assert rows_of(load_fer_dataset(str(tmp_path / "one"))) == rows_of(splits)


def test_prepare_raw_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = ferplus_tree(tmp_path / "somewhere" / "raw")
    command = ["prepare", "ferplus", "--raw", str(raw), "--out", str(tmp_path / "out"), "--option", "classes=7"]
    command += ["--option", f"cache_dir={tmp_path / 'cache'}", "--option", 'form="folders"']
    assert cli.main(["data", *command]) == 0
    assert re.search(r"written: .*train 9 images in 1 file; validation 9 .*; test 9 ", capsys.readouterr().out)
    original = load_fer_dataset("ferplus", raw, classes=7)
    again = load_fer_dataset(str(tmp_path / "out"))
    assert rows_of(again) == rows_of(original)
    assert again["test"].features == original["test"].features
    card = (tmp_path / "out" / "README.md").read_text()
    assert "may not be redistributed" in card and "# FERPlus" in card and "FER2013's 48x48 faces" in card
    written = "`hf-fer data prepare ferplus --raw RAW --out OUT --option classes=7 --option 'form=\"folders\"'`"
    assert written in card
    assert str(tmp_path) not in card  # nobody's business
    assert not any(b"somewhere" in path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet"))


def test_the_card_keeps_secrets() -> None:
    options = {"token": "hf_secret", "cache_dir": "caches", "form": "/home/somebody", "classes": 7}
    card = prepare.source_card("somebody/faces", options)
    assert card["made"] == "Written by `hf-fer data prepare somebody/faces --out OUT --option classes=7`."
    assert "may not be redistributed" in card["rights"]


def test_images_by_path_are_embedded(tmp_path: Path) -> None:
    (tmp_path / "secret-folder").mkdir()
    file = tmp_path / "secret-folder" / "a.png"
    file.write_bytes(png(1))
    splits = split_columns(train=[(stored(None, str(file)), 3), (stored(png(2)), 1)])
    prepare.write_prepared(splits, tmp_path / "out", prepare.source_card("x/y"))
    first, second = rows_of(load_fer_dataset(str(tmp_path / "out")))["train"]
    assert first["image"] == {"bytes": png(1), "path": "a.png"}
    assert second["image"] == {"bytes": png(2), "path": None}
    file.unlink()
    with pytest.raises(FerError, match=r"Split 'train', row 0: the image file .*a\.png cannot be read \(No such file"):
        prepare.write_prepared(splits, tmp_path / "again", prepare.source_card("x/y"))


def test_streamed_data_are_written_too(tmp_path: Path) -> None:
    splits = load_fer_dataset("synthetic", train=20, validation=8, test=8, size=24)
    streams = datasets.IterableDatasetDict({split: part.to_iterable_dataset() for split, part in splits.items()})
    summary = prepare.write_prepared(streams, tmp_path / "out", prepare.source_card("synthetic"))
    assert [figures["images"] for figures in summary.values()] == [20, 8, 8]
    assert rows_of(load_fer_dataset(str(tmp_path / "out"))) == rows_of(splits)


def test_what_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["prepare", "synthetic", "--out", str(out), *SMALL]
    assert cli.main(["data", *command, "--max-shard-size", "5kB"]) == 0
    many = len(list((out / "data").iterdir()))
    capsys.readouterr()
    assert "--force" in sentence(capsys, *command)
    assert cli.main(["data", *command, "--force"]) == 0
    assert len(list((out / "data").iterdir())) == 3 < many
    capsys.readouterr()

    (out / "thesis.tex").write_text("mine")
    assert "thesis.tex" in sentence(capsys, *command, "--force")
    (out / "thesis.tex").rename(out / "data" / "thesis.tex")
    assert "thesis.tex" in sentence(capsys, *command, "--force")
    (out / "data" / "thesis.tex").unlink()
    (tmp_path / "photos" / "data").mkdir(parents=True)
    assert "other things" in sentence(capsys, *command[:3], str(tmp_path / "photos"), "--force")
    (tmp_path / "file").touch()
    assert "a file" in sentence(capsys, *command[:3], str(tmp_path / "file"), "--force")
    (tmp_path / "empty").mkdir()
    assert cli.main(["data", *command[:3], str(tmp_path / "empty"), *SMALL]) == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_raw_data_are_not_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = ferplus_tree(tmp_path / "raw")
    for out in (raw, raw / "prepared", tmp_path):
        said = sentence(capsys, "prepare", "ferplus", "--raw", str(raw), "--out", str(out), "--force")
        assert "stays as it is" in said
    assert sorted(path.name for path in raw.iterdir()) == ["FER2013Test", "FER2013Train", "FER2013Valid"]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (stored(b""), "empty"),
        (stored(b"<html>not found</html>"), "not an image"),
        (None, "there is no image"),
    ],
)
def test_no_image_ends_prepare(
    image: dict[str, Any] | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path / "raw", train=[(stored(png(1)), 0)] * 2, test=[(stored(png(2)), 0), (image, 1)])
    said = sentence(capsys, "prepare", folder, "--out", str(tmp_path / "out"))
    assert says in said and "'test', row 1:" in said and "hf-fer data check" in said
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_an_old_folder_survives_a_failed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["data", "prepare", "synthetic", "--out", str(out), *SMALL]) == 0
    capsys.readouterr()
    before = rows_of(load_fer_dataset(str(out)))
    folder = saved(tmp_path / "raw", train=[(stored(b"x"), 0)])
    sentence(capsys, "prepare", folder, "--out", str(out), "--force")
    assert rows_of(load_fer_dataset(str(out))) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_killed_runs_left_is_swept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    left, *others = (
        tmp_path / name
        for name in (
            f".out.{ended.pid}.tmp",
            f".out.{os.getppid()}.tmp",  # of a run that goes on
            f".out.new.{ended.pid}.tmp",  # of another folder
            f".{ended.pid}.tmp",
            ".out.backup.tmp",
        )
    )
    for folder in (left, *others):
        (folder / "data").mkdir(parents=True)
    assert cli.main(["data", "prepare", "synthetic", "--out", str(tmp_path / "out"), *SMALL]) == 0
    assert not left.exists() and all(folder.exists() for folder in others)


@pytest.mark.skipif(os.name == "nt", reason="there is no such signal")
def test_a_time_limit_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(prepare, "_card_text", endless)  # the data are written, the card is not
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["data", "prepare", "synthetic", "--out", str(tmp_path / "out"), *SMALL]) == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_that_is_filled_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, card_text = tmp_path / "out", prepare._card_text

    def somebody_else(*arguments: Any) -> str:
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
        return card_text(*arguments)

    monkeypatch.setattr(prepare, "_card_text", somebody_else)
    assert "not empty" in sentence(capsys, "prepare", "synthetic", "--out", str(out), *SMALL)
    assert (out / "thesis.tex").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_mount_point_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "volume")
    assert "a mount point" in sentence(capsys, "prepare", "synthetic", "--out", str(tmp_path / "volume"), *SMALL)
    assert cli.main(["data", "prepare", "synthetic", "--out", str(tmp_path / "volume" / "faces"), *SMALL]) == 0


def test_a_folder_may_be_called_like_a_dataset_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "prepare", "synthetic", "--out", "synthetic", *SMALL]) == 0
    assert cli.main(["data", "prepare", "synthetic", "--out", "synthetic", "--force", *SMALL]) == 0


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", str(tmp_path / "out"))
    assert "ACTION" in sentence(capsys)
    assert "invalid choice" in sentence(capsys, "frobnicate")
    assert "no data set 'ferpluss'" in sentence(capsys, "list", "ferpluss")
    assert "--out" in sentence(capsys, "prepare", "synthetic")
    assert "NAME=VALUE" in sentence(capsys, "prepare", "synthetic", *out, "--option", "train")
    assert "nearest is 'train'" in sentence(capsys, "prepare", "synthetic", *out, "--option", "trian=4")
    assert "--max-shard-size lots" in sentence(capsys, "prepare", "synthetic", *out, "--max-shard-size", "lots")
    assert "--max-shard-size 0" in sentence(capsys, "prepare", "synthetic", *out, "--max-shard-size", "0")
    assert "unrecognized" in sentence(capsys, "prepare", "synthetic", *out, "--no-such")
    assert "--private goes with" in sentence(capsys, "prepare", "synthetic", *out, "--private")
    assert "--keep-card goes with" in sentence(capsys, "prepare", "synthetic", *out, "--keep-card")
    assert "owner/name" in sentence(capsys, "prepare", "synthetic", *out, "--push", "a/b/c")
    assert "needs root=" in sentence(capsys, "check", "ferplus")
    assert "no raw download" in sentence(capsys, "stats", "synthetic", "--raw", str(tmp_path))
    assert "no dataset or folder" in sentence(capsys, "stats", "nothing")
    (tmp_path / "file").touch()
    assert "a file" in sentence(capsys, "stats", "synthetic", "--output", str(tmp_path / "file"))
    assert not (tmp_path / "out").exists()


def test_options_in_json_python_and_text() -> None:
    from hf_fer.data.command import parse_options

    given = ["a=true", "b=False", "c=True", "d=None", "e=null", "f=7", 'g=["x"]', "h=aligned", "i=a=b", "j="]
    assert list(parse_options(given).values()) == [True, False, True, None, None, 7, ["x"], "aligned", "a=b", ""]


@pytest.mark.parametrize(
    ("text", "size"),
    [("200MB", 200_000_000), ("1.5 GiB", 3 * 2**29), ("5000", 5000), ("3k", 3000), ("7 b", 7)],
)
def test_sizes(text: str, size: int) -> None:
    from hf_fer.data.command import _size

    assert _size(text) == size


# --- the Hub ------------------------------------------------------------------------------------------


def test_push(tmp_path: Path) -> None:
    """One process, which imports the client once: push, push again, push to what is public, download."""
    raw, out = ferplus_tree(tmp_path / "raw"), tmp_path / "out"
    command = ["data", "prepare", "ferplus", "--raw", str(raw), "--out", str(out), "--private", "--force", "--push"]
    commands = [[*command, "faces", "--max-shard-size", "10kB"], [*command, "me/faces"], [*command, "me/public"]]
    code = (
        "import sys, json, huggingface_hub; from hf_fer.cli import main;"
        "codes = [main(command) for command in json.loads(sys.argv[1])];"
        "print(*codes); print(huggingface_hub.snapshot_download('me/faces', repo_type='dataset'))"
    )
    with HubServer() as hub:
        hub.repos["dataset", "me/public"] = public = Repo(private=False)
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(commands)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **hub.environment(tmp_path / "home")},
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    *_, codes, downloaded = done.stdout.splitlines()
    assert codes == "0 0 2"
    assert done.stdout.count(f"pushed: {hub.url}/datasets/me/faces") == 2
    assert done.stdout.count("  - data/") > 6 and "  + data/" in done.stdout  # what happens to the shards is shown
    assert "me/public is there already and public" in done.stderr
    assert not public.files
    repo = hub.repos["dataset", "me/faces"]
    assert repo.private and len(repo.commits) == 2
    assert len(hub.objects) > 6  # of the first time; none of those stayed
    local = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert len(local) == 4 and {**repo.files} == {**local, "release.json": repo.files["release.json"]}
    assert rows_of(load_fer_dataset(downloaded)) == rows_of(load_fer_dataset("ferplus", raw))


def test_nothing_is_pushed_that_may_not_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = ferplus_tree(tmp_path / "raw"), tmp_path / "out"
    command = ["prepare", "ferplus", "--raw", str(raw), "--out", str(out), "--push", "me/faces"]
    assert "add --private" in sentence(capsys, *command)
    assert "somebody else" in sentence(capsys, "prepare", str(raw), *command[4:])
    assert not out.exists()  # refused before anything was read
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    assert "HF_HUB_OFFLINE" in sentence(capsys, *command, "--private")  # no network here
    assert not out.exists()  # neither then
    with HubServer() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        hub.fail("POST", "/commit/", status=403)
        assert cli.main(["data", *command, "--private"]) == 2
        repo = hub.repos["dataset", "me/faces"]
        assert repo.private and not repo.files
        out_text, err = capsys.readouterr()
        assert "written: " in out_text and "pushed: " not in out_text
        last = err.splitlines()[-1]
        assert "may not write to the data set me/faces" in last and last.endswith("add --force to the command then.")
        assert (out / "README.md").is_file()
        hub.commit("dataset", "me/faces", {"README.md": b"edited"})
        again = ["data", *command, "--private", "--force"]
        assert cli.main(again) == 2 and "--overwrite-card" in capsys.readouterr().err
        assert cli.main([*again, "--overwrite-card"]) == 0
        assert repo.files["README.md"] == (out / "README.md").read_bytes()


def test_drawn_faces_may_be_public() -> None:
    prepare.check_push("synthetic", "me/drawn", private=False)
    for name in DATASETS:
        if name != "synthetic":
            with pytest.raises(FerError, match=r"may not be redistributed.*--private"):
                prepare.check_push(name, "me/faces", private=False)
            prepare.check_push(name, "me/faces", private=True)


# --- stats --------------------------------------------------------------------------------------------


def test_stats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--option", "train=80", "--option", "imbalance_factor=5", *SMALL[2:]]
    output = tmp_path / "report"
    assert cli.main(["data", "stats", "synthetic", *options, "--output", str(output)]) == 0
    out = capsys.readouterr().out
    splits = load_fer_dataset("synthetic", train=80, validation=8, test=9, size=24, imbalance_factor=5)
    names = splits["train"].features["label"].names
    for k, name in enumerate(names):
        counts = [Counter(part["label"])[k] for part in splits.values()]
        assert re.search(rf"^{name} +{counts[0]} +{counts[1]} +{counts[2]}$", out, re.MULTILINE)
    assert re.search(r"^largest / smallest +5\.00 +1\.00 +2\.00$", out, re.MULTILINE)
    rows = len(splits["train"])
    assert re.search(rf"^with votes +{rows} +8 +9$", out, re.MULTILINE)
    assert re.search(r"^groups +10 +1 +2$", out, re.MULTILINE)
    assert f"train: shorter side 24 to 24 pixels, median 24; most often 24x24 ({rows}); {rows} of {rows} images" in out

    figures = json.loads((output / "statistics.json").read_text())["splits"]["test"]
    assert figures["classes"] == {name: Counter(splits["test"]["label"])[k] for k, name in enumerate(names)}
    assert figures["sizes"]["histogram"] == [[24, 9]]
    for plot in ("classes.png", "sizes.png"):
        with Image.open(output / plot) as image:
            assert min(image.size) > 300 and len(image.convert("RGB").getcolors(1 << 20)) > 10
    sheets = {path.name for path in (output / "contact_sheets").glob("*.png")}
    assert sheets == {f"{split}_{name}.png" for split in splits for name in names}
    assert (output / "contact_sheets" / ".gitignore").read_text() == "*\n"

    assert cli.main(["data", "stats", "synthetic", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["test"] == figures


def test_sizes_come_from_headers_of_a_stated_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = png(5, (40, 90))[:200]  # a header and no more
    rows = [(stored(png(i, (10 + i, 60))), 2) for i in range(30)] + [(stored(cut), 4), (stored(b"x"), 4)]
    splits = load_fer_dataset(saved(tmp_path / "raw", train=rows))
    figures = statistics.dataset_statistics(splits)["train"]
    assert figures["sizes"]["measured"] == 31 and figures["sizes"]["unreadable"] == 1
    assert figures["sizes"]["shorter_side"] == {"min": 10, "median": 25, "max": 40}
    assert [10, 1] in figures["sizes"]["histogram"] and [40, 1] in figures["sizes"]["histogram"]
    assert figures["imbalance_factor"] is None and figures["votes"] is None and figures["groups"] is None

    monkeypatch.setattr(statistics, "MEASURED", 7)
    chosen = [statistics.dataset_statistics(splits, seed=seed)["train"] for seed in (0, 0, 1)]
    assert all(figures["images"] == 32 for figures in chosen)
    assert all(figures["sizes"]["measured"] + figures["sizes"]["unreadable"] == 7 for figures in chosen)
    assert chosen[0] == chosen[1] != chosen[2]


def test_contact_sheets_show_the_class(tmp_path: Path) -> None:
    def colour(value: int) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.new("RGB", (32, 16), (value, 0, 255 - value)).save(buffer, "PNG")
        return stored(buffer.getvalue())

    rows = [(colour(200), 1)] * 70 + [(colour(10), 3)] * 3 + [(stored(b"broken"), 3)]
    splits = load_fer_dataset(saved(tmp_path / "raw", train=rows))
    written = statistics.save_contact_sheets(splits, tmp_path / "sheets")
    assert [path.name for path in written] == ["train_happiness.png", "train_sadness.png"]
    full, part = (np.asarray(Image.open(path)) for path in written)
    assert full.shape == (530, 530, 3) and part.shape == (68, 266, 3)
    middle = full[2 + 32 :: 66, 2 + 32 :: 66]
    assert middle.shape == (8, 8, 3) and (middle == (200, 0, 55)).all()
    assert (full[4::66, 2 + 32 :: 66] == 255).all()  # as wide as the cell, half as high
    assert [tuple(part[34, 2 + 10 + 66 * i]) for i in range(3)] == [(10, 0, 245)] * 3
    assert tuple(part[34, 2 + 10 + 66 * 3]) != (10, 0, 245)


def test_plots_are_not_written_among_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(saved(tmp_path / "prepared", train=[(stored(png(1)), 0)]))
    before = sorted(path.name for path in folder.rglob("*"))
    for output in (folder, folder / "statistics"):
        assert "stays as it is" in sentence(capsys, "stats", str(folder), "--output", str(output))
    raw = ferplus_tree(tmp_path / "raw")
    assert "stays as it is" in sentence(capsys, "stats", "ferplus", "--raw", str(raw), "--output", str(raw))
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert cli.main(["data", "stats", str(folder), "--output", str(tmp_path)]) == 0


# --- prepared folders from elsewhere ------------------------------------------------------------------


def test_a_split_is_no_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "dataset", train=[(stored(png(1)), 0)])
    (tmp_path / "dataset" / "train").rename(tmp_path / "leaf")
    (tmp_path / "dataset" / "dataset_dict.json").write_text('{"splits": ["../leaf"]}')
    said = sentence(capsys, "stats", str(tmp_path / "dataset"), "--output", str(tmp_path / "statistics"))
    assert "letters, digits and underscores, not '../leaf'" in said
    assert not (tmp_path / "statistics").exists()


def test_folders_without_a_split_or_with_a_damaged_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": []}')
    assert "has no split" in sentence(capsys, "stats", str(tmp_path))
    out = tmp_path / "out"
    assert cli.main(["data", "prepare", "synthetic", "--out", str(out), *SMALL]) == 0
    (out / "README.md").write_text("---\nconfigs: [\n---\n")
    capsys.readouterr()
    assert "cannot be loaded: while parsing" in sentence(capsys, "stats", str(out))


# --- check --------------------------------------------------------------------------------------------


def test_check_raw_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = ferplus_tree(tmp_path / "raw")
    done = run("check", "ferplus", "--raw", str(raw))
    assert done.returncode == 2 and done.stdout == ""
    assert "not the official release" in done.stderr.splitlines()[-1]
    assert cli.main(["data", "check", "ferplus", "--raw", str(raw), "--option", "check_counts=false"]) == 0
    out = capsys.readouterr().out
    assert "train: 10 images, 0 of them repeated" in out
    assert "no image is in two splits" in out and "broken: 0" in out


def test_check_finds_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = io.BytesIO()
    Image.open(io.BytesIO(png(1))).convert("RGB").save(other, "BMP")  # the same picture in another file
    train = [(stored(png(i)), 0) for i in range(4)] + [(stored(png(0)), 1)]
    damaged = [(stored(png(90)[:90]), 2), (stored(b""), 2)]
    validation = [(stored(png(50)), 3), (stored(other.getvalue()), 0), (stored(png(2)), 5)]
    test = [(stored(png(60)), 3), (stored(None, "/nowhere.png"), 0), (stored(png(61)), None), (stored(png(3)), 0)]
    parts = split_columns(train=[*damaged, *train], validation=validation, test=test)
    result = statistics.check_images(parts)
    assert result["images"] == {"train": 7, "validation": 3, "test": 4}
    assert result["broken"] == 4
    assert [(split, row) for split, row, _ in result["broken_first"]] == [
        ("train", 0), ("train", 1), ("test", 1), ("test", 2),
    ]  # fmt: skip
    reasons = [reason for _, _, reason in result["broken_first"]]
    assert "cannot be decoded" in reasons[0] and "empty" in reasons[1]
    assert reasons[2].count("/nowhere.png") == 1 and "no label" in reasons[3]
    (tmp_path / "broken.jpg").write_bytes(b"<html>")
    by_path = split_columns(train=[(stored(None, str(tmp_path / "broken.jpg")), 0)])
    for fast in (False, True):
        reason = statistics.check_images(by_path, fast=fast)["broken_first"][0][2]
        assert reason.endswith(f" ({tmp_path / 'broken.jpg'})")
    assert result["repeated"] == {"train": 1, "validation": 0, "test": 0}
    first, second = result["leaks"]
    assert first == {
        "splits": ["train", "validation"],
        "images": 2,
        "other_label": 1,
        "first": [(1, "neutral", 3, "neutral"), (2, "disgust", 4, "neutral")],
    }
    assert second["splits"] == ["train", "test"] and second["first"] == [(3, "neutral", 5, "neutral")]

    fast = statistics.check_images(parts, fast=True)
    assert fast["broken"] == 3  # the header of the image that was cut is good
    assert [leak["images"] for leak in fast["leaks"]] == [1, 1]  # and another file is another image

    # On the command line: only leaks, then broken ones, too.
    clean = saved(tmp_path / "prepared", train=train[:4], validation=validation)
    assert cli.main(["data", "check", clean]) == 0
    out = capsys.readouterr().out
    assert "validation has 2 images that are in train, too (same pixels), 1 of them with another label:" in out
    assert "  validation row 2 (disgust) is train row 2 (neutral)\n" in out
    assert cli.main(["data", "check", clean, "--strict"]) == 2
    broken = saved(tmp_path / "broken", train=[(stored(b"x"), 0)] * 25, test=[(stored(png(1)), 0)])
    capsys.readouterr()
    assert cli.main(["data", "check", broken]) == 2
    out = capsys.readouterr().out
    assert "broken: 25\n" in out and out.count("  train row ") == 20 and "  and 5 more\n" in out
    assert "no image is in two splits" in out


def test_streams_have_no_statistics() -> None:
    splits = load_fer_dataset("synthetic", train=8, validation=8, test=8, size=16)
    streams = datasets.IterableDatasetDict({split: part.to_iterable_dataset() for split, part in splits.items()})
    with pytest.raises(FerError, match="without streaming"):
        statistics.dataset_statistics(streams)
    with pytest.raises(FerError, match="without streaming"):
        statistics.check_images(streams)
