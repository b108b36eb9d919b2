"""What a training step does and does not do: no waiting for the device, the same gradients with less memory."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils._python_dispatch import TorchDispatchMode

from hf_fer._auto import METHODS, config_class, model_class
from hf_fer.data.augmentation import BatchAugmenter
from hf_fer.data.resampling import BatchDegrader
from hf_fer.training.batches import FaceImages
from hf_fer.training.loop import fit
from hf_fer.training.recipe import Recipe, load_recipe
from hf_fer.training.splits import load_splits

# What reads a value on the host: each waits for the device to have computed it.
WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim"}
BATCH = 4


class CountWaits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in WAITS:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def prepare(method: str, folder: Path, steps: int, *flags: str) -> tuple[Any, Recipe, FaceImages, FaceImages]:
    kind = config_class(method)
    options = f"{{train: {BATCH * steps}, validation: 8, test: 8, size: 32}}"
    always = [
        f"--output_dir={folder}", "--dataset=synthetic", f"--dataset_options={options}", f"--batch_size={BATCH}",
        "--epochs=1", "--tracker=none", "--log_every=1000", "--optimizer=adamw", "--gradient_clip=1",
        "--ema_decay=0.9",
    ]  # fmt: skip
    recipe = load_recipe(kind, None, [*always, *flags])
    splits = load_splits(recipe)
    torch.manual_seed(0)
    config = kind(num_labels=8, **copy.deepcopy(kind.tiny))
    train, validation = (
        FaceImages(split, torch.tensor(split["label"][:]), config.image_size, 3)
        for split in (splits.train, splits.validation)
    )
    return model_class(method)(config), recipe, train, validation


@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_device(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of values read on the host does not grow with the number of steps between two log entries."""
    # On a CPU the degrader looks at the sides that were drawn; here the way that runs on a device is looked at.
    monkeypatch.setattr(
        "hf_fer.data.augmentation.BatchDegrader", lambda size, device: BatchDegrader(size, device, method="dense")
    )
    # `one_hot` looks at the range of its labels on a CPU, and on a CPU alone.
    monkeypatch.setattr(
        "torch.nn.functional.one_hot", lambda labels, classes: (labels[:, None] == torch.arange(classes)).long()
    )
    augmentation = ["--rotation=8", "--brightness=0.2", "--saturation=0.2", "--erasing=0.3", "--degrade=0.5"]
    seen = {}
    for steps in (2, 5):
        folder = tmp_path / str(steps)
        folder.mkdir()
        model, recipe, train, validation = prepare(method, folder, steps, *augmentation)
        with CountWaits() as waits:
            fit(model, recipe, train, validation, Accelerator(cpu=True), folder, on_best=lambda _: None)
        seen[steps] = waits.seen
    assert seen[2] == seen[5]
    assert seen[2]["_local_scalar_dense"] > 0  # the counter counts: an epoch's end reads its losses


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_gpu(method: str) -> None:
    kind = config_class(method)
    config = kind(num_labels=8, **copy.deepcopy(kind.tiny))
    model = model_class(method)(config).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    recipe = Recipe(output_dir="unused", dataset="synthetic", rotation=8, erasing=0.3, degrade=0.5)
    augment = BatchAugmenter(recipe, config.image_size, "cuda")
    images = torch.rand(BATCH, 3, config.image_size, config.image_size, device="cuda") * 255
    labels = torch.arange(BATCH, device="cuda")

    def step() -> None:
        generator = torch.Generator().manual_seed(0)
        views = {k: v.to("cuda", non_blocking=True) for k, v in model.draw_views(BATCH, generator).items()}
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(pixel_values=augment(images, generator) / 255, labels=labels, **views).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # the first call chooses kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", METHODS)
def test_activation_checkpointing_changes_no_gradient(method: str) -> None:
    kind = config_class(method)
    config = kind(num_labels=8, **copy.deepcopy(kind.tiny))
    torch.manual_seed(0)
    model = model_class(method)(config).train()
    images = torch.randn(BATCH, 3, config.image_size, config.image_size)
    gradients, recomputed = [], []
    state = copy.deepcopy(model.state_dict())  # batch norm and spectral norm move on
    for on in (False, True):
        model.load_state_dict(state)
        if on:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model.zero_grad()
        forwards: Counter[bool] = Counter()

        def count(*_: Any, counter: Counter[bool] = forwards) -> None:
            counter[True] += 1

        layers = [m for m in model.backbone.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
        hooks = [layer.register_forward_hook(count) for layer in layers]
        torch.manual_seed(1)
        views = model.draw_views(BATCH, torch.Generator().manual_seed(2))
        model(pixel_values=images, labels=torch.arange(BATCH), **views).loss.backward()
        for hook in hooks:
            hook.remove()
        recomputed.append(forwards[True])
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert recomputed[1] > recomputed[0]  # something was computed twice instead of being kept
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_frozen_batch_norm_keeps_its_statistics(tmp_path: Path) -> None:
    model, recipe, train, validation = prepare("mek", tmp_path, 3, "--freeze_batch_norm", "--ema_decay=0")
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    fit(model, recipe, train, validation, Accelerator(cpu=True), tmp_path, on_best=lambda _: None)
    assert before and all(torch.equal(dict(model.named_buffers())[name], value) for name, value in before.items())
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["train_loss"] > 0


@pytest.mark.parametrize("ema", ["0", "0.9"])
def test_a_compiled_model_in_half_precision_is_a_model_afterwards(
    ema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_(model, backend="eager"))
    flags = ["--compile", f"--ema_decay={ema}", "--mixed_precision=bf16"]
    model, recipe, train, validation = prepare("mek", tmp_path, 2, *flags)
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test's, in float32
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    trained, _, _ = fit(model, recipe, train, validation, accelerator, tmp_path, on_best=lambda _: None)
    images = torch.randn(2, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        logits = trained.eval()(pixel_values=images).logits
    assert logits.dtype == torch.float32
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("name", ["progress.json", "model.safetensors", "custom_checkpoint_0.pkl", "optimizer.bin"])
def test_a_damaged_checkpoint_is_one_sentence(name: str, tmp_path: Path) -> None:
    from hf_fer import FerError
    from hf_fer.training.checkpoints import load_checkpoint

    model, recipe, train, validation = prepare("mek", tmp_path, 2)
    accelerator = Accelerator(cpu=True)
    fit(model, recipe, train, validation, accelerator, tmp_path, on_best=lambda _: None)
    (newest, *_) = sorted((tmp_path / "checkpoints").glob("step-*"), reverse=True)
    file = newest / name
    for damaged in (bytes(len(file.read_bytes())), file.read_bytes()[:20]):
        file.write_bytes(damaged)
        with pytest.raises(FerError, match="is damaged"):
            load_checkpoint(accelerator, tmp_path / "checkpoints")
    accelerator.free_memory()


def test_a_stop_at_the_end_of_an_epoch_comes_before_its_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_fer.training import loop
    from hf_fer.training.stop import Stopped, StopRequest

    class Asked(StopRequest):
        def __enter__(self) -> StopRequest:
            self.made = True
            return self

        def __exit__(self, *_: object) -> None:
            pass

    folders = {name: tmp_path / name for name in ("stopped", "whole")}
    for name, folder in folders.items():
        folder.mkdir()
        model, recipe, train, validation = prepare("mek", folder, 1)  # one step an epoch
        if name == "stopped":
            with monkeypatch.context() as patch, pytest.raises(Stopped, match="after update 1, which is saved"):
                patch.setattr(loop, "StopRequest", Asked)
                patch.setattr(loop, "validate", None)
                fit(model, recipe, train, validation, Accelerator(cpu=True), folder, on_best=lambda _: None)
            recipe.resume = True
            model = prepare("mek", folder, 1)[0]
        fit(model, recipe, train, validation, Accelerator(cpu=True), folder, on_best=lambda _: None)
    rows = [json.loads((folder / "metrics.jsonl").read_text()) for folder in folders.values()]
    assert {**rows[0], "seconds": 0} == {**rows[1], "seconds": 0}
    for folder in folders.values():
        kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
        assert kept == ["step-00000000", "step-00000001"]
        assert json.loads((folder / "checkpoints" / kept[-1] / "progress.json").read_text())["progress"]["epoch"] == 1
