"""`hf-fer evaluate`, `score` and `leaderboard` as a person types them: what they write, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from record_factory import make_record
from tiny_models import CLASSES, tiny_vit

from hf_fer import cli
from hf_fer.evaluation import read_record, write_record

SMALL = ["--data=synthetic", "--option=train=8", "--option=validation=8", "--option=test=16"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import ViTImageProcessor

    folder = tmp_path_factory.mktemp("command") / "tiny"
    tiny_vit([*CLASSES, "anger", "disgust", "fear", "contempt"]).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main([*arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if line.startswith("hf-fer: ")]
    assert len(said) == 1, lines
    return said[0]


def test_a_template_is_filled_in_and_scored(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", "mine.csv", *SMALL, "--template"]) == 0
    header, *rows = Path("mine.csv").read_text().splitlines()
    assert header == "id,label" and rows == [f"test/{row}," for row in range(16)]
    assert "16 of 16 rows are like this" in refused(capsys, "score", "mine.csv", *SMALL)
    assert "exists already" in refused(capsys, "score", "mine.csv", *SMALL, "--template")
    Path("mine.csv").write_text("\n".join([header, *(f"{row}joy" for row in rows)]))
    assert cli.main(["score", "mine.csv", *SMALL, "--name=always joy"]) == 0
    assert "'joy' read as happiness" in capsys.readouterr().out
    record = read_record("results/always-joy-synthetic-test.json")
    assert record["model"] == "always joy" and record["source"] == "predictions"
    assert record["resolutions"]["1"]["per_class"]["happiness"]["recall"] == 1.0
    assert {file.suffix for file in Path("results").iterdir()} == {".json", ".png"}


def test_protocols_and_their_flags(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate = ["evaluate", checkpoint, *SMALL]
    assert cli.main([*evaluate, "--trained-on=rafdb", "--trained-on=sfew", "--output=cross.json"]) == 0
    assert "protocol cross_dataset (trained on rafdb, sfew)" in capsys.readouterr().out
    assert read_record("cross.json")["protocol"] == "cross_dataset"
    assert cli.main([*evaluate, "--protocol=label_noise", "--label-noise=0.3", "--output=noise.json", "--latency"]) == 0
    out = capsys.readouterr().out
    assert "protocol label_noise (label noise 0.3)" in out and "ms an image" in out
    assert cli.main([*evaluate, "--protocol=multi_resolution", "--reference-side=32", "--output=multi.json"]) == 0
    record = read_record("multi.json")
    assert list(record["resolutions"]) == ["1", "2", "4", "8"] and record["reference_side"] == 32
    said = refused(capsys, *evaluate, "--protocol=standard", "--imbalance-factor=50")
    assert "--imbalance-factor belongs to --protocol imbalance, not to standard" in said
    assert "--all-classes belongs to" in refused(capsys, *evaluate, "--protocol=imbalance", "--all-classes")
    assert "is not a number" in refused(capsys, *evaluate, "--label-noise=inf")
    assert "pass imbalance_factor= (--imbalance-factor)" in refused(capsys, *evaluate, "--protocol=imbalance")
    assert "use multi_resolution" in refused(capsys, *evaluate, "--protocol=standard", "--resolutions=1,2")
    assert "NAME=EXPRESSION" in refused(capsys, *evaluate, "--label-map=neutral")
    assert "say it once" in refused(capsys, *evaluate, "--label-map=a=fear", "--label-map=a=anger")
    assert "suffix" in refused(capsys, *evaluate, "--predictions=answers.txt", "--output=p.json")
    Path("there.csv").touch()
    assert "there.csv: exists already" in refused(capsys, *evaluate, "--predictions=there.csv", "--output=p.json")
    assert not Path("p.json").exists() and not Path("results").exists()


def test_leaderboard_from_a_folder_of_records(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k, name in enumerate(("first", "second")):
        record = make_record(name, seed=k, accuracy=0.8 - 0.2 * k, factors=(1, 2, 4, 8), protocol="multi_resolution")
        write_record(record, f"records/{name}.json")
    assert cli.main(["leaderboard", "build", "records", "--out", "board", "--title", "Ours"]) == 0
    assert "board/leaderboard.html" in capsys.readouterr().out
    (board,) = json.loads(Path("board/leaderboard.json").read_text())["boards"]
    assert [row["model"] for row in board["rows"]] == ["first", "second"]
    assert cli.main(["leaderboard", "build", "records", "--out", "board"]) == 0  # its own files may be replaced
    shutil.copy("records/first.json", "table.json")
    page = Path("page.md")
    page.write_text("# A page\n\n<!-- table: resolutions table.json -->\nold\n<!-- /table -->\n")
    assert "page.md: tables differ from their records" in refused(capsys, "leaderboard", "fill", "--check", "page.md")
    assert "old" in page.read_text()
    assert cli.main(["leaderboard", "fill", "page.md"]) == 0
    assert "old" not in page.read_text() and "80" in page.read_text()
    assert cli.main(["leaderboard", "fill", "--check", "page.md"]) == 0
    typed = json.loads(Path("records/second.json").read_text())
    typed["resolutions"]["1"]["accuracy"] = typed["metrics"]["accuracy"] = 0.99
    Path("records/second.json").write_text(json.dumps(typed))
    assert "second.json" in refused(capsys, "leaderboard", "build", "records", "--out", "board")
