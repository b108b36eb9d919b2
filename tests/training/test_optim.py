from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hf_fer import MEKConfig
from hf_fer.training.optim import build_optimizer, schedule_factor
from hf_fer.training.recipe import Recipe, load_recipe


def recipe(**values: object) -> Recipe:
    flags = [f"--{k}={v}" for k, v in {"dataset": "synthetic", "output_dir": "run", **values}.items()]
    return load_recipe(MEKConfig, None, flags)


def test_schedules_at_known_moments() -> None:
    cosine = recipe(schedule="cosine", epochs=10, warmup_epochs=2, min_lr_ratio=0.1)
    assert schedule_factor(cosine, 0) < 0.01
    assert schedule_factor(cosine, 1) == pytest.approx(0.5, abs=1e-3)
    assert schedule_factor(cosine, 2) == pytest.approx(1)
    assert schedule_factor(cosine, 6) == pytest.approx(0.1 + 0.9 * 0.5)
    assert schedule_factor(cosine, 10) == pytest.approx(0.1)
    exponential = recipe(schedule="exponential", lr_decay=0.9)
    assert [schedule_factor(exponential, e) for e in (0, 0.9, 1, 2.5)] == pytest.approx([1, 1, 0.9, 0.81])
    step = recipe(schedule="step", lr_decay=0.1, lr_step_epochs=30)
    assert [schedule_factor(step, e) for e in (29.9, 30, 60)] == pytest.approx([1, 0.1, 0.01])
    assert schedule_factor(recipe(), 50) == 1


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.classifier = nn.Linear(2, 4)


def test_every_parameter_is_in_one_group_with_its_rate_and_decay() -> None:
    model = Toy()
    settings = recipe(
        optimizer="adamw", learning_rate=0.1, head_lr_multiplier=10, weight_decay=0.5, decay_norms_and_biases="false"
    )
    optimizer = build_optimizer(model, settings, torch.device("cpu"))
    by_parameter = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters())) == len(by_parameter)
    for name, parameter in model.named_parameters():
        group = by_parameter[id(parameter)]
        assert group["base_lr"] == pytest.approx(1.0 if name.startswith("classifier") else 0.1), name
        assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0.0), name


@pytest.mark.parametrize("name, kind", [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_the_named_optimiser_takes_a_step(name: str, kind: str) -> None:
    model = Toy()
    optimizer = build_optimizer(model, recipe(optimizer=name, learning_rate=0.1), torch.device("cpu"))
    assert type(optimizer).__name__ == kind
    before = model.classifier.weight.clone()
    model.classifier(torch.ones(1, 2)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.classifier.weight)
    assert math.isfinite(model.classifier.weight.sum().item())
