"""The leaderboard: what is ranked against what, that pages show the records' figures, and whose files are replaced."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from record_factory import make_record

from hf_fer.errors import FerError
from hf_fer.evaluation.leaderboard import build_leaderboard
from hf_fer.evaluation.leaderboard_folder import read_leaderboard, read_records, write_leaderboard
from hf_fer.evaluation.leaderboard_plots import MOST_BARS, MOST_LINES, plots_of
from hf_fer.evaluation.markdown import NONE, TIMES, TO

HOSTILE = (
    "<script>alert(1)</script>",
    "a | b | c",
    "`code` **bold** _it_ ~~no~~",
    "[click](javascript:alert(1))",
    '"><img src=http://evil.example/x.png onerror=alert(1)>',
    "{} {0} {model} %s $\\alpha$",
    "--> <!-- /table -->",
)
GPU = {
    "median_ms": 0.5, "p90_ms": 0.75, "calls": 50, "batch_size": 1, "device": "cuda", "processor": "NVIDIA X",
    "threads": None, "dtype": "float16",
}  # fmt: skip
DIAGONAL = [[9, 1], [2, 8]]
CLASSES = ("neutral", "happiness")


def small(model: str, confusion: list[list[int]] = DIAGONAL, **changes: Any) -> dict[str, Any]:
    """A record of two classes whose accuracy can be read off its confusion matrix."""
    return make_record(model, confusion=confusion, classes=CLASSES, **changes)


def put(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> Path:
    for file, record in records.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record), encoding="utf-8")
    return folder


def only_board(records: Mapping[str, Mapping[str, Any]], rank_by: str | None = None) -> dict[str, Any]:
    (board,) = build_leaderboard([*records.items()], rank_by)["boards"]
    return board


def standing(board: Mapping[str, Any]) -> list[tuple[int, str]]:
    return [(row["rank"], row["model"]) for row in board["rows"]]


@pytest.fixture
def quick_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots that are not drawn, only saved, for tests of everything else."""

    def save(_: Any, path: Path) -> Path:
        Image.new("1", (1, 1)).save(path)
        return path

    monkeypatch.setattr("hf_fer.evaluation.leaderboard_plots._save", save)


# --- ranks --------------------------------------------------------------------------------------


def test_ties_share_a_rank_and_stand_by_name() -> None:
    records = {
        "1.json": small("b"),
        "2.json": small("worst", [[5, 5], [5, 5]]),
        "3.json": small("a", [[8, 2], [1, 9]]),  # other errors, as many of them
        "4.json": small("best", [[10, 0], [0, 10]]),
    }
    expected = [(1, "best"), (2, "a"), (2, "b"), (4, "worst")]
    assert standing(only_board(records)) == expected
    assert standing(only_board(dict(reversed(records.items())))) == expected
    assert build_leaderboard([*records.items()]) == build_leaderboard([*reversed(records.items())])


@pytest.mark.parametrize(
    ("protocol", "key"),
    [
        ("standard", "accuracy"),
        ("cross_dataset", "accuracy"),
        ("label_noise", "accuracy"),
        ("imbalance", "mean_class_accuracy"),
    ],
)
def test_each_protocol_ranks_by_its_own_figure(protocol: str, key: str) -> None:
    common, rare = [[95, 5], [9, 1]], [[80, 20], [2, 8]]  # the one is right more often, the other for both classes
    board = only_board(
        {"a.json": small("common", common, protocol=protocol), "b.json": small("rare", rare, protocol=protocol)}
    )
    assert board["ranked_by"] == key
    assert [row["model"] for row in board["rows"]] == (
        ["rare", "common"] if protocol == "imbalance" else ["common", "rare"]
    )


def test_multi_resolution_ranks_by_the_mean_of_the_lower_ones() -> None:
    records = {
        "a.json": make_record("sharp", factors=(1, 2, 4), accuracy=(0.95, 0.4, 0.3)),
        "b.json": make_record("blurred", factors=(4, 1, 2), accuracy=(0.7, 0.8, 0.75)),
    }
    board = only_board(records)
    assert standing(board) == [(1, "blurred"), (2, "sharp")]
    assert standing(only_board(records, "accuracy")) == [(1, "sharp"), (2, "blurred")]
    # Whichever factor a record names first, figures without a factor are those of the lowest.
    for row, file in zip(board["rows"], ("b.json", "a.json"), strict=True):
        resolutions = records[file]["resolutions"]
        assert row["figures"]["accuracy"] == resolutions["1"]["accuracy"]
        assert row["figures"]["average_low_resolution"] == np.mean([resolutions[k]["accuracy"] for k in ("2", "4")])
        assert list(row["by_factor"]) == ["1", "2", "4"]
    one_size = {"a.json": make_record("a", protocol="multi_resolution", reference_side=48)}
    assert only_board(one_size)["ranked_by"] == "accuracy"


