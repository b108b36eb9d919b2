"""The demo in a real browser: what people see and press, in light and dark, on a phone, by keyboard and read aloud.

One server and one Chromium for all tests; a request that would leave this machine fails the test that made it.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
if not Path(CHROMIUM).is_file():
    pytest.skip("needs Chromium (Debian: apt install chromium)", allow_module_level=True)
pytest.importorskip("gradio", reason="the demo needs gradio")
pytest.importorskip("av", reason="the demo's videos need PyAV")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
from demo_server import ASTRONAUT, CLIP, running_demo  # noqa: E402

import hf_fer.demo  # noqa: E402
from hf_fer.demo import Limits  # noqa: E402

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
TABS = ("Photo", "Resolution", "Why", "Video", "Leaderboard", "About")
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_demo(tmp_path_factory.mktemp("demo"), limits=Limits(file_mb=2)) as demo:
        yield demo.local_url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    # The fake camera shows the portrait: motion JPEG is one JPEG after the other.
    film = tmp_path_factory.mktemp("camera") / "film.mjpeg"
    with Image.open(ASTRONAUT) as image:
        image.save(film, "JPEG", quality=90)
    film.write_bytes(film.read_bytes() * 2)
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS, f"--use-file-for-fake-video-capture={film}"]
        )
        yield chromium
        chromium.close()


class Visitor:
    """A page, and everything that went wrong on it."""

    def __init__(self, browser: Any, url: str, viewport: dict[str, int], theme: str) -> None:
        self.context = browser.new_context(viewport=viewport, color_scheme=theme, permissions=["camera"])
        self.wrong: list[str] = []
        self.context.route("**/*", self._route)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)  # for machines on which much else computes
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(f"{url}?__theme={theme}")
        self.page.get_by_role("tab", name="Photo").wait_for()

    def _route(self, route: Any) -> None:
        if re.match(r"(http://127\.0\.0\.1[:/]|data:|blob:)", route.request.url):
            route.continue_()
        else:
            self.wrong.append(f"asked for {route.request.url}")
            route.abort()

    def give(self, place: str, path: Path) -> None:
        self.page.locator(f"{place} input[type=file]").first.set_input_files(str(path))

    def open(self, tab: str) -> None:
        found = self.page.get_by_role("tab", name=tab, exact=True)
        if found.is_visible():
            found.click()
        else:  # on a phone, in the menu
            self.page.locator(".overflow-menu > button").first.click()
            self.page.locator(".overflow-dropdown button", has_text=tab).click()

    def text(self, place: str) -> str:
        return self.page.locator(place).inner_text()

    def serious(self) -> list[str]:
        found = axe.Axe().run(self.page).response["violations"]
        return [
            f"{entry['id']}: {node['html'][:200]}"
            for entry in found
            if entry["impact"] in ("serious", "critical")
            for node in entry["nodes"]
        ]


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Any]:
    visitors: list[Visitor] = []

    def come(viewport: dict[str, int] = DESK, theme: str = "light") -> Visitor:
        visitors.append(Visitor(browser, url, viewport, theme))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.context.close()
        assert visitor.wrong == []


def until(condition: Any, seconds: float = 30) -> Any:
    """What `condition()` gives, once that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    assert value
    return value


def test_a_picture_gives_boxes_and_bars(visit: Any, tmp_path: Path) -> None:
    visitor = visit()
    page = visitor.page
    assert "Add a picture" in visitor.text("#hf-faces") and not page.locator("#hf-drawn").is_visible()
    visitor.give("#hf-photo", ASTRONAUT)
    page.locator("#hf-faces .hf-card").wait_for()
    assert re.search(r"happiness\s+\d\d\s%", visitor.text("#hf-faces .hf-card h2"))
    assert page.locator("#hf-faces .hf-bars li").count() == 8
    assert "1 face found" in page.get_by_role("status").filter(has_text="found").inner_text()
    assert page.locator("#hf-drawn img").get_attribute("alt").startswith("The picture with a box around 1 face: happi")

    # What cannot be answered is said in a sentence, and the last answer goes.
    page.locator("#hf-photo").get_by_label("Remove Image").or_(page.locator("#hf-photo").get_by_label("Clear")).click()
    until(lambda: "Add a picture" in visitor.text("#hf-faces"))
    (tmp_path / "page.jpg").write_bytes(b"<!doctype html><html></html>")
    visitor.give("#hf-photo", tmp_path / "page.jpg")
    alert = page.locator("#hf-faces").get_by_role("alert")
    alert.wait_for()
    assert "web page" in alert.inner_text() and not page.locator("#hf-drawn").is_visible()


