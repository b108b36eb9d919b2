"""Trains every method for some steps and writes what was seen: started by test_processes.py, in one process or two.

python curves_script.py OUTPUT.json PROCESSES FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hf_fer._auto import METHODS, config_class, model_class
from hf_fer.training.batches import FaceImages
from hf_fer.training.loop import fit
from hf_fer.training.recipe import load_recipe
from hf_fer.training.splits import load_splits
from hf_fer.training.validation import _gather_interleaved, validate

GLOBAL_BATCH, STEPS, VALIDATION = 16, 20, 37


def train(method: str, accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    kind = config_class(method)
    recipe = load_recipe(
        kind,
        None,
        [
            f"--output_dir={folder / method}",
            "--dataset=synthetic",
            f"--dataset_options={{train: {GLOBAL_BATCH * STEPS}, validation: {VALIDATION}, test: 8, size: 32}}",
            f"--batch_size={GLOBAL_BATCH // accelerator.num_processes}",
            "--epochs=1",
            # At 1e-2 the Neural Resizer's steps double a difference in rounding, and the curves part after 15 of them.
            "--learning_rate=3e-3",
            "--optimizer=sgd",
            "--gradient_clip=1",
            "--freeze_batch_norm",
            "--rotation=8",
            "--brightness=0.2",
            "--erasing=0.3",
            "--degrade=0.5",
            "--eval_resolutions=[1, 2]",
            "--log_every=1",
            "--tracker=none",
            "--channels_last=false",
        ],
    )
    splits = load_splits(recipe)
    torch.manual_seed(0)
    config = kind(num_labels=len(splits.names), **kind.tiny)
    for field in ("dropout", "head_dropout"):  # each process draws its own masks
        if hasattr(config, field):
            setattr(config, field, 0.0)
    if getattr(config, "backbone", "").startswith("swin"):
        config.backbone_kwargs["drop_path_rate"] = 0.0
    model = model_class(method)(config)
    train_images = FaceImages(splits.train, splits.labels, config.image_size, 3)
    validation = FaceImages(splits.validation, torch.tensor(splits.validation["label"][:]), config.image_size, 3)
    figures = validate(model.to(accelerator.device), validation, recipe, accelerator)

    curve: list[dict[str, float]] = []
    accelerator.log = lambda values, **_: curve.append(values)  # type: ignore[method-assign]
    fit(model, recipe, train_images, validation, accelerator, folder / method, on_best=lambda _: None)
    return {"validation": figures, "curve": [row for row in curve if "train/loss" in row]}


def main() -> None:
    output, processes, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == processes
    seen: dict[str, Any] = {}
    for method in METHODS:
        if accelerator.is_main_process:
            (folder / method).mkdir(parents=True)
        accelerator.wait_for_everyone()
        seen[method] = train(method, accelerator, folder)
        accelerator.free_memory()
    total = 2 * processes + 1  # not divisible
    mine = torch.arange(accelerator.process_index, total, processes)[:, None].float()
    seen["order"] = _gather_interleaved(mine, total, accelerator)[:, 0].tolist()
    if accelerator.is_main_process:
        Path(output).write_text(json.dumps(seen))
    accelerator.end_training()


if __name__ == "__main__":
    main()