def test_rank_by_a_figure_of_which_less_is_better() -> None:
    records = {f"{name}.json": make_record(name) for name in "abc"}
    board = only_board(records, "nll")
    values = [row["figures"]["nll"] for row in board["rows"]]
    assert values == sorted(record["metrics"]["nll"] for record in records.values())
    assert not board["higher_is_better"]


def test_rank_by_what_is_not_there() -> None:
    records = {"a.json": make_record("a"), "deep/b.json": make_record("b", with_probabilities=False)}
    with pytest.raises(FerError, match=r"1 record has no nll .*\(deep/b\.json\)"):
        build_leaderboard([*records.items()], "nll")
    with pytest.raises(FerError, match="cannot be ranked by 'speed'; choose one of accuracy, "):
        build_leaderboard([*records.items()], "speed")
    with pytest.raises(FerError, match="no records"):
        build_leaderboard([])
    with pytest.raises(FerError, match=r"date of a\.json is 'yesterday'"):
        build_leaderboard([("a.json", make_record("a", date="yesterday"))])


# --- boards -------------------------------------------------------------------------------------

BASE = {"n": 48, "factors": (1, 2)}
OTHER: dict[str, dict[str, Any]] = {
    "dataset": {"dataset": "rafdb"},
    "split": {"split": "validation"},
    "protocol": {"protocol": "label_noise"},
    "conditions": {"protocol": "label_noise", "conditions": {"label_noise": 0.1, "stated_by": "caller"}},
    "label_rule": {"label_rule": "argmax"},
    "options": {"options": {"label_rule": "majority", "classes": 7}},
    "reference_side": {"reference_side": 224},
    "factors": {"factors": (1, 2, 4)},
    "n": {"n": 56},
    "classes": {"classes": 7, "model_classes": ("neutral", "happiness", "surprise")},
    "images of each class": {"n": 47},
    "trained on": {"protocol": "cross_dataset"},
    "trained on two": {
        "protocol": "cross_dataset", "conditions": {"trained_on": ["rafdb", "sfew"], "stated_by": "caller"}
    },
}  # fmt: skip


def test_what_differs_in_more_than_the_model_is_never_ranked_together() -> None:
    records = {"base.json": make_record("base", **BASE)}
    records |= {f"{k}.json": make_record(f"m{k}", **BASE | changes) for k, changes in enumerate(OTHER.values())}
    for key, value in (("restricted_to_dataset_classes", True), ("left_out", {"contempt": 3})):
        record = make_record(key, **BASE)
        record["labels"][key] = value
        records[f"{key}.json"] = record
    same_n = make_record("same n", **BASE)
    for scores in same_n["resolutions"].values():
        scores["per_class"]["fear"]["support"] -= 1
        scores["per_class"]["anger"]["support"] += 1
    records["other images.json"] = same_n
    leaderboard = build_leaderboard([*records.items()])
    assert all(len(board["rows"]) == 1 for board in leaderboard["boards"])
    assert len(leaderboard["boards"]) == len(records) == len({board["slug"] for board in leaderboard["boards"]})
    headings = [board["heading"] for board in leaderboard["boards"]]
    assert len({*headings}) == len(headings) - 1  # images of each class stand below the heading


def test_the_heading_says_everything_in_words() -> None:
    record = make_record(
        "a", factors=(1, 4), n=1600, protocol="imbalance", reference_side=64, options={"classes": 8, "votes": True},
        conditions={"imbalance_factor": 50.0, "stated_by": "report"},
    )  # fmt: skip
    record["labels"] |= {"left_out": {"contempt": 1200}, "restricted_to_dataset_classes": True}
    assert only_board({"a.json": record})["heading"] == (
        "ferplus, test split, imbalance protocol (trained with an imbalance factor of 50), "
        f"resolution {TIMES}1, {TIMES}4, of faces brought to 64 px, 1,600 images, 8 classes, label rule majority, "
        "votes true, answers kept to the classes of the data set, without 1,200 of contempt"
    )


