"""The README's picture: made by its command from free material, and up to date with what it shows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "overview.png"

pytest.importorskip("skimage.data", reason="the astronaut's photograph comes with scikit-image")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_picture", ROOT / "space" / "make_picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The file that the command writes, and the figure that it saved."""
    path = tmp_path_factory.mktemp("picture") / "new" / "overview.png"
    figures, save = [], script.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["make_picture.py", "--output", str(path)])
        patch.setattr(script, "save", lambda figure, target: (figures.append(figure), save(figure, target)))
        assert script.main() == 0
    return path, figures[0]


@pytest.fixture(scope="module")
def made(drawn: tuple[Path, Any]) -> Path:
    return drawn[0]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads((ROOT / "leaderboard" / "records" / "default.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def figure(drawn: tuple[Path, Any]) -> Any:
    return drawn[1]


def test_the_committed_picture_is_what_the_command_makes(made: Path) -> None:
    assert COMMITTED.stat().st_size < 400_000
    with Image.open(COMMITTED) as committed, Image.open(made) as new:
        assert committed.size == new.size == (1600, 616)
        difference = np.abs(np.asarray(committed, dtype=int) - np.asarray(new, dtype=int))
    # Another matplotlib may set letters a pixel off; another face, answer, map or curve is far more than that.
    assert difference.mean() < 1.0


def test_the_picture_names_the_figures_of_the_record_and_the_answers_of_the_model(
    figure: Any, record: dict[str, Any]
) -> None:
    from matplotlib.text import Text

    texts = [text.get_text() for text in figure.findobj(Text) if text.get_text()]
    for metrics in record["resolutions"].values():
        for key in ("accuracy", "mean_class_accuracy"):
            assert f"{100 * metrics[key]:.1f}" in texts
    assert f"FERPlus test split, {record['n']:,} faces" in texts
    assert sum(text.startswith("happiness ") and text.endswith(" %") for text in texts) >= 3
    assert any("public domain" in text and "not what its owner feels" in text for text in texts)


def test_nothing_in_the_picture_overlaps_or_leaves_it(script: ModuleType, figure: Any) -> None:
    from matplotlib.text import Text

    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    shown = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    for i, (name, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= script.WIDTH and box.y1 <= script.HEIGHT, name
        for other, beside in boxes[i + 1 :]:
            wide = min(box.x1, beside.x1) - max(box.x0, beside.x0)
            high = min(box.y1, beside.y1) - max(box.y0, beside.y0)
            assert wide <= 1 or high <= 1, (name, other)


def test_the_face_is_where_a_detector_finds_it(script: ModuleType) -> None:
    from skimage.data import astronaut

    from hf_fer.inference.detection import YuNetDetector

    weights = sorted((ROOT.parent / "shared" / "models").glob("face_detection_yunet*.onnx"))
    if not weights:
        pytest.skip("needs YuNet's weights beside the repository, in shared/models")
    pytest.importorskip("cv2", reason="YuNet runs in OpenCV")
    (found,) = YuNetDetector(weights[-1]).detect(Image.fromarray(astronaut()))
    x0, y0, x1, y1 = (
        choose(pair)
        for choose, pair in zip((max, max, min, min), zip(found.box, script.FOUND.box, strict=True), strict=True)
    )
    both = (x1 - x0) * (y1 - y0)
    assert both / (found.area + script.FOUND.area - both) > 0.8
    assert np.abs(np.subtract(found.landmarks, script.FOUND.landmarks)).max() < 6  # the eyes are 44 px apart
