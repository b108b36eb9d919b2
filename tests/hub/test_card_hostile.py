"""Whatever stands in a run's files, its card is a card: no markup, script, metadata or template comes out of it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_runs import code_blocks, make_run, with_new_fields, without_code_blocks
from huggingface_hub import ModelCard

from hf_fer import FerError
from hf_fer.hub.card import build_card

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


ATTACK = (
    "<script>alert(1)</script>\r\n---\nlicense: mit\n---\n# head\n[x](javascript:alert(1)) ![y](http://x.example/) "
    "{{ 7777 * 7 }}{% raw %} | ` ``` '\" \u202e\x00 &lt;script&gt; @everyone"
)
KEYS = {
    "library_name", "license", "metrics", "pipeline_tag", "tags", "model-index", "datasets", "base_model",
}  # fmt: skip


def assert_harmless(card: str) -> None:
    """The card's metadata are its own, and what is not in a code block or span is text."""
    data = yaml.safe_load(card.split("---\n")[1])
    assert set(data) <= KEYS and data["license"] in ("unknown", "apache-2.0")
    assert ModelCard(card).text.startswith("\n# ")
    text = re.sub(r"(?<!\\)`[^`\n]*`", "", without_code_blocks(card))
    assert {*re.findall(r"<[^>]*>", text)} <= {"<details>", "<summary>", "</summary>", "</details>"}
    assert not re.search(r"(?<!\\)\]\((?!#code\)|curves\.png\))", text)
    assert not re.search(r"(?<![:\w/])https?://|(?<!\\)@", text)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    assert "54439" not in card  # 7777 * 7
    assert not {"\u202e", "\x00", "\r"} & {*card}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every value at an end."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if key != "confusion_matrix":  # no card shows them
            yield from places(item, (*path, key)) if isinstance(item, dict | list) and item else [(*path, key)]


def put(value: Any, path: tuple[Any, ...], what: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = what
    return changed


def rename(value: Any, path: tuple[Any, ...]) -> Any:
    """Makes the attack a key."""
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[ATTACK] = inner.pop(path[-1])
    return changed


@pytest.fixture
def run(tmp_path: Path) -> Path:
    sampling = {"sampling": "group_balanced", "images_per_group": 8, "images_per_class": 4}
    names = ["neutral", "anger"]
    folder = make_run(tmp_path / "my_run", names, backbone_weights="resnet18.pth", resize_size=64, **sampling)
    report = json.loads(with_new_fields(folder).joinpath("report.json").read_text())
    for which in ("selected", "last"):
        report[which]["resolutions"] = {"1": report[which]["resolutions"]["1"]}
    aside = {"share": 0.1, "by": "group", "seed": 0}
    report["data"] = {"test_set_aside": aside, "imbalance_factor": 50, "label_noise": 0.3, "train_images": 777}
    report["last"] = {key: report["last"][key] for key in ("epoch", "resolutions", "hardware")}
    last = report["last"]["resolutions"]["1"]
    report["last"]["resolutions"]["1"] = {key: last[key] for key in ("accuracy", "mean_class_accuracy")}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


@pytest.mark.parametrize("name", ["report.json", "recipe.yaml", "config.json"])
def test_an_attack_in_any_place_is_refused_or_harmless(run: Path, name: str) -> None:
    file = run / name
    content = yaml.safe_load(file.read_text())
    shown = refused = 0
    for path in places(content):
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        first = isinstance(inner, dict) and path[-1] == next(iter(inner))
        for changed in (put(content, path, ATTACK), *([rename(content, path)] if first else [])):
            file.write_text(json.dumps(changed))  # JSON is YAML
            try:
                card = build_card(run)
            except FerError as error:
                refused += 1
                assert len(str(error)) < 700 and "\n" not in str(error).replace(str(run), ""), path
                assert not {"\u202e", "\x00", "\r"} & {*str(error)}, path
            else:
                shown += 1
                assert_harmless(card)
    assert shown > 5 and (refused > 12 or name != "report.json")


def test_attacks_in_all_strings_at_once_are_harmless(run: Path) -> None:
    count = 0
    for name in ("report.json", "recipe.yaml", "config.json"):
        content = yaml.safe_load((run / name).read_text())
        for path in places(content):
            old = content
            for key in path:
                old = old[key]
            if isinstance(old, str):
                content = put(content, path, ATTACK)
                count += 1
        (run / name).write_text(json.dumps(content))
    card = build_card(run)
    assert_harmless(card)
    assert count > 30 and card.count("&lt;script&gt;alert") > 5


def test_a_file_name_is_text_too(run: Path) -> None:
    (run / "x`\n```\n<script>.py").touch()
    assert_harmless(build_card(run))


def test_files_that_are_too_much(run: Path) -> None:
    recipe = run / "recipe.yaml"
    before = recipe.read_text()
    bomb = "a0: &a0 [x]\n" + "".join(f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]\n" for k in range(30))
    recipe.write_text(bomb + before)
    with pytest.raises(FerError, match="aliases"):
        build_card(run)
    recipe.write_text("x: " + "[" * 100_000)
    with pytest.raises(FerError, match=r"recipe\.yaml cannot be read"):
        build_card(run)
    recipe.write_text("!!python/object/apply:os.system ['touch executed']")
    with pytest.raises(FerError, match=r"recipe\.yaml cannot be read"):
        build_card(run)
    recipe.write_text(before)
    config = run / "config.json"
    config.write_text('{"x": ' + "[" * 100_000)
    with pytest.raises(FerError, match=r"config\.json cannot be read"):
        build_card(run)
    config.write_text(" " * (16 * 2**20 + 1))
    with pytest.raises(FerError, match="more than 16 MiB"):
        build_card(run)
