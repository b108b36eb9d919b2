"""Each method of the registry, from the command line to a folder that is ready to push."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForImageClassification

import hf_fer  # noqa: F401  registers the models
from hf_fer._auto import METHODS, config_class
from hf_fer.data.label_prior import ferplus_label_prior
from hf_fer.training.run import _label_prior

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_from_the_command_line(method: str, tmp_path: Path) -> None:
    config = config_class(method)
    fields = {
        **config.tiny,
        "dataset": "synthetic",
        "dataset_options": {"train": 96, "validation": 24, "test": 24, "size": 48},
        "epochs": 1,
        "batch_size": 24,
        "learning_rate": 1e-3,
        "log_every": 2,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    flags = ["--method", method, "--output_dir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "hf_fer.cli", "train", str(tmp_path / "recipe.yaml"), *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    run = tmp_path / "run"
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert row["train_loss"] == row["train_loss"] and 0 <= row["accuracy"] <= 1
    assert json.loads((run / "config.json").read_text())["model_type"] == method
    card = (run / "README.md").read_text(encoding="utf-8")
    assert method in card and "```bibtex" in card
    model = AutoModelForImageClassification.from_pretrained(run)
    size = model.config.image_size
    with torch.no_grad():
        assert model(torch.zeros(1, 3, size, size)).logits.shape == (1, 8)
    if "class_counts" in config.method_fields():
        assert model.config.class_counts == [12] * 8
    if "label_prior" in config.method_fields():
        prior = torch.tensor(model.config.label_prior)  # the drawn faces come with label distributions
        torch.testing.assert_close(prior.sum(dim=1), torch.ones(8))
        assert prior.diagonal().min() > 0.5 and prior.diagonal().max() < 1


def test_votes_give_the_prior_and_ferplus_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    class Train:
        column_names: tuple[str, ...] = ("image", "label", "label_distribution")

        def __getitem__(self, column: str) -> list:
            return {"label": [0, 0, 1], "label_distribution": [[0.8, 0.2], [0.6, 0.4], [0.0, 1.0]]}[column]

    prior = _label_prior(Train(), ["happiness", "anger"], recipe=None)
    torch.testing.assert_close(prior, torch.tensor([[0.7, 0.3], [0.0, 1.0]], dtype=torch.float64))
    assert capsys.readouterr().err == ""
    without = Train()
    without.column_names = ("image", "label")
    prior = _label_prior(without, ["happiness", "anger"], recipe=None)
    assert torch.equal(prior, ferplus_label_prior(["happiness", "anger"]))
    assert "label prior from FERPlus" in capsys.readouterr().err