def test_who_states_a_condition_and_how_numbers_are_written_make_no_board() -> None:
    conditions = [
        {"imbalance_factor": 100, "stated_by": "caller"},
        {"imbalance_factor": 100.0, "stated_by": "report"},
    ]
    records = {f"{k}.json": make_record(f"m{k}", conditions=c, protocol="imbalance") for k, c in enumerate(conditions)}
    stated = {row["model"]: row["training"]["stated_by"] for row in only_board(records)["rows"]}
    assert stated == {"m0": "caller", "m1": "report"}
    trained = [["rafdb", "sfew"], ["sfew", "rafdb"]]
    records = {
        f"{k}.json": make_record(f"m{k}", protocol="cross_dataset", conditions={"trained_on": t, "stated_by": "caller"})
        for k, t in enumerate(trained)
    }
    assert len(only_board(records)["rows"]) == 2


def test_the_address_of_a_board_does_not_depend_on_the_others() -> None:
    one = build_leaderboard([("a.json", make_record("a"))])["boards"][0]["slug"]
    more = [
        ("a.json", make_record("a", seed=4)),
        ("b.json", make_record("b", n=72)),
        ("c.json", make_record("c", n=64)),
    ]
    assert one in {board["slug"] for board in build_leaderboard(more)["boards"]}
    assert re.fullmatch("ferplus-test-standard-[0-9a-f]{6}", one)


# --- one model, several records -----------------------------------------------------------------


def test_the_newest_of_several_records_is_ranked_and_the_others_are_listed() -> None:
    dates = ("2025-01-01T12:00:00+00:00", "2025-01-01T10:30:00-05:00", "2025-01-01T14:00:00Z")  # 12:00, 15:30, 14:00
    records = {f"{k}.json": make_record("a", seed=k, date=date) for k, date in enumerate(dates)}
    records["other revision.json"] = make_record("a", revision="0" * 40)
    records["other source.json"] = make_record("a", source="pipeline")
    board = only_board(records)
    shown = {(row["revision"], row["source"]): row["file"] for row in board["rows"]}
    assert shown == {
        (None, "model"): "1.json", ("0" * 40, "model"): "other revision.json", (None, "pipeline"): "other source.json"
    }  # fmt: skip
    assert {row["file"]: row["superseded_by"] for row in board["superseded"]} == {
        "0.json": "1.json",
        "2.json": "1.json",
    }
    for row in board["superseded"]:
        assert row["figures"]["accuracy"] == records[row["file"]]["metrics"]["accuracy"]
        assert row["date"] == records[row["file"]]["date"]


def test_the_same_figures_again_are_shown_once() -> None:
    old = make_record("a", latency=GPU, date="2024-01-01T00:00:00Z")
    new = make_record("a", latency=3.0)
    last_bits = make_record("a", date="2023-01-01T00:00:00Z")
    last_bits["resolutions"]["1"]["ece"] += 1e-13
    board = only_board({"new.json": new, "old.json": old, "last bits.json": last_bits})
    (row,) = board["rows"]
    assert row["file"] == "new.json"
    assert [repeat["file"] for repeat in row["repeats"]] == ["old.json", "last bits.json"]
    assert not board["superseded"]
    assert [entry["median_ms"] for entry in row["latencies"]] == [3.0, 0.5]  # that of the other machine is not lost
    old["parameters"] += 1
    assert [row["file"] for row in only_board({"new.json": new, "old.json": old})["superseded"]] == ["old.json"]


# --- latency and plots --------------------------------------------------------------------------


def test_latencies_are_compared_on_one_machine_only() -> None:
    def kinds(records: Mapping[str, Any]) -> list[str]:
        return [plot.file.rsplit("-", 1)[1] for plot in plots_of(only_board(records))]

    slow = GPU | {"dtype": "float32"}
    two_machines = {"a.json": make_record("a", latency=GPU), "b.json": make_record("b", latency=slow)}
    assert kinds(two_machines) == ["recall.png"]
    assert kinds({**two_machines, "c.json": make_record("c", latency=GPU)}) == ["latency.png", "recall.png"]
    several = {f"{k}.json": make_record(f"m{k}", factors=(1, 2)) for k in range(2)}
    assert kinds(several) == ["resolution.png", "recall.png"]


