"""Run folders with made-up reports, and the parts of the cards that are made of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from hf_fer import label_names

EMBEDDED = {"consistency_weight": 0, "smoothing": 0, "classify_transformed": False, "grayscale": True, "image_size": 48}
FIGURES = ("accuracy", "mean_class_accuracy", "f1_macro", "challenge_score", "nll", "ece")


def made_up_metrics(names: list[str], seed: int) -> dict[str, Any]:
    """Figures that are all different, so that one in the wrong place is found out."""
    size = len(names)
    matrix = [[40 + k if k == j else (k * 7 + j * 3 + seed) % 5 for j in range(size)] for k in range(size)]
    return {
        "n": 1234,
        **{key: 0.9137 - 0.0713 * seed - 0.0317 * k for k, key in enumerate(FIGURES)},
        "classes_absent": [],
        "per_class": {
            name: {
                "precision": 0.7123 + 0.0101 * k,
                "recall": 0.6111 + 0.0103 * k,
                "f1": 0.6517 + 0.0107 * k,
                "support": 16 + 41 * k,
            }
            for k, name in enumerate(names)
        },
        "confusion_matrix": matrix,
        "ci95": {
            "accuracy": [0.9013 - 0.0711 * seed, 0.9237 - 0.0711 * seed],
            "mean_class_accuracy": [0.8613 - 0.0711 * seed, 0.9039 - 0.0711 * seed],
            "method": "percentile bootstrap",
            "resamples": 1000,
            "seed": 0,
        },
    }


def made_up_record(names: list[str], epoch: int, seed: int) -> dict[str, Any]:
    return {
        "model": "run",
        "revision": None,
        "dataset": "ferplus",
        "split": "test",
        "protocol": "multi_resolution",
        "label_rule": "majority",
        "options": {"label_rule": "majority", "classes": len(names), "form": None},
        "n": 1234,
        "metrics": {},
        "resolutions": {factor: made_up_metrics(names, seed + k) for k, factor in enumerate(("1", "2", "4"))},
        "average_low_resolution": 0.70317,
        "parameters": 2_345_678,
        "seed": 3,
        "epoch": epoch,
        "versions": {"python": "3.11.7", "torch": "2.15.0", "datasets": None},
        "hardware": {"device": "cpu", "dtype": "float32", "processor": "x86_64", "threads": 2, "platform": "Linux-6.1"},
        "date": "2026-01-02T03:04:05+00:00",
    }


def make_run(folder: Path, names: list[str] | None = None, **recipe: Any) -> Path:
    """A run folder as training leaves it, without the weights."""
    names = list(names or label_names("ferplus"))
    folder.mkdir(parents=True)
    config = {
        "model_type": "mek",
        "id2label": {str(k): name for k, name in enumerate(names)},
        "backbone": "resnet18",
        "class_counts": [1000 + 137 * k for k in range(len(names))],
        **EMBEDDED,
    }
    keys = {
        "dataset": "ferplus",
        "dataset_options": {"label_rule": "majority", "token": "hf_secret"},
        "data_root": "/home/somebody/ferplus",
        "soft_targets": True,
        "degrade": 0.5,
        "degrade_max": 6.0,
        "mixed_precision": "bf16",
        "epochs": 60,
    }
    report = {
        "selected": made_up_record(names, epoch=56, seed=0),
        "last": made_up_record(names, epoch=60, seed=3),
        "selected_by": "accuracy_over_resolutions on the validation split",
        "validation": {"epoch": 56, "selection": 0.77777, "accuracy": 0.8},
        "train_seconds": 8143,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**keys, **recipe}))
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "curves.png").touch()
    return folder


def with_new_fields(folder: Path) -> Path:
    """Gives the run's report what `evaluate_model` writes since records have a schema."""
    report = json.loads((folder / "report.json").read_text())
    for part, which in enumerate(("selected", "last")):
        for k, metrics in enumerate(report[which]["resolutions"].values()):
            metrics["brier"] = 0.2131 + 0.0171 * k + 0.0053 * part
            metrics["top2_accuracy"] = 0.9631 - 0.0172 * k - 0.0051 * part
            metrics["ci95"]["f1_macro"] = [0.5011 - 0.0173 * k, 0.5231 - 0.0173 * k]
            metrics["ci95"]["challenge_score"] = [0.4017 - 0.0174 * k, 0.4237 - 0.0174 * k]
        report[which]["source"] = "model"
        report[which]["labels"] = {"left_out": {}, "note": "all map", "model": [], "dataset": []}
        report[which]["latency"] = None
        report[which]["training"] = None
    report["selected"]["protocol"] = "label_noise"
    report["selected"]["conditions"] = {"label_noise": 0.23, "stated_by": "report"}
    report["selected"]["labels"]["left_out"] = {"other": 77}
    report["selected"]["latency"] = {
        "median_ms": 4.3217, "p90_ms": 5.6789, "calls": 51, "batch_size": 1, "device": "cpu", "processor": "x86_64",
        "threads": 3, "dtype": "float32",
    }  # fmt: skip
    report["started_from"] = {"backbone_weights": "resnet18.pth"}
    report["num_processes"] = 13
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def make_plain(folder: Path, method: str = "mek", **config: Any) -> Path:
    """What `save_pretrained` leaves that a card looks at."""
    folder.mkdir(parents=True)
    names = label_names("ferplus")
    labels = {str(k): name for k, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps({"model_type": method, "id2label": labels, **config}))
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def body(card: str) -> str:
    return card.split("\n---\n", 1)[1]


def code_blocks(card: str, language: str) -> list[str]:
    return [text for _, text in re.findall(rf"^(`{{3,}}){language}\n(.*?)\n\1$", card, re.MULTILINE | re.DOTALL)]


def without_code_blocks(card: str) -> str:
    return re.sub(r"^(`{3,}).*?^\1$", "", body(card), flags=re.MULTILINE | re.DOTALL)
