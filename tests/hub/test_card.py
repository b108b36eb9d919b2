"""Model cards: valid metadata, no figure that the report lacks, an example that runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from urllib.parse import unquote

import pytest
import yaml
from card_runs import change, code_blocks, make_plain, make_run, with_new_fields, without_code_blocks
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from PIL import Image

from hf_fer import FerError
from hf_fer._auto import config_class, model_class
from hf_fer.evaluation.markdown import NONE
from hf_fer.hub.card import build_card, write_card
from hf_fer.hub.code import code_hashes
from hf_fer.training.export import build_processor, save_release

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "hf_fer" / "assets"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "my_run")


def test_the_licence_is_what_the_recipe_says(tmp_path: Path) -> None:
    card = build_card(make_run(tmp_path / "said", license="cc-by-nc-4.0"))
    assert ModelCard(card).data.license == "cc-by-nc-4.0"
    assert "Code: Apache-2.0. Weights: cc-by-nc-4.0. Training images" in card
    card = build_card(make_run(tmp_path / "unsaid"))
    assert "Code: Apache-2.0. Whoever trained the weights has not recorded their licence. Training images" in card


def test_metadata_comes_back_as_the_report_has_it(run: Path) -> None:
    path = write_card(run)
    assert path == run / "README.md"
    assert path.read_text(encoding="utf-8") == build_card(run)
    data = ModelCard.load(path).data
    assert data.pipeline_tag == "image-classification"
    assert data.to_dict()["library_name"] == "transformers"
    assert data.license == "unknown"  # it is for whoever trained the weights to say
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


@pytest.mark.parametrize("kind", ["old", "new", "plain"])
def test_the_cards_metadata_round_trips(tmp_path: Path, kind: str) -> None:
    folder = make_plain(tmp_path / "x") if kind == "plain" else make_run(tmp_path / "x", dataset="owner/faces")
    text = build_card(with_new_fields(folder) if kind == "new" else folder)
    card = ModelCard(text)
    assert str(card) == text
    if kind != "plain":
        name, results = card.data.model_name, card.data.eval_results
        assert len(results) == 6
        assert model_index_to_eval_results(eval_results_to_model_index(name, results)) == (name, results)
    assert "co2_eq_emissions" not in card.data  # nobody measured it


def test_the_hub_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    """The client's own check, which asks the Hub; it reads its settings once, so in a process of its own."""
    from hub_server import HubServer

    cards = [write_card(with_new_fields(make_run(tmp_path / "run"))), write_card(make_plain(tmp_path / "plain"))]
    check = "import sys; from huggingface_hub import ModelCard as C; [C.load(p).validate() for p in sys.argv[1:]]"
    with HubServer() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home")}
        done = subprocess.run([sys.executable, "-c", check, *cards], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        assert [call.split("?")[0] for call in hub.calls] == ["POST /api/validate-yaml"] * 2


@pytest.mark.parametrize(
    ("started_from", "base_model"),
    [
        ({"backbone_weights": "owner/resnet@v1", "landmark_weights": "owner/faces"}, ["owner/resnet", "owner/faces"]),
        ({"backbone_weights": "resnet18.pth"}, None),
        ({"backbone_weights": "resnet18.a1_in1k", "landmark_weights": "../<script>/x"}, None),
        ({}, None),
    ],
)
def test_only_hub_repositories_are_base_models(run: Path, started_from: dict[str, str], base_model: Any) -> None:
    change(run / "report.json", started_from=started_from)
    assert ModelCard(build_card(run)).data.base_model == base_model


# What a card says in numbers that are no report's: each where it stands, so that no other number passes for it.
CONSTANTS = (
    "Article 5(1)(f)", "2024/1689", "0.33 · accuracy + 0.67 · macro F1", "macro F1, %", "| F1, % |", "95 % confidence",
    "ECE over 15 bins", "Brier: mean squared distance between the probabilities and the truth, 0 to 2",
    "top-2 accuracy", "90 % took at most", "Each class at \u00d71:", "each 48 px image is reduced to 48/s px",
    "The faces of the data are 48 px wide", "under 12 px", "float16", "float32", "Apache-2.0", "SHA-256", "SHA256SUMS",
    "sha256sum", "FER2013", "reduced to 1/s",
)  # fmt: skip
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def leaves(value: Any) -> Iterator[Any]:
    """Values at the ends, and the keys on the way, which are names and factors."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def unexplained_numbers(card: str, folder: Path) -> list[str]:
    """Numbers in a card's text and tables that neither its report, recipe and config hold nor `CONSTANTS` lists."""
    config = json.loads((folder / "config.json").read_text())
    sources: list[Any] = [config]
    method = config_class(config["model_type"])
    sources.append({f: getattr(method, f) for f in method.method_fields()})  # "default 2.0"
    allowed = set()
    if (folder / "report.json").is_file():
        report = json.loads((folder / "report.json").read_text())
        sources += [report, yaml.safe_load((folder / "recipe.yaml").read_text())]
        allowed.add(f"{sum(config['class_counts']):,}")
        minutes = round(report["train_seconds"] / 60)
        card = card.replace(f"(about {minutes // 60} h {minutes % 60} min)", "")
    for value in leaves(sources):
        if isinstance(value, str):
            allowed |= {*NUMBER.findall(value)}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            allowed |= {f"{100 * value:.2f}", f"{value:.4f}", f"{value:.2f}", f"{value:g}", f"{100 * value:g}"}
            allowed |= {str(value), f"{value:,}"}
    text = without_code_blocks(card)
    for phrase in CONSTANTS:
        text = text.replace(phrase, "")
    return [number for number in NUMBER.findall(text) if number not in allowed]


@pytest.mark.parametrize("which", ["old", "new", "embedded", "plain"])
def test_every_number_is_in_the_report(tmp_path: Path, which: str) -> None:
    folder = ASSETS if which == "embedded" else tmp_path / "my_run"
    if which == "plain":
        make_plain(folder, "grefel", num_anchors=7)
    elif which != "embedded":
        make_run(folder)
    if which == "new":
        with_new_fields(folder)
    card = build_card(folder)
    assert unexplained_numbers(card, folder) == []
    assert len(NUMBER.findall(without_code_blocks(card))) > (9 if which == "plain" else 100)
    for said, instead in (
        ("## Intended use", "## 31.07 %"),
        ("## Licence", "## Licence of 3,333 words"),
        ("| neutral | ", "| n 9.99 | "),
    ):
        if said in card:
            assert len(unexplained_numbers(card.replace(said, instead, 1), folder)) == 1


def test_new_fields_of_the_report_are_shown(run: Path) -> None:
    old = build_card(run)
    for word in ("Brier", "top-2", "Not scored", "One picture takes", "Protocol"):
        assert word not in old
    card = build_card(with_new_fields(run))
    assert (
        "| resolution | accuracy, % | mean class accuracy, % | macro F1, % | challenge score | NLL | ECE | Brier |"
        in card
    )
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in card.splitlines() if line.startswith("| ")}
    for k, factor in enumerate("124"):
        cells = [cell.strip() for cell in rows[f"\u00d7{factor}"]]
        assert cells[2].endswith(f" ({50.11 - 1.73 * k:.2f}\u2013{52.31 - 1.73 * k:.2f})")
        assert cells[3].endswith(f" ({0.4017 - 0.0174 * k:.4f}\u2013{0.4237 - 0.0174 * k:.4f})")
        assert cells[6:] == [f"{0.2131 + 0.0171 * k:.4f}", f"{96.31 - 1.72 * k:.2f}"]
    assert 'Protocol `label_noise`: `label_noise: 0.23`, `stated_by: "report"`.' in card
    assert "Not scored, since the model lacks their class (test images): other (77)." in card
    assert (
        "One picture takes 4.32 ms (median of 51 calls; 90 % took at most 5.68 ms), device `cpu`, processor `x86_64`, "
        "threads `3`, dtype `float32`, from the picture to the probabilities." in card
    )
    assert "processes: 13." in card