@pytest.mark.parametrize("count", [1, 12])
def test_plots_are_pictures_of_a_sane_size_whatever_the_names(tmp_path: Path, count: int) -> None:
    names = [*HOSTILE, "x" * 5000, "日本語", "$", "_hidden", *(f"m{k}" for k in range(count))][-max(count, 1) :]
    names = [*HOSTILE[: count - 1], "x" * 200 + "y", *names][:count]
    latencies = [3.0 * 1.5**k for k in range(count)]
    records = {
        f"{k}.json": make_record(name, factors=(1, 2), latency=latency, dataset=HOSTILE[5])
        for k, (name, latency) in enumerate(zip(names, latencies, strict=True))
    }
    plots = plots_of(only_board(records))
    assert len(plots) == (3 if count > 1 else 2)
    for plot in plots:
        with Image.open(plot.draw(tmp_path / plot.file)) as image:
            assert image.format == "PNG"
            assert 700 < image.width < 2200
            assert 400 < image.height < 2200
            assert np.asarray(image.convert("L")).std() > 5


def test_plots_say_what_they_leave_out() -> None:
    records = {f"{k}.json": make_record(f"m{k}", n=8, factors=(1, 2)) for k in range(MOST_LINES + 1)}
    descriptions = [plot.description for plot in plots_of(only_board(records))]
    assert f"(the best {MOST_LINES} of {MOST_LINES + 1} rows)" in descriptions[0]
    assert f"(the best {MOST_BARS} of {MOST_LINES + 1} rows)" in descriptions[1]


# --- reading ------------------------------------------------------------------------------------


def test_records_are_read_from_all_folders_in_order(tmp_path: Path) -> None:
    records = {"b.json": make_record("b"), "a/z.json": make_record("z"), "a/b/C.JSON": make_record("c")}
    put(tmp_path, records)
    (tmp_path / "notes.txt").write_text("no record")
    read = read_records(tmp_path)
    assert [file for file, _ in read] == ["a/b/C.JSON", "a/z.json", "b.json"]
    assert dict(read) == records


def test_every_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    put(tmp_path, {"good.json": make_record("a")})
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "two\nlines\x1b[31m.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    with pytest.raises(FerError) as error:
        read_records(tmp_path)
    first, *others = str(error.value).splitlines()
    assert first.startswith("4 of the 5 JSON files in ")
    assert [line.split(":")[0] for line in others] == [
        "- broken.json",
        "- deep/list.json",
        "- link",
        "- two lines [31m.json",
    ]
    assert "is not JSON" in others[0]
    with pytest.raises(FerError, match=r"no \*\.json"):
        (tmp_path / "empty").mkdir()
        read_records(tmp_path / "empty")
    with pytest.raises(FerError, match="is no folder"):
        read_records(tmp_path / "good.json")


