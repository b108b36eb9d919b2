"""Every method learns: transformers' own Trainer, without a subclass, on drawn faces, within a minute on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_fer import load_fer_dataset
from hf_fer._auto import METHODS, config_class, model_class
from hf_fer.training.batches import FaceImages, normalize

CLASSES, CHANCE = 8, 1 / 8
SHARED_BACKBONE = "backbone_kwargs"  # of the methods whose `tiny` network is a timm ResNet


@pytest.fixture(scope="module")
def splits() -> Any:
    return load_fer_dataset("synthetic", train=1600, validation=8, test=400, size=64)


class Faces(torch.utils.data.Dataset):
    """What a Trainer wants: `pixel_values` and `labels`."""

    def __init__(self, split: Any, size: int) -> None:
        labels = torch.tensor(split["label"][:])
        images = FaceImages(split, labels, size, 3, True).__getitems__(list(range(len(split))))["images"]
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": normalize(self.images[index].float()), "labels": self.labels[index]}


class NamedLosses(TrainerCallback):
    """Keeps the named scalars of every training step, through a hook on the model."""

    def __init__(self, model: nn.Module) -> None:
        self.steps: list[dict[str, float]] = []
        model.register_forward_hook(self._note)

    def _note(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if output.losses is not None:
            self.steps.append({"loss": output.loss.item(), **{k: v.item() for k, v in output.losses.items()}})

    def mean(self, name: str, part: slice) -> float:
        return float(np.mean([step[name] for step in self.steps[part]]))


def fine_tune(model: nn.Module, splits: Any, folder: Path, steps: int, rate: float) -> tuple[float, NamedLosses]:
    """(test accuracy, the named losses), after so many steps of stock `transformers.Trainer`."""
    size = model.config.image_size
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=steps,
        per_device_train_batch_size=40,
        per_device_eval_batch_size=100,
        learning_rate=rate,
        warmup_steps=20,
        max_grad_norm=5.0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    losses = NamedLosses(model)
    trainer = Trainer(model, arguments, train_dataset=Faces(splits["train"], size), callbacks=[losses])
    trainer.train()
    prediction = trainer.predict(Faces(splits["test"], size))
    assert isinstance(prediction.predictions, np.ndarray)  # the logits, and nothing else to gather
    assert prediction.predictions.shape == (400, CLASSES)
    return float((prediction.predictions.argmax(1) == prediction.label_ids).mean()), losses


@pytest.fixture(scope="module")
def pretrained(splits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The papers start from pretrained backbones: this one knows drawn faces, by plain cross-entropy."""
    folder = tmp_path_factory.mktemp("pretrained")
    config = config_class("mek")
    torch.manual_seed(0)
    model = model_class("mek")(config(num_labels=CLASSES, **config.ablations["Table 6: baseline"], **config.tiny))
    accuracy, _ = fine_tune(model, splits, folder, 240, 1e-2)
    assert accuracy > 4 * CHANCE
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_stock_trainer_fine_tunes_it(method: str, splits: Any, pretrained: Path, tmp_path: Path) -> None:
    config = config_class(method)
    torch.manual_seed(1)
    model = model_class(method)(config(num_labels=CLASSES, **config.tiny))
    shared = config.tiny.get(SHARED_BACKBONE) == config_class("mek").tiny[SHARED_BACKBONE]
    if shared:
        assert not model.load_backbone_weights(str(pretrained)).missing
    accuracy, losses = fine_tune(model, splits, tmp_path, 70 if shared else 280, 3e-3)
    assert len(losses.steps) == (70 if shared else 280)
    assert losses.mean("loss", slice(-30, None)) < losses.mean("loss", slice(30))
    assert accuracy > 2.5 * CHANCE
    for step in losses.steps:
        assert all(np.isfinite(value) for value in step.values())


def test_hsacs_scalars_move_as_in_the_paper(splits: Any, pretrained: Path, tmp_path: Path) -> None:
    """HSAC, Figure 6: from a trained network on, mean s_A falls, and mean tau rises."""
    config = config_class("hsac")
    torch.manual_seed(1)
    model = model_class("hsac")(config(num_labels=CLASSES, **config.tiny))
    trained = model_class("mek").from_pretrained(pretrained)
    model.backbone.load_state_dict(trained.backbone.state_dict())
    model.classifier.load_state_dict(trained.classifier.state_dict())
    _, losses = fine_tune(model, splits, tmp_path, 90, 3e-3)
    early, late = slice(0, 20), slice(-30, None)
    assert losses.mean("s_A", late) < losses.mean("s_A", early) - 0.03
    assert losses.mean("tau", late) > losses.mean("tau", early) + 0.02
    assert losses.mean("combined_attention_consistency", late) < losses.mean("combined_attention_consistency", early)
