"""The cards in the repository are those that today's files and template give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hf_fer.hub.card import build_card

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "model_cards"
ASSETS = ROOT / "hf_fer" / "assets"
AGAIN = "; ".join(
    f"hf-fer card hf_fer/assets --force --output {page}"
    for page in ("hf_fer/assets/README.md", "model_cards/hf-fer-default.md")
)


def test_they_are_up_to_date() -> None:
    assert (ASSETS / "README.md").read_text("utf-8") == build_card(ASSETS), AGAIN
    card = (CARDS / "hf-fer-default.md").read_text("utf-8")
    assert card == build_card(ASSETS, pictures="../hf_fer/assets/"), AGAIN


def test_every_card_is_listed_and_every_listed_card_is_there() -> None:
    listed = re.findall(r"^\| \[(.*?)\]\((.*?)\)", (CARDS / "README.md").read_text("utf-8"), re.MULTILINE)
    assert {name for _, name in listed} == {path.name for path in CARDS.glob("*.md")} - {"README.md"}
    assert all(name == f"{title}.md" for title, name in listed)


@pytest.mark.parametrize("path", [*CARDS.glob("*.md"), ASSETS / "README.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8"))
    assert links
    for link in links:
        assert (path.parent / link).exists(), link
