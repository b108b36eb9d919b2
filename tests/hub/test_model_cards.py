"""The cards in the repository are those that today's files and template give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hf_fer.checkpoints.loading import embedded_models, resolve_model
from hf_fer.hub.card import build_card

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "model_cards"
FOLDERS = {name: Path(resolve_model(name)[0]) for name in embedded_models()}


@pytest.mark.parametrize("name", list(FOLDERS))
def test_they_are_up_to_date(name: str) -> None:
    folder, page = FOLDERS[name], CARDS / f"hf-fer-{name}.md"
    place = folder.relative_to(ROOT).as_posix()
    again = f"hf-fer card {place} --force, with --output {place}/README.md and --output model_cards/{page.name}"
    assert (folder / "README.md").read_text("utf-8") == build_card(folder), again
    assert page.read_text("utf-8") == build_card(folder, pictures=f"../{place}/"), again


def test_every_card_is_listed_and_every_listed_card_is_there() -> None:
    assert {path.stem for path in CARDS.glob("*.md")} == {"README", *(f"hf-fer-{name}" for name in FOLDERS)}
    listed = re.findall(r"^\| \[(.*?)\]\((.*?)\)", (CARDS / "README.md").read_text("utf-8"), re.MULTILINE)
    assert {name for _, name in listed} == {path.name for path in CARDS.glob("*.md")} - {"README.md"}
    assert all(name == f"{title}.md" for title, name in listed)


@pytest.mark.parametrize("path", [*CARDS.glob("*.md"), *(folder / "README.md" for folder in FOLDERS.values())])
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8"))
    assert links
    for link in links:
        assert (path.parent / link).exists(), link
