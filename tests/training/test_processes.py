"""One process and two: the same losses, the same figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_fer._auto import METHODS

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("curves_script.py")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What `curves_script.py` saw, by the number of processes."""
    found = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes{processes}")
        torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2"] if processes == 2 else []
        arguments = [str(SCRIPT), str(folder / "seen.json"), str(processes), str(folder)]
        done = subprocess.run(
            [sys.executable, *torchrun, *arguments],
            capture_output=True, text=True, timeout=600,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found[processes] = json.loads((folder / "seen.json").read_text())
    return found


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_lose_what_one_does(seen: dict[int, dict[str, Any]], method: str) -> None:
    one, two = (seen[processes][method]["curve"] for processes in (1, 2))
    assert len(one) == len(two) == 20
    for step, (a, b) in enumerate(zip(one, two, strict=True)):
        for name in a:
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5), (step, name)
    assert one[-1]["train/loss"] != one[0]["train/loss"]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_judge_as_one_does(seen: dict[int, dict[str, Any]], method: str) -> None:
    one, two = (seen[processes][method]["validation"] for processes in (1, 2))
    for name, value in one.items():
        # A batch of another size may be added up in another order; which class wins does not hang on that.
        expected = pytest.approx(value, rel=1e-6) if "loss" in name else value
        assert two[name] == expected, name


def test_gathered_rows_keep_their_order_and_none_comes_twice(seen: dict[int, dict[str, Any]]) -> None:
    assert seen[1]["order"] == list(range(3)) and seen[2]["order"] == list(range(5))