def test_a_mixture_of_old_and_new_has_a_dash(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    report["selected"]["resolutions"]["2"]["brier"] = 0.25
    del report["selected"]["resolutions"]["1"]["nll"]
    (run / "report.json").write_text(json.dumps(report))
    rows = [line.split("|")[6:-1] for line in build_card(run).splitlines() if line.startswith("| \u00d7")]
    assert [[cell.strip() for cell in row][::2] for row in rows] == [[NONE, NONE], [ANY, "0.2500"], [ANY, NONE]]


def test_the_report_itself_may_be_named(run: Path) -> None:
    assert build_card(run / "report.json") == build_card(run) == build_card(str(run))
    other = run / "other.json"
    (run / "report.json").rename(other)
    assert "Epoch 56 of 60" in build_card(other)


def test_tables_hold_the_figures_in_their_places(run: Path) -> None:
    card = build_card(run)
    selected = json.loads((run / "report.json").read_text())["selected"]["resolutions"]
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in card.splitlines() if line.startswith("| ")}
    for factor, metrics in selected.items():
        low, high = (100 * v for v in metrics["ci95"]["accuracy"])
        cells = [cell.strip() for cell in rows[f"\u00d7{factor}"]]
        assert cells[0] == f"{100 * metrics['accuracy']:.2f} ({low:.2f}\u2013{high:.2f})"
        assert cells[1].startswith(f"{100 * metrics['mean_class_accuracy']:.2f} (")
        assert cells[2:] == [  # an old report has no intervals of these
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


def run_usage(card: str, folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    """Executes a card's example in `place`, beside the picture of a drawn smile; the folder takes the repo's place."""
    (snippet,) = code_blocks(card, "python")
    assert len(snippet.splitlines()) <= 6
    (repo,) = re.findall(r'^repo = (".*?")', snippet, re.MULTILINE)
    Image.open(ROOT / "space" / "examples" / "drawn_happiness_160px.png").convert("RGB").save(place / "face.jpg")
    monkeypatch.chdir(place)
    exec(compile(snippet.replace(repo, json.dumps(str(folder))), "card", "exec"), {})
    return capsys.readouterr().out


def test_the_usage_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    card = (ROOT / "model_cards" / "hf-fer-default.md").read_text(encoding="utf-8")
    assert run_usage(card, ASSETS, tmp_path, monkeypatch, capsys).startswith("[{'label': 'happiness', 'score': 0.")


def test_a_model_without_a_report_says_that_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder, labels = (
        tmp_path / "plain",
        {"id2label": {0: "happiness", 1: "anger"}, "label2id": {"happiness": 0, "anger": 1}},
    )
    model = model_class("hsac")(config_class("hsac")(**labels, **config_class("hsac").tiny))
    save_release(model, build_processor(64), folder)
    card = write_card(folder, "me/plain").read_text(encoding="utf-8")
    assert "**Nothing is known of its training.**" in card and "this card gives no figure" in card
    assert "Method of its configuration: **HSAC**" in card
    assert not re.search(r"\d %|\d\.\d\d|confidence interval|\|", without_code_blocks(card))
    for missing in ("## Results", "## Training", "## Environmental cost", "trained on", "Weights and code: Apache"):
        assert missing not in card, missing
    for there in ("## Use", "## Intended use", "## Out of scope", "## Limits", "## Licence", "## Code", "lee2024hard"):
        assert there in card, there
    data = ModelCard(card).data
    assert (data.license, data.eval_results, data.metrics, data.datasets) == ("unknown", None, None, None)
    assert (data.pipeline_tag, data.to_dict()["library_name"]) == ("image-classification", "transformers")
    assert code_blocks(card, "text")[0].splitlines() == [f"{d}  {name}" for name, d in code_hashes(folder).items()]
    answer = run_usage(card, folder, tmp_path, monkeypatch, capsys)
    assert "'label': 'happiness'" in answer and "'label': 'anger'" in answer


def test_neither_a_run_nor_ours(tmp_path: Path) -> None:
    folder = make_plain(tmp_path / "x", "vi\nt")
    with pytest.raises(FerError, match=r"neither a run nor one of our models.*model_type 'vi\\nt'"):
        build_card(folder)
    make_plain(tmp_path / "y")
    (tmp_path / "y" / "recipe.yaml").write_text("dataset: ferplus")  # a run without its report is not a plain model
    with pytest.raises(FerError, match=r"report\.json cannot be read"):
        build_card(tmp_path / "y")
    with pytest.raises(FerError, match=r"config\.json cannot be read"):
        build_card(tmp_path / "nowhere")


def test_the_code_is_listed_with_its_hashes(run: Path) -> None:
    assert "## Code" not in build_card(run)
    assert "cannot be loaded: no code lies in this repository" in build_card(run)
    (run / "modeling_mek.py").write_bytes(b"one = 1\n")
    (run / "losses.py").write_bytes(b"\xff\n" * 1_000_000)
    (run / "other.txt").write_text("no code")
    (run / "below").mkdir()
    (run / "below" / "deep.py").touch()
    card = build_card(run)
    (listed,) = code_blocks(card, "text")
    want = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in ("losses.py", "modeling_mek.py")}
    assert dict(line.split("  ")[::-1] for line in listed.splitlines()) == want == code_hashes(run)
    assert "[Code](#code)" in card and "`revision=`" in card and "sha256sum --check SHA256SUMS" in card
    if tool := shutil.which("sha256sum"):  # as the card says
        (run / "SHA256SUMS").write_text(listed + "\n")
        assert subprocess.run([tool, "--check", "SHA256SUMS"], cwd=run, capture_output=True).returncode == 0
        (run / "losses.py").write_bytes(b"changed")
        assert subprocess.run([tool, "--check", "SHA256SUMS"], cwd=run, capture_output=True).returncode == 1
    (run / "trap.py").mkdir()
    with pytest.raises(FerError, match=r"trap\.py is not a file"):
        build_card(run)
    with pytest.raises(FerError, match="no folder"):
        code_hashes(run / "nowhere")


def test_pictures_are_linked_from_another_folder(run: Path, tmp_path: Path) -> None:
    spaced = run.rename(tmp_path / "a (run)")
    (tmp_path / "cards").mkdir()
    path = write_card(spaced, "me/x", tmp_path / "cards" / "x.md")
    (link,) = re.findall(r"!\[.*?\]\((.*?)\)", path.read_text(encoding="utf-8"))
    assert link == "../a%20%28run%29/curves.png"
    assert (path.parent / unquote(link)).samefile(spaced / "curves.png")
    assert write_card(spaced, output=spaced / "CARD.md").read_text() == build_card(spaced)
    with pytest.raises(FerError, match="cannot be written"):
        write_card(spaced, output=tmp_path / "nowhere" / "x.md")
    assert not list(tmp_path.rglob(".writing*"))


def test_out_of_scope_and_limits_are_there(run: Path) -> None:
    card = build_card(run)
    out_of_scope = card[card.index("## Out of scope") : card.index("## Limits")]
    for word in ("at work", "schools", "hiring", "border", "credit", "insurance", "diagnosis", "lies", "identified"):
        assert word in out_of_scope
    assert "Article 5(1)(f) of the EU AI Act" in out_of_scope
    limits = card[card.index("## Limits") :]
    for word in ("not a feeling", "search engine", "unbalanced", "Small classes", "12 px"):
        assert word in limits
    cost = card[card.index("## Environmental cost") : card.index("## Intended use")]
    for word in ("**Energy**: not measured", "no emission figure", "8,143 s", "device `cpu`, processor `x86_64`"):
        assert word in cost
    assert not re.search(r"CO2|kWh|kg", card)


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
    assert "**Precision**: `fp16`" in build_card(run)
    change(path, mixed_precision="no")
    assert "**Precision**" not in build_card(run)
    plain = build_card(make_run(tmp_path / "plain"))
    for said in ("set aside", "thinned out", "on purpose", "out of the middle", "whatever its size", "of each group"):
        assert said not in plain, said


def test_only_plots_that_exist_are_shown(run: Path) -> None:
    assert re.findall(r"!\[.*?\]\((.*?)\)", build_card(run)) == ["curves.png"]
    (run / "confusion_matrix.png").touch()
    assert "(confusion_matrix.png)" in build_card(run)


def test_a_synthetic_run_says_so(tmp_path: Path) -> None:
    card = build_card(make_run(tmp_path / "drawn", dataset="synthetic", data_root=None, soft_targets=False))
    assert "Drawn faces only." in card
    assert "It is of no use on real" in card
    assert "FERPlus" not in card
    assert "--data_root" not in card
    assert "from random weights, on the label of each image." in card
    assert "the vote distribution of each image" in build_card(make_run(tmp_path / "votes"))


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
