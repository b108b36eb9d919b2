"""From training to somebody else's machine, through the real clients and HTTP: what is pushed is what answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

ROOT = Path(__file__).parents[2]
FACE = ROOT / "space" / "examples" / "drawn_happiness_160px.png"
# 16 steps of a net of 20 k parameters.
RUN = [
    "--config", str(ROOT / "recipes" / "configs" / "mek_synthetic.yaml"),
    "--dataset_options={train: 192, validation: 32, test: 32, size: 32}", "--epochs=2", "--batch_size=24",
    "--backbone_kwargs={layers: [1, 1], channels: [8, 16], stem_type: deep, stem_width: 8}", "--stem_pool=false",
    "--image_size=32", "--eval_resolutions=[1, 2]", "--cpu_threads=1",
]  # fmt: skip

# Stands first in a process that must get along without the package.
WITHOUT_HF_FER = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "hf_fer":
            raise ModuleNotFoundError("hf_fer is not installed here", name=name)
sys.meta_path.insert(0, Absent())
"""
ASK = """
import json, sys
from transformers import pipeline
classify = pipeline("image-classification", model=sys.argv[1], trust_remote_code=True, device="cpu")
print(json.dumps(classify(sys.argv[2], top_k=8)))
"""
LOAD = """
import json, sys
import hf_fer
from transformers import AutoImageProcessor, AutoModelForImageClassification
import torch
from PIL import Image
models = [AutoModelForImageClassification.from_pretrained(source).eval() for source in sys.argv[1:3]]
assert type(models[0]).__module__ == "hf_fer.models.modeling_mek", type(models[0])
processor = AutoImageProcessor.from_pretrained(sys.argv[1])
pixels = processor(images=Image.open(sys.argv[3]).convert("RGB"), return_tensors="pt")
with torch.no_grad():
    one, other = (model(**pixels).logits for model in models)
print(json.dumps([torch.equal(one, other), one.shape[1]]))
"""
LOAD_DATA = """
import json, sys
from datasets import load_dataset
data = load_dataset(sys.argv[1])
face = data["test"][0]
print(json.dumps([{k: v.num_rows for k, v in data.items()}, face["image"].size, data["test"].features["label"].names]))
"""
LOAD_METRIC = """
import json, sys
import evaluate
metric = evaluate.load(sys.argv[1], module_type="metric")
print(json.dumps(metric.compute(predictions=[0, 1, 1], references=[0, 1, 0], label_names=["neutral", "happiness"])))
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def run(hub: HubServer, home: Path, *arguments: str, cwd: Path | None = None) -> str:
    """Another user's machine: its own caches, and this Hub."""
    environment = {**os.environ, **hub.environment(home), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_DATASETS_CACHE"):
        environment.pop(name, None)
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=600, cwd=cwd or home
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "hf_nobody" not in done.stdout + done.stderr  # the token
    return done.stdout


def last_json(out: str) -> object:
    return json.loads(out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def trained(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, pushed by the recipe itself."""
    home = tmp_path_factory.mktemp("trainer")
    out = run(
        hub, home, str(ROOT / "recipes" / "train_mek.py"), *RUN, f"--output_dir={home / 'run'}", "--push=me/drawn-mek"
    )
    assert f"{hub.url}/me/drawn-mek" in out
    return home / "run"


def test_what_was_trained_answers_everywhere_alike(hub: HubServer, trained: Path, tmp_path: Path) -> None:
    repo = hub.repos["model", "me/drawn-mek"]
    assert repo.private and len(repo.commits) == 1
    assert {"README.md", "config.json", "model.safetensors", "report.json", "release.json", "modeling_mek.py"} <= {
        *repo.files
    }
    assert not any(name.endswith((".bin", ".pt", ".pkl", ".pth")) or "checkpoint" in name for name in repo.files)
    assert repo.files["model.safetensors"] == (trained / "model.safetensors").read_bytes()
    assert "push" not in (trained / "recipe.yaml").read_text()  # who repeats the run does not push by it

    there = last_json(run(hub, tmp_path, "-c", WITHOUT_HF_FER + ASK, "me/drawn-mek", str(FACE)))
    here = last_json(run(hub, tmp_path, "-c", ASK, str(trained), str(FACE)))
    assert there == here and len(there) == 8
    assert last_json(run(hub, tmp_path, "-c", LOAD, "me/drawn-mek", str(trained), str(FACE))) == [True, 8]

    uploads = len(hub.uploads)
    run(hub, tmp_path, "-m", "hf_fer.cli", "push", str(trained), "me/drawn-mek")
    assert len(hub.uploads) == uploads and len(repo.commits) == 1


def test_a_data_set_is_pushed_and_loaded(hub: HubServer, tmp_path: Path) -> None:
    options = ["--option=train=16", "--option=validation=8", "--option=test=8"]
    out = run(
        hub, tmp_path, "-m", "hf_fer.cli", "data", "prepare", "synthetic", *options, "--out", str(tmp_path / "drawn"),
        "--push", "me/drawn",
    )  # fmt: skip
    assert "pushed: " in out
    sizes, size, names = last_json(run(hub, tmp_path, "-c", LOAD_DATA, "me/drawn"))
    assert sizes == {"train": 16, "validation": 8, "test": 8} and size == [64, 64]
    assert names[:3] == ["neutral", "happiness", "surprise"]


@pytest.mark.parametrize("name", ["fer_metrics"])
def test_a_metric_is_pushed_and_loaded(hub: HubServer, tmp_path: Path, name: str) -> None:
    run(hub, tmp_path, "-m", "hf_fer.cli", "push-metric", name, f"me/{name}", "--public")
    figures = last_json(run(hub, tmp_path, "-c", WITHOUT_HF_FER + LOAD_METRIC, f"me/{name}"))
    assert figures["accuracy"] == pytest.approx(2 / 3) and figures["mean_class_accuracy"] == 0.75