# --- pages --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with their attributes, text, and whether every tag is closed that needs to be."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        where = {"script": self.scripts, "style": []}.get(self.open[-1] if self.open else "", self.texts)
        where.append(data)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(folder with the leaderboard, records by file name)."""
    out = tmp_path_factory.mktemp("out")
    records = {f"m{k}.json": make_record(name, factors=(1, 2), latency=2.0 + k) for k, name in enumerate(HOSTILE)}
    records["gpu.json"] = make_record("gpu", factors=(1, 2), latency=GPU, revision=HOSTILE[0])
    training = {
        "report": "report.json", "dataset": None, "imbalance_factor": None, "label_noise": None,
        "selected_by": HOSTILE[4], "epoch": 3, "seed": 1234,
    }  # fmt: skip
    records["a (1) [x].json"] = make_record("trained", factors=(1, 2), training=training)
    records["older.json"] = make_record("gpu", factors=(1, 2), revision=HOSTILE[0], seed=5, date="2024-01-01T00:00:00Z")
    records["elsewhere.json"] = make_record("x", dataset=HOSTILE[4], split=HOSTILE[1], with_probabilities=False)
    put(out / "results", records)
    write_leaderboard(out / "results", out, title=HOSTILE[0])
    return out, records


def test_html_is_whole_and_runs_nothing_of_a_name(hostile: tuple[Path, dict[str, Any]]) -> None:
    out, _ = hostile
    page = Page((out / "leaderboard.html").read_text(encoding="utf-8"))
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "ul", "li", "a", "div", "table", "thead",
        "tbody", "tr", "th", "td", "figure", "figcaption", "img", "details", "summary", "script", "code",
    }  # fmt: skip
    assert len(page.scripts) == 1
    assert "alert" not in page.scripts[0]
    (policy,) = (a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert policy.startswith(f"script-src 'sha256-{digest}';")  # or a browser would not run ours either
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for address in (attributes.get("src"), attributes.get("href")):
            assert address is None or address.startswith("#") or (out / unquote(address)).is_file()
        assert tag != "link"
        assert tag != "script" or "src" not in attributes
        assert tag != "img" or (out / attributes["src"]).is_file()
    texts = {text.strip() for text in page.texts}
    assert set(HOSTILE) <= texts  # shown as they are


def test_markdown_lets_no_markup_of_a_name_through(hostile: tuple[Path, dict[str, Any]]) -> None:
    out, _ = hostile
    text = (out / "README.md").read_text(encoding="utf-8")
    assert {*re.findall("<[^>]*>", text)} == {
        "<!-- written by hf-fer leaderboard: edits are lost -->", "<details>", "</details>", "<summary>", "</summary>",
        "</a>", *re.findall(r'<a id="[a-z0-9-]+">', text),
    }  # fmt: skip
    assert not re.search(r"(?<!\\)\]\(javascript|(?<!\\)`code|(?<!\\)\*\*bold|http://", text)
    widths: dict[str, int] = {}
    tables = re.split(r"\n\n", text)
    for table in (part for part in tables if part.startswith("| ")):
        counted = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counted) == 1, table
        widths[table.splitlines()[0]] = counted.pop()
    assert len(widths) >= 4
    links = re.findall(r"(?<!\\)\]\(([^)#]*)\)", text)
    assert "results/a%20%281%29%20%5Bx%5D.json" in links
    assert all(not link or link.startswith("results/") or (out / link).is_file() for link in links)


def rows_of(text: str, first: str) -> dict[str, list[str]]:
    """Rows of the first Markdown table whose head begins so, by the second cell."""
    table = text[text.index(first) :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
    return {row[1]: row for row in cells}


@pytest.mark.usefixtures("quick_plots")
def test_pages_show_the_figures_of_the_records(tmp_path: Path) -> None:
    records = {
        f"{name}.json": make_record(name, factors=(1, 2), n=400, latency=latency, parameters=parameters)
        for name, latency, parameters in (("one", 3.21, 1_234_567), ("two", 4.32, None), ("three", GPU, 7))
    }
    folder = put(tmp_path / "r", records)
    write_leaderboard(folder, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    board = read_leaderboard(tmp_path / "out/leaderboard.json")["boards"][0]
    html_rows = re.findall("<tr>(.*?)</tr>", (tmp_path / "out/leaderboard.html").read_text(encoding="utf-8"))
    main, by_factor = rows_of(text, "| rank | model | accuracy"), rows_of(text, f"| rank | model | {TIMES}1")
    latencies = {"one": "3.21", "two": "4.32", "three": "0\\.5 on cuda, NVIDIA X, float16"}
    for row in board["rows"]:
        name = row["model"]
        record = records[f"{name}.json"]
        first, second = record["resolutions"]["1"], record["resolutions"]["2"]
        assert row["figures"] == {
            **{key: first[key] for key in row["figures"] if key in first},
            "average_low_resolution": second["accuracy"],
        }

        def share(scores: Mapping[str, Any], key: str) -> str:
            low, high = (100 * bound for bound in scores["ci95"][key])
            return f"{100 * scores[key]:.2f} ({low:.2f}{TO}{high:.2f})"

        expected = [
            str(row["rank"]),
            name,
            share(first, "accuracy"),
            share(first, "mean_class_accuracy"),
            f"{100 * second['accuracy']:.2f}",
            f"{100 * first['f1_macro']:.2f}",
            *(f"{first[key]:.4f}" for key in ("challenge_score", "nll", "ece", "brier")),
            latencies[name],
            NONE if record["parameters"] is None else f"{record['parameters']:,}",
        ]
        assert main[name] == expected
        assert by_factor[name][2:] == [share(first, "accuracy"), share(second, "accuracy")]
        cells = [re.findall("<td[^>]*>(.*?)</td>", html) for html in html_rows]
        assert [cell.replace("\\", "") for cell in expected] in cells
    assert [*main] == [row["model"] for row in board["rows"]]
    assert "on cpu, x86_64, 1 thread, float32 unless said otherwise" in text
    assert "](r/" not in text  # the records are elsewhere, seen from the page


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records = {f"{k}.json": make_record(f"m{k % 3}", seed=k, factors=(1, 2)) for k in range(5)}
    put(tmp_path / "one", records)
    put(tmp_path / "two", dict(reversed(records.items())))
    write_leaderboard(tmp_path / "one", tmp_path / "a")
    write_leaderboard(tmp_path / "two", tmp_path / "b")
    first = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert {"leaderboard.json", "README.md", "leaderboard.html"} < first.keys()
    write_leaderboard(tmp_path / "one", tmp_path / "a")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}


@pytest.mark.usefixtures("quick_plots")
def test_long_texts_are_cut_where_one_sees_it(tmp_path: Path) -> None:
    record = make_record("m" * 500, options={"form": "f" * 5000, **{f"k{k}": 1 for k in range(500)}})
    folder = put(tmp_path / "r", {"a.json": record, "b.json": record | {"model": "   ", "dataset": "d" * 500}})
    write_leaderboard(folder, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert f"| {'m' * 199}\u2026 |" in text
    assert f"| 1 | {NONE} |" in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert max(map(len, headings)) < 1100
    assert sum("\u2026" in line for line in headings) == 2


# --- whose files --------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_plots")
def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    folder = put(tmp_path / "results", {"a.json": make_record("a")})
    out = tmp_path / "out"
    plot = next(path.name for path in write_leaderboard(folder, out) if path.suffix == ".png")
    shutil.rmtree(out)
    out.mkdir()
    for name in ("README.md", "leaderboard.html", "leaderboard.json", plot):
        (out / name).write_text("mine")
    with pytest.raises(FerError, match=rf"leaderboard\.json, README\.md, leaderboard\.html, {plot}") as error:
        write_leaderboard(folder, out)
    assert "--force" in str(error.value)
    assert {path.read_text() for path in out.iterdir()} == {"mine"}
    written = write_leaderboard(folder, out, force=True)
    assert {path.name for path in written} == {path.name for path in out.iterdir()}
    assert all(path.read_bytes() != b"mine" for path in written)
    (out / "README.md").write_text("mine again")
    with pytest.raises(FerError, match=r"would be lost \(README\.md\)"):
        write_leaderboard(folder, out)


@pytest.mark.usefixtures("quick_plots")
def test_plots_of_an_earlier_leaderboard_go_and_nothing_else(tmp_path: Path) -> None:
    folder = put(tmp_path / "results", {"a.json": make_record("a"), "b.json": make_record("b", dataset="rafdb")})
    out = tmp_path / "out"
    write_leaderboard(folder, out)
    (out / "notes.txt").write_text("mine")
    (out / "leaderboard-mine.png").write_bytes((next(out.glob("*rafdb*.png"))).read_bytes())
    outside = tmp_path / "leaderboard-outside.png"
    outside.write_bytes((out / "leaderboard-mine.png").read_bytes())
    listing = json.loads((out / "leaderboard.json").read_text())
    listing["boards"][0]["plots"] += [{"file": "../leaderboard-outside.png"}, {"file": "notes.txt"}]
    (out / "leaderboard.json").write_text(json.dumps(listing))
    (folder / "b.json").unlink()
    written = write_leaderboard(folder, out)
    assert {path.name for path in out.iterdir()} == {
        *(path.name for path in written),
        "notes.txt",
        "leaderboard-mine.png",
    }
    assert outside.exists()
    assert not [*out.glob("*rafdb*")]


@pytest.mark.usefixtures("quick_plots")
def test_out_and_the_folder_of_the_records(tmp_path: Path) -> None:
    folder = put(tmp_path / "results", {"a.json": make_record("a")})
    for out in (folder, folder / "deeper", folder / ".." / "results"):
        with pytest.raises(FerError, match="is in the folder of the records"):
            write_leaderboard(folder, out)
    (tmp_path / "file").write_text("")
    with pytest.raises(FerError, match="is a file"):
        write_leaderboard(folder, tmp_path / "file")
    (tmp_path / "taken/README.md").mkdir(parents=True)
    with pytest.raises(FerError, match=r"has folders .*\(README\.md\)"):
        write_leaderboard(folder, tmp_path / "taken", force=True)
    write_leaderboard(folder, tmp_path)  # above them
    write_leaderboard(folder, tmp_path)
    assert [file for file, _ in read_records(folder)] == ["a.json"]


@pytest.mark.usefixtures("quick_plots")
def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "results", {"a.json": make_record("a")})
    out = tmp_path / "out"
    write_leaderboard(folder, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    put(folder, {"b.json": make_record("b", factors=(1, 2))})

    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hf_fer.evaluation.leaderboard_plots._save", full)
    with pytest.raises(FerError, match="No space left"):
        write_leaderboard(folder, out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
