"""The benchmark scripts run and write what they promise; how fast they find anything is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hf_fer

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(hf_fer.__file__).resolve().parent / "assets"
TIMES = ("min_ms", "median_ms", "p90_ms", "images_per_second", "ratio")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "inference.py"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        timeout=600,
        check=False,
    )


@pytest.mark.skipif(
    not (ASSETS / "config.json").is_file(), reason="hf_fer/assets has no checkpoint yet: train and copy it there"
)
def test_inference_writes_json(tmp_path: Path) -> None:
    output = tmp_path / "new" / "inference.json"
    done = run("--quick", "--output", str(output))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    rows = report["results"]
    assert [(row["subject"], row["batch_size"], row["side"]) for row in rows[1:4]] == [
        ("timm EfficientNet-B0", 1, 224),
        ("timm ResNet-18", 1, 224),
        ("default, PIL to probabilities", 1, 96),
    ]
    assert [row["batch_size"] for row in rows] == [1] * 4 + [4] * 3
    for row in rows:
        assert all(row[key] > 0 for key in (*TIMES, "parameters"))
        assert row["min_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert row["threads"] == 1
        assert row["subject"] in done.stdout
    assert all(row["ratio"] == 1 for row in rows if row["subject"] == "default")
    assert report["machine"]["cpu"]
    assert report["machine"]["torch"]
    assert report["settings"]["quick"] is True


def test_inference_refuses_wrong_counts() -> None:
    done = run("--threads", "1,0")
    assert done.returncode == 2
    assert "--threads: invalid list of numbers of at least 1 value: '1,0'" in done.stderr
