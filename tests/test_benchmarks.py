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


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        timeout=600,
        check=False,
    )


@pytest.mark.skipif(
    not (ASSETS / "config.json").is_file(), reason="hf_fer/assets has no checkpoint yet: train and copy it there"
)
def test_inference_writes_json(tmp_path: Path) -> None:
    output = tmp_path / "new" / "inference.json"
    done = run("inference", "--quick", "--output", str(output))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    rows = report["results"]
    assert [(row["subject"], row["batch_size"], row["side"]) for row in rows[1:4]] == [
        ("timm EfficientNet-B0", 1, 224),
        ("timm ResNet-18", 1, 224),
        ("default, PIL to probabilities", 1, 96),
    ]
    exported = [f"default, ONNX {name}" for name in ("float32", "float32, from PIL", "int8", "int8, from PIL")]
    assert [row["subject"] for row in rows[4:8]] == exported
    assert [row["batch_size"] for row in rows] == [1] * 8 + [4] * 5
    assert [(one["precision"], one["path"]) for one in report["onnx"]] == [("float32", None), ("int8", None)]
    assert report["onnx"][1]["size_bytes"] < 0.4 * report["onnx"][0]["size_bytes"]
    assert report["onnx_skipped"] is None
    assert report["accuracy"] == []
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
    done = run("inference", "--threads", "1,0")
    assert done.returncode == 2
    assert "--threads: invalid list of numbers of at least 1 value: '1,0'" in done.stderr


def test_data_writes_json(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as ImageFeature
    from PIL import Image

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["neutral", "happiness"])})
    faces = [Image.effect_noise((40 + k % 3, 48), 60) for k in range(43)]
    rows = {"image": faces, "label": [k % 2 for k in range(43)]}
    DatasetDict({"train": Dataset.from_dict(rows, features=features)}).save_to_disk(tmp_path / "faces")
    output = tmp_path / "new" / "data.json"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = run("data", "--quick", "--dataset", str(tmp_path / "faces"), "--output", str(output), TMPDIR=str(scratch))
    assert done.returncode == 0, done.stderr
    assert not [*scratch.rglob("*.jpg"), *scratch.rglob("*.png")]
    report = json.loads(output.read_text())
    degradation, loading, memory = report["degradation"], report["loading"], report["memory"]
    assert [row["side"] for row in degradation if row["subject"] == "Pillow, image by image"] == [48, 224]
    assert all(row["most_off"] == 0 for row in degradation if row["subject"].startswith("Pillow"))
    assert [row["subject"] for row in loading] == [
        "torchvision ImageFolder",
        "hf-fer, decoded once",
        "hf-fer, decoded at each visit",
    ]
    assert [row["images"] for row in loading] == [40] * 3
    for row in (*degradation, *loading):
        assert all(row[key] > 0 for key in ("min_ms", "median_ms", "images_per_second", "speedup"))
        assert row["min_ms"] <= row["median_ms"]
        assert row["subject"] in done.stdout
    for row in degradation:
        if row["subject"].startswith("BatchDegrader"):
            assert row["most_off"] <= 1
            assert row["share_off"] < 2e-3
    assert report["loading_skipped"] is None
    assert (memory["images"], memory["first_after"], memory["every"]) == (2000, 200, 50)
    assert memory["samples"] == len(memory["megabytes"]) == 37
    assert 0 < memory["min_mb"] <= memory["median_mb"] <= memory["max_mb"]
    assert memory["most_off_median"] < 0.1  # not a timing: the memory is to stay flat
    assert memory["images_per_second"] > 0
    assert "Memory, streaming" in done.stdout
    assert report["settings"]["quick"] is True
    assert report["machine"]["cpu"]


def test_data_says_what_it_left_out_and_what_is_not_there(tmp_path: Path) -> None:
    output = tmp_path / "data.json"
    done = run("data", "--quick", "--output", str(output))
    assert done.returncode == 0, done.stderr
    sentence = "Loading was not measured: give FERPlus' raw download by --root."
    assert sentence in done.stdout
    report = json.loads(output.read_text())
    assert report["loading"] == [] and report["loading_skipped"] == sentence
    assert report["degradation"]
    done = run("data", "--quick", "--root", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert done.stderr.startswith("benchmarks/data.py: ")
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_training_writes_json(tmp_path: Path) -> None:
    output = tmp_path / "training.json"
    done = run("training", "--quick", "--output", str(output))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert [(row["method"], row["views"]) for row in report["methods"]] == [
        ("hsac", 3), ("mek", 2), ("multires", 1), ("neural_resizer", 1), ("grefel", 1),
    ]  # fmt: skip
    for row in (*report["methods"], report["loop"], *report["processes"]):
        assert 0 < row["ratio_min"] <= row["ratio_median"] <= row["ratio_max"]
    for row in report["methods"]:
        assert row["method"] in done.stdout
    assert report["loop"]["our_images_per_second"] > 0
    assert [(row["processes"], row["batch"]) for row in report["processes"]] == [(2, 32), (2, 16)]


def test_evaluation_writes_json(tmp_path: Path) -> None:
    output = tmp_path / "evaluation.json"
    done = run("evaluation", "--images", "6", "--repeats", "1", "--output", str(output))
    assert done.returncode == 0, done.stderr
    standard, multi = json.loads(output.read_text())["results"]
    assert (standard["protocol"], standard["factors"], standard["ratio"]) == ("standard", ["1"], 1)
    assert (multi["protocol"], multi["factors"]) == ("multi_resolution", ["1", "2", "4", "8"])
    assert multi["ratio"] > 0 and f"{multi['ratio']:.2f}" in done.stdout
