"""Model cards: valid metadata, no figure that the report lacks, and nothing hostile comes through."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_fer import FerError, label_names
from hf_fer.hub.card import build_card, write_card

EMBEDDED = {"consistency_weight": 0, "smoothing": 0, "classify_transformed": False, "grayscale": True, "image_size": 48}
FIGURES = ("accuracy", "mean_class_accuracy", "f1_macro", "challenge_score", "nll", "ece")


def made_up_metrics(names: list[str], seed: int) -> dict[str, Any]:
    """Figures that are all different, so that one in the wrong place is found out."""
    size = len(names)
    matrix = [[40 + k if k == j else (k * 7 + j * 3 + seed) % 5 for j in range(size)] for k in range(size)]
    return {
        "n": 1234,
        **{key: 0.9137 - 0.0713 * seed - 0.0317 * k for k, key in enumerate(FIGURES)},
        "classes_absent": [],
        "per_class": {
            name: {
                "precision": 0.7123 + 0.0101 * k,
                "recall": 0.6111 + 0.0103 * k,
                "f1": 0.6517 + 0.0107 * k,
                "support": 16 + 41 * k,
            }
            for k, name in enumerate(names)
        },
        "confusion_matrix": matrix,
        "ci95": {
            "accuracy": [0.9013 - 0.0711 * seed, 0.9237 - 0.0711 * seed],
            "mean_class_accuracy": [0.8613 - 0.0711 * seed, 0.9039 - 0.0711 * seed],
            "method": "percentile bootstrap",
            "resamples": 1000,
            "seed": 0,
        },
    }


def made_up_record(names: list[str], epoch: int, seed: int) -> dict[str, Any]:
    return {
        "model": "run",
        "revision": None,
        "dataset": "ferplus",
        "split": "test",
        "protocol": "multi_resolution",
        "label_rule": "majority",
        "options": {"label_rule": "majority", "classes": len(names), "form": None},
        "n": 1234,
        "metrics": {},
        "resolutions": {factor: made_up_metrics(names, seed + k) for k, factor in enumerate(("1", "2", "4"))},
        "average_low_resolution": 0.70317,
        "parameters": 2_345_678,
        "seed": 3,
        "epoch": epoch,
        "versions": {"python": "3.11.7", "torch": "2.15.0", "datasets": None},
        "hardware": {"device": "cpu", "dtype": "float32", "processor": "x86_64", "threads": 2, "platform": "Linux-6.1"},
        "date": "2026-01-02T03:04:05+00:00",
    }


def make_run(folder: Path, names: list[str] | None = None, **recipe: Any) -> Path:
    """A run folder as training leaves it, without the weights."""
    names = list(names or label_names("ferplus"))
    folder.mkdir(parents=True)
    config = {
        "model_type": "mek",
        "id2label": {str(k): name for k, name in enumerate(names)},
        "backbone": "resnet18",
        "class_counts": [1000 + 137 * k for k in range(len(names))],
        **EMBEDDED,
    }
    keys = {
        "dataset": "ferplus",
        "dataset_options": {"label_rule": "majority", "token": "hf_secret"},
        "data_root": "/home/somebody/ferplus",
        "soft_targets": True,
        "degrade": 0.5,
        "degrade_max": 6.0,
        "mixed_precision": "bf16",
        "epochs": 60,
    }
    report = {
        "selected": made_up_record(names, epoch=56, seed=0),
        "last": made_up_record(names, epoch=60, seed=3),
        "selected_by": "accuracy_over_resolutions on the validation split",
        "validation": {"epoch": 56, "selection": 0.77777, "accuracy": 0.8},
        "train_seconds": 8143,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**keys, **recipe}))
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "curves.png").touch()
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "my_run")


def body(card: str) -> str:
    return card.split("\n---\n", 1)[1]


def code_blocks(card: str, language: str) -> list[str]:
    return [text for _, text in re.findall(rf"^(`{{3,}}){language}\n(.*?)\n\1$", card, re.MULTILINE | re.DOTALL)]


def without_code_blocks(card: str) -> str:
    return re.sub(r"^(`{3,}).*?^\1$", "", body(card), flags=re.MULTILINE | re.DOTALL)


def test_metadata_comes_back_as_the_report_has_it(run: Path) -> None:
    path = write_card(run)
    assert path == run / "README.md"
    assert path.read_text(encoding="utf-8") == build_card(run)
    data = ModelCard.load(path).data
    assert data.pipeline_tag == "image-classification"
    assert data.library_name == "transformers"
    assert data.license == "apache-2.0"
    assert data.tags == ["hf-fer", "facial-expression-recognition", "mek"]
    assert data.datasets is None  # FERPlus has no official place on the Hub
    assert data.model_name == "my_run"
    resolutions = json.loads((run / "report.json").read_text())["selected"]["resolutions"]
    got = {(r.metric_args["resolution_factor"], r.metric_type): r.metric_value for r in data.eval_results}
    assert got == {
        (float(factor), key): metrics[key]
        for factor, metrics in resolutions.items()
        for key in ("accuracy", "mean_class_accuracy")
    }
    assert {(r.task_type, r.dataset_type, r.dataset_split) for r in data.eval_results} == {
        ("image-classification", "ferplus", "test")
    }
    assert len({r.metric_name for r in data.eval_results}) == len(data.eval_results)


def numbers_of(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_of(item)
    elif isinstance(value, int | float):
        yield float(value)


def test_every_number_is_in_the_report(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    values = list(numbers_of(report))
    allowed = {f"{100 * v:.2f}" for v in values} | {f"{v:.4f}" for v in values} | {f"{v:.0f}" for v in values}
    counts = json.loads((run / "config.json").read_text())["class_counts"]
    allowed |= {str(n) for n in (*counts, sum(counts))} | {"0.5"}  # 0.5: the recipe's degrade
    text = re.sub(
        r"`[^`]*`|2024/1689|Article \S+|Apache-2.0|2026\S+|0\.33 · accuracy \+ 0\.67|FER2013",
        "",
        without_code_blocks(build_card(run)),
    )
    shown = [n.replace(",", "") for n in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]
    figures = [n for n in shown if "." in n or len(n) > 2]
    assert len(figures) > 60
    assert set(figures) <= allowed


def test_tables_hold_the_figures_in_their_places(run: Path) -> None:
    card = build_card(run)
    selected = json.loads((run / "report.json").read_text())["selected"]["resolutions"]
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in card.splitlines() if line.startswith("| ")}
    for factor, metrics in selected.items():
        low, high = (100 * v for v in metrics["ci95"]["accuracy"])
        cells = [cell.strip() for cell in rows[f"\u00d7{factor}"]]
        assert cells[0] == f"{100 * metrics['accuracy']:.2f} ({low:.2f}\u2013{high:.2f})"
        assert cells[1].startswith(f"{100 * metrics['mean_class_accuracy']:.2f} (")
        assert cells[2:] == [
            f"{100 * metrics['f1_macro']:.2f}",
            *(f"{metrics[key]:.4f}" for key in ("challenge_score", "nll", "ece")),
        ]
    for name, row in selected["1"]["per_class"].items():
        want = [f"{100 * row[key]:.2f}" for key in ("precision", "recall", "f1")] + [str(row["support"])]
        assert [cell.strip() for cell in rows[name]] == want
    assert "Epoch 56 of 60, selected by accuracy_over_resolutions on the validation split (77.78 % there)" in card
    assert "Last epoch (60)" in card
    assert "neutral (16), happiness (57), surprise (98)." in card
    assert "2,345,678 parameters" in card
    assert "8,143 s (about 2 h 16 min) for 60 epochs" in card


def test_usage_compiles_and_names_the_repository(run: Path) -> None:
    for repo, card in (("my_run", build_card(run)), ("me/fer-48", build_card(run, "me/fer-48"))):
        (snippet,) = code_blocks(card, "python")
        compile(snippet, "card", "exec")
        assert f'repo = "{repo}"' in snippet
        assert "import hf_fer" in snippet
        assert len(snippet.splitlines()) == 6
        assert "trust_remote_code=True" in card
    assert "# me/fer-48" in card


def test_out_of_scope_and_limits_are_there(run: Path) -> None:
    card = build_card(run)
    out_of_scope = card[card.index("## Out of scope") : card.index("## Limits")]
    for word in ("at work", "schools", "hiring", "border", "credit", "insurance", "diagnosis", "lies", "identified"):
        assert word in out_of_scope
    assert "Article 5(1)(f) of the EU AI Act" in out_of_scope
    limits = card[card.index("## Limits") :]
    for word in ("not a feeling", "search engine", "unbalanced", "Small classes", "12 px"):
        assert word in limits
    assert "**Energy**: not measured" in card


def test_recipe_is_complete_but_private(run: Path) -> None:
    card = build_card(run)
    (block,) = code_blocks(card, "yaml")
    recipe = yaml.safe_load(block)
    assert recipe["data_root"] == "ferplus"
    assert recipe["dataset_options"] == {"label_rule": "majority"}
    assert recipe["degrade_max"] == 6.0
    assert "/home" not in card
    assert "hf_secret" not in card
    (command,) = code_blocks(card, "bash")
    assert command.startswith("accelerate launch -m hf_fer.cli train recipe.yaml --method mek --data_root DIR")


def test_what_was_done_to_the_data_is_said(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", dataset="rafdb", soft_targets=False, sampling="group_balanced", images_per_group=512,
        images_per_class=500, resize_size=64,
    )  # fmt: skip
    path = run / "report.json"
    report = json.loads(path.read_text())
    report["data"] = {
        "test_set_aside": {"share": 0.2, "by": "image", "seed": 0},
        "validation_set_aside": {"share": 0.1, "by": "group", "seed": 0},
        "imbalance_factor": 50,
        "label_noise": 0.3,
        "train_images": 777,
    }
    report["selected"]["reference_side"] = 224
    path.write_text(json.dumps(report))
    card = build_card(run)
    for said in (
        "777 training images",
        "The validation images were set aside from the training split (10 %, whole groups, seed 0).",
        "The test images were set aside from the training split (20 %, the same share of every class, seed 0).",
        "thinned out to an imbalance factor of 50",
        "30 % of the training labels were moved to another class on purpose.",
        "up to 512 images of each group (video, subject, character), and of those 500 of each class",
        "brings its shorter side to 64 px and cuts 48\u00d748 px out of the middle",
        "each image, whatever its size, is brought to 224/s px and to 224 px (bicubic)",
    ):
        assert said in card, said
    assert "--method mek --data_root DIR --output_dir RUN" in card
    start = make_run(tmp_path / "start", dataset="./faces", data_root=None, backbone_weights="resnet18_msceleb.pth")
    assert "--method mek --dataset FOLDER --backbone_weights FILE --output_dir RUN" in build_card(start)
    change(path, mixed_precision="fp16")  # the launcher's choice counts
    assert "precision `fp16`" in build_card(run)
    change(path, mixed_precision="no")
    assert "precision" not in without_code_blocks(build_card(run)).split("**Hardware**")[1].split("\n")[0]
    plain = build_card(make_run(tmp_path / "plain"))
    for said in ("set aside", "thinned out", "on purpose", "out of the middle", "whatever its size", "of each group"):
        assert said not in plain, said


def test_only_plots_that_exist_are_shown(run: Path) -> None:
    assert re.findall(r"!\[.*?\]\((.*?)\)", build_card(run)) == ["curves.png"]
    (run / "confusion_matrix.png").touch()
    assert "(confusion_matrix.png)" in build_card(run)


@pytest.mark.parametrize(
    ("switches", "name", "baseline"),
    [
        ({}, "plain cross-entropy", True),
        ({"class_weighting": "effective_number"}, "class-balanced cross-entropy", True),
        ({"consistency_weight": 5, "rebalance_attention": False}, "EAC", False),
        ({"consistency_weight": 2, "classify_transformed": True}, "the RAC half of MEK", False),
        ({"smoothing": 0.1, "classify_transformed": True}, "the RSL half of MEK", False),
        ({"consistency_weight": 2, "smoothing": 0.1, "classify_transformed": True}, "MEK (RAC + RSL)", False),
    ],
)
def test_the_method_is_named_for_what_it_did(run: Path, switches: dict[str, Any], name: str, baseline: bool) -> None:
    change(run / "config.json", **switches)
    card = build_card(run)
    assert f"Method: **{name}**" in card
    assert ("this is a baseline and not MEK" in card) == baseline
    assert "the vote distribution of each image" in card
    assert ("zhang2022learn" in card) == (name == "EAC")
    assert "zhang2023leave" in card
    assert "BarsoumICMI2016" in card


def test_a_synthetic_run_says_so(tmp_path: Path) -> None:
    card = build_card(make_run(tmp_path / "drawn", dataset="synthetic", data_root=None, soft_targets=False))
    assert "Drawn faces only." in card
    assert "It is of no use on real" in card
    assert "FERPlus" not in card
    assert "--data_root" not in card
    assert "the label of each image" in card


@pytest.mark.parametrize(
    ("dataset", "datasets", "shown"),
    [("owner/faces", ["owner/faces"], "owner/faces"), ("/home/somebody/my faces", None, "my-faces")],
)
def test_only_hub_ids_are_linked(tmp_path: Path, dataset: str, datasets: list[str] | None, shown: str) -> None:
    path = write_card(make_run(tmp_path / "run", dataset=dataset, data_root=None))
    data = ModelCard.load(path).data
    assert data.datasets == datasets
    assert {r.dataset_type for r in data.eval_results} == {shown}
    assert "somebody" not in path.read_text()


HOSTILE = [
    "a|b",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "**bold** `code` ~~gone~~",
    "two\nlines\r\n# head",
    "{{ 7*7 }}{% raw %}",
    "https://example.com @everyone",
    "&lt;b&gt; \u202e\x00 \\|",
]


def test_hostile_names_are_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x``` \n<b>|y", HOSTILE)
    card = build_card(run)
    text = re.sub(r"(?<!\\)`[^`\n]*`", "", without_code_blocks(card))  # code spans too
    assert set(re.findall(r"<[^>]*>", text)) == {"<details>", "<summary>", "</summary>", "</details>"}
    assert not re.search(r"(?<!\\)\]\(javascript", text)
    assert "49" not in re.findall(r"\d+", text[: text.index("## Use")])
    assert not re.search(r"https?://example|(?<!\\)@", text)
    assert not set("\u202e\x00\r") & set(card)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in tables} == {6, 8}
    assert len(tables) == 2 + 3 + 2 + len(HOSTILE)
    assert [line for line in text.splitlines() if line.startswith("# ")] == ["# x\\`\\`\\` &lt;b&gt;\\|y"]
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["name"] == "x``` <b>|y"
    compile(code_blocks(card, "python")[0], "card", "exec")


def test_a_fence_in_the_recipe_does_not_end_it(tmp_path: Path) -> None:
    card = build_card(make_run(tmp_path / "run", select_by="x\n```\n</details><script>\n````\n"))
    (block,) = code_blocks(card, "yaml")
    assert "<script>" in block
    assert "<script>" not in without_code_blocks(card)


def test_mistakes_are_one_sentence(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    del report["selected"]["resolutions"]["2"]["f1_macro"]
    (run / "report.json").write_text(json.dumps(report))
    with pytest.raises(FerError, match="lacks 'f1_macro'"):
        build_card(run)
    report["selected"]["resolutions"]["2"]["f1_macro"] = float("nan")
    (run / "report.json").write_text(json.dumps(report))
    with pytest.raises(FerError, match="f1_macro is nan"):
        write_card(run)
    (run / "report.json").unlink()
    with pytest.raises(FerError, match=r"report\.json cannot be read"):
        write_card(run)
    assert not [path for path in run.iterdir() if "README" in path.name]


def test_importing_the_module_is_cheap() -> None:
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'jinja2', 'yaml'}"
    code = f"import sys, hf_fer.hub.card; assert not {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