def test_a_file_over_the_limit_is_refused_in_words(visit: Any, tmp_path: Path) -> None:
    visitor = visit()
    (tmp_path / "large.png").write_bytes(bytes(2 * 2**20 + 1))
    visitor.give("#hf-photo", tmp_path / "large.png")
    toast = visitor.page.get_by_test_id("toast-body").first
    toast.wait_for()
    assert "size" in toast.inner_text()
    visitor.wrong.clear()  # the browser itself reports the refused request


def test_an_example_is_one_press_away(visit: Any) -> None:
    visitor = visit()
    visitor.page.get_by_role("button", name="Portrait").first.click()
    visitor.page.locator("#hf-faces .hf-card").wait_for()


def test_the_slider_takes_pixels_and_moves_the_curve(visit: Any, tmp_path: Path) -> None:
    visitor = visit()
    page = visitor.page
    visitor.give("#hf-photo", ASTRONAUT)
    page.locator("#hf-faces .hf-card").wait_for()
    visitor.open("Resolution")  # the picture comes along
    page.locator("#hf-curve svg.marks").wait_for()
    assert "12 × 12 px" in visitor.text("#hf-small")  # noqa: RUF001
    rule = "#hf-curve .mark-rule.role-mark line"
    before = page.locator(rule).bounding_box()["x"], visitor.text("#hf-small-bars")
    slider = page.locator("#hf-factor input[type=range]")
    slider.focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    until(lambda: "6 × 6 px" in visitor.text("#hf-small"))  # noqa: RUF001
    until(lambda: (page.locator(rule).bounding_box() or {"x": 0})["x"] > before[0] + 50)
    assert visitor.text("#hf-small-bars") != before[1]
    assert page.locator("#hf-curve .mark-line.role-mark path").count() >= 3
    # The next picture comes along too, though there is one already, but not over one that was given here.
    shown = page.locator("#hf-resolution-photo img")
    for place, name, expected in (("#hf-photo", "two", "two"), ("#hf-resolution-photo", "own", "own")):
        Image.new("RGB", (64, 64), "navy").save(tmp_path / f"{name}.png")
        visitor.open("Photo" if place == "#hf-photo" else "Resolution")
        page.locator(place).get_by_label("Remove Image").click()
        visitor.give(place, tmp_path / f"{name}.png")
        page.locator(f"{place} img[src*='{name}.png']").wait_for()
        visitor.open("Photo")
        visitor.open("Resolution")
        until(lambda expected=expected: f"{expected}.png" in shown.get_attribute("src"))


def test_the_maps_stand_side_by_side(visit: Any) -> None:
    visitor = visit()
    visitor.open("Why")
    visitor.page.locator("#hf-why-photo").wait_for()
    visitor.give("#hf-why-photo", ASTRONAUT)
    visitor.page.locator("#hf-maps img").first.wait_for()
    alts = [image.get_attribute("alt") for image in visitor.page.locator("#hf-maps img").all()]
    assert len(alts) == 16 and alts[0] == "The face as the model sees it at 48 pixels"
    assert "Evidence for happiness at 48 pixels" in alts
    assert "class activation maps" in visitor.text("#hf-maps")


def test_the_webcam_gives_a_live_label(visit: Any) -> None:
    visitor = visit()
    page = visitor.page
    page.get_by_role("tab", name="Live webcam").click()
    page.locator("#hf-camera").get_by_text("Click to Access Webcam").click()
    page.locator("#hf-camera").get_by_text("Record").click(force=True)
    page.locator("#hf-live .hf-card").wait_for()
    assert "happiness" in visitor.text("#hf-live h2")
    assert page.locator("#hf-live img").first.get_attribute("src").startswith("data:image/webp")
    page.locator("#hf-camera").get_by_text("Stop").click(force=True)


