"""Starting runs as a user does, for the tests beside it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Seconds on one core: 40 steps of a net of 20 k parameters.
TINY = [
    "--dataset=synthetic",
    "--dataset_options={train: 256, validation: 48, test: 48, size: 32}",
    "--backbone_kwargs={layers: [1, 1], channels: [8, 16], stem_type: deep, stem_width: 8}",
    "--stem_pool=false",
    "--image_size=32",
    "--epochs=4",
    "--batch_size=24",
    "--learning_rate=2e-3",
    "--optimizer=adamw",
    "--schedule=cosine",
    "--ema_decay=0.9",
    "--dropout=0.2",
    "--rotation=8",
    "--erasing=0.3",
    "--degrade=0.5",
    "--eval_resolutions=[1, 2]",
    "--checkpoint_every=3",
    "--cpu_threads=1",
    "--log_every=4",
]


def command(*flags: str, launcher: tuple[str, ...] = (sys.executable,)) -> list[str]:
    return [*launcher, str(ROOT / "recipes" / "train_mek.py"), *flags]


def environment(**values: str) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), **values}


def train(*flags: str, expect: int = 0, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*flags, **options), capture_output=True, text=True, env=environment(), timeout=600)
    assert done.returncode == expect, done.stderr[-3000:]
    return done


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def history(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