def test_a_clip_becomes_a_timeline(visit: Any) -> None:
    visitor = visit()
    visitor.open("Video")
    visitor.page.locator("#hf-analyse").wait_for()
    visitor.give("#hf-video", CLIP)
    visitor.page.locator("#hf-video video").wait_for()
    visitor.page.locator("#hf-analyse").click()
    visitor.page.locator("#hf-timeline svg.marks").wait_for()
    assert re.search(r"30 frames of 5\.\d s looked at, 1 face\.", visitor.text("#hf-video-said"))
    visitor.page.locator("#hf-video").get_by_label("Clear").click()
    until(lambda: "Add a clip" in visitor.text("#hf-video-said"))
    assert not visitor.page.locator("#hf-timeline").is_visible(), "it would be that of another clip"


def test_the_leaderboard_sorts_by_any_column(visit: Any) -> None:
    visitor = visit()
    visitor.open("Leaderboard")
    page = visitor.page
    table = page.locator("#hf-board-table")
    table.get_by_test_id("cell-0-1").wait_for()

    names = table.get_by_role("columnheader").all_inner_texts()

    def column(name: str) -> list[float]:
        number = next(k for k, shown in enumerate(names, start=1) if shown.startswith(name))
        return [float(cell) for cell in table.locator(f"[role=gridcell][aria-colindex='{number}']").all_inner_texts()]

    given = column("NLL")
    shipped = Path(hf_fer.demo.__file__).with_name("leaderboard.json")
    rows = json.loads(shipped.read_text(encoding="utf-8"))["boards"][0]["rows"]
    assert len(given) == len(rows) > 4 and given != sorted(given)
    # By keyboard, then by mouse.
    page.locator("#hf-board-sort input").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("Latency")
    page.keyboard.press("Enter")
    until(lambda: column("Latency") == sorted(column("Latency")))
    heading = table.get_by_role("columnheader").filter(has_text="NLL")
    heading.hover()
    heading.get_by_label("Open cell menu").click()
    page.get_by_role("menuitem", name="Sort ascending").click()
    until(lambda: column("NLL") == sorted(given))


def test_nothing_bars_a_screen_reader(visit: Any) -> None:
    visitor = visit()
    assert visitor.serious() == []
    visitor.give("#hf-photo", ASTRONAUT)
    visitor.page.locator("#hf-faces .hf-card").wait_for()
    for tab in TABS:
        visitor.open(tab)
        if tab in ("Resolution", "Why"):
            visitor.page.locator({"Resolution": "#hf-curve svg.marks", "Why": "#hf-maps img"}[tab]).first.wait_for()
        for theme in ("light", "dark"):
            visitor.page.evaluate("theme => document.body.classList.toggle('dark', theme === 'dark')", theme)
            visitor.page.wait_for_timeout(150)  # colours fade in
            assert visitor.serious() == [], (tab, theme)


def test_tabs_are_reached_by_keyboard(visit: Any) -> None:
    visitor = visit()
    page = visitor.page
    page.get_by_role("tab", name="Photo").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    until(lambda: page.get_by_role("tab", name="Resolution").get_attribute("aria-selected") == "true")
    # From there, Tab leads to everything that can be pressed, and where it is can be seen.
    reached = set()
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.closest('[id^=hf-]')?.id ?? document.activeElement.innerText")
        )
    assert {"hf-resolution-photo", "hf-factor"} <= reached


def test_a_phone_shows_everything_without_scrolling_sideways(visit: Any) -> None:
    visitor = visit(PHONE, "dark")
    assert visitor.page.evaluate("document.body.classList.contains('dark')")
    visitor.give("#hf-photo", ASTRONAUT)
    visitor.page.locator("#hf-faces .hf-card").wait_for()
    for tab in TABS:
        visitor.open(tab)
        if tab in ("Resolution", "Why"):
            visitor.page.locator({"Resolution": "#hf-curve svg.marks", "Why": "#hf-maps img"}[tab]).first.wait_for()
        width = visitor.page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], tab
    assert visitor.serious() == []
