"""The one training loop: any method of the package, any recipe, one process or many."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.augmentation import BatchAugmenter
from ..data.resampling import BatchDegrader
from ..errors import FerError
from .batches import EpochBatches, FaceImages, derive_seed, epoch_loader
from .checkpoints import load_checkpoint, save_checkpoint
from .optim import build_optimizer, schedule_factor
from .recipe import Recipe

# FER2013's faces are grey and cover the whole range; one mean and deviation for all channels keeps
# luminance a linear function of the normalised image.
IMAGE_MEAN, IMAGE_STD = 0.5, 0.25


class Progress:
    """Where a run stands; goes into every checkpoint as JSON."""

    def __init__(self) -> None:
        self.update = self.epoch = self.step = 0  # updates done; epoch and step to take next
        self.best_epoch, self.best_value = 0, -1.0  # validation figures are never negative
        self.sums: dict[str, float] = {}  # of the current epoch's losses, over the steps looked at so far
        self.summed = 0

    def epoch_means(self) -> dict[str, float]:
        return {f"train_{name}": total / max(self.summed, 1) for name, total in self.sums.items()}

    def next_epoch(self) -> None:
        self.epoch, self.step, self.sums, self.summed = self.epoch + 1, 0, {}, 0


def fit(
    model: nn.Module,
    recipe: Recipe,
    train: FaceImages,
    validation: FaceImages,
    accelerator: Any,
    folder: Path,
    on_best: Callable[[nn.Module], None],
) -> tuple[nn.Module, Progress, list[dict[str, Any]]]:
    """Trains `model` and validates it after each epoch.

    Args:
        model: takes `pixel_values` (B, C, H, W) and `labels`, returns `loss`, `logits` and `losses`.
        recipe: what to do.
        train, validation: the two splits.
        accelerator: an `accelerate.Accelerator`.
        folder: the run folder; checkpoints go below it and `metrics.jsonl` into it.
        on_best: called on the main process with the model to keep whenever validation improves.

    Returns:
        The model in its last state (the averaged one, where the recipe averages), the progress, and one row
        of figures per epoch.

    Raises:
        FerError: a loss is not finite (the sentence says at which step, for which images, and which part).
    """
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    labels = train.labels

    def batches_from(epoch: int, first_step: int) -> EpochBatches:
        return EpochBatches(
            labels,
            recipe.batch_size,
            recipe.seed,
            epoch,
            first_step=first_step,
            rank=rank,
            world_size=world,
            class_balanced=recipe.class_balanced_sampling,
            multiple_of=recipe.gradient_accumulation,
        )

    steps = batches_from(0, 0).steps
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, recipe, device)
    ema = _build_ema(model, recipe, device)
    if ema is not None:
        accelerator.register_for_checkpointing(ema)
    # `model` stays the bare network: what is averaged, validated and saved. `wrapped` is what trains.
    wrapped, optimizer = accelerator.prepare(torch.compile(model) if recipe.compile else model, optimizer)
    evaluated = model if ema is None else ema.module
    augment = BatchAugmenter(recipe, train.size, device)

    progress, history = Progress(), []
    # What a resumed run must share with the one before it, and no recipe says.
    setup = {"processes": world, "steps_per_epoch": steps, "mixed_precision": accelerator.mixed_precision}

    def checkpoint() -> None:
        state = {"update": progress.update, "progress": vars(progress), "history": history, "setup": setup}
        save_checkpoint(accelerator, folder / "checkpoints", state, recipe.keep_checkpoints)

    if recipe.resume:
        state = load_checkpoint(accelerator, folder / "checkpoints")
        if state["setup"] != setup:
            raise FerError(f"Cannot resume: the run was made with {state['setup']}, this is {setup}; launch it alike.")
        vars(progress).update(state["progress"])
        history += state["history"]
        if accelerator.is_main_process:  # drop what was written after the checkpoint
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history), "utf-8")
    else:
        checkpoint()  # so that there is something to resume from the first step on

    while progress.epoch < recipe.epochs:
        batches = batches_from(progress.epoch, progress.step)
        loader = epoch_loader(train, batches, recipe.num_workers, pin_memory=device.type == "cuda")
        monitor = _Monitor(accelerator, recipe, progress.epoch, steps)
        monitor.bar.update(progress.step)
        wrapped.train()
        for batch in _in_one_sentence(loader):
            # The randomness of a step is a function of its position alone, so a resumed run needs no
            # random state and repeats the uninterrupted one exactly.
            seed = derive_seed("step", recipe.seed, progress.epoch, progress.step, rank)
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                images = batch["images"].to(device, non_blocking=True).float()
                images = normalize(augment(images, generator, batch["sides"]))
                if recipe.channels_last:
                    images = images.contiguous(memory_format=torch.channels_last)
                targets = batch["targets"].to(device, non_blocking=True)

            rate = schedule_factor(recipe, progress.epoch + progress.step / steps)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * rate
            with accelerator.accumulate(wrapped):
                output = wrapped(pixel_values=images, labels=targets)
                accelerator.backward(output.loss)
                if recipe.gradient_clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(wrapped.parameters(), recipe.gradient_clip)
                optimizer.step()
                optimizer.zero_grad()

            progress.step += 1
            monitor.add(output.loss, output.losses, batch["rows"])
            if accelerator.sync_gradients:
                progress.update += 1
                if ema is not None:
                    ema.update(model, step=progress.update)
                if progress.update % recipe.log_every == 0:
                    monitor.report(progress, recipe.learning_rate * rate)
                due = recipe.checkpoint_every and progress.update % recipe.checkpoint_every == 0
                if due and progress.step < steps:  # the end of the epoch writes one of its own
                    monitor.report(progress, recipe.learning_rate * rate)  # never save what a NaN went through
                    checkpoint()
        monitor.report(progress, recipe.learning_rate * rate)
        monitor.bar.close()

        row = {
            "epoch": progress.epoch + 1,
            "update": progress.update,
            "learning_rate": recipe.learning_rate * rate,
            "seconds": round(time.perf_counter() - monitor.started, 1),
            **progress.epoch_means(),
        }
        if (progress.epoch + 1) % recipe.validate_every == 0 or progress.epoch + 1 == recipe.epochs:
            row.update(validate(evaluated, validation, recipe, accelerator))
            if row["selection"] > progress.best_value:
                progress.best_epoch, progress.best_value = progress.epoch + 1, row["selection"]
                if accelerator.is_main_process:
                    on_best(evaluated)
        row["best"] = progress.best_epoch == progress.epoch + 1
        history.append(row)
        accelerator.log({k: v for k, v in row.items() if isinstance(v, float)}, step=progress.update)
        if accelerator.is_main_process:
            with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            _print_row(row, header=len(history) == 1)
        progress.next_epoch()
        checkpoint()
    # Reports are made in float32: take off the autocast that mixed precision put around `forward`.
    return accelerator.unwrap_model(evaluated, keep_fp32_wrapper=False), progress, history


def _in_one_sentence(loader: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from loader
    except FerError as error:  # a worker process sends its whole traceback, the sentence last
        raise FerError(str(error).rstrip().splitlines()[-1].removeprefix("hf_fer.errors.FerError: ")) from error


def normalize(images: Tensor) -> Tensor:
    """(…) float, 0–255, as the saved image processor normalises them."""
    return (images / 255 - IMAGE_MEAN) / IMAGE_STD


@torch.no_grad()
def validate(model: nn.Module, split: FaceImages, recipe: Recipe, accelerator: Any) -> dict[str, float]:
    """Loss, accuracy and mean class accuracy of a split at each of `recipe.eval_resolutions`.

    Every process takes each world-size-th image; the answers are put back together exactly. The factors count
    from the images' own sides, as in `hf_fer.evaluate_model`.
    """
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    labels = split.labels
    if world > 1:  # batch-norm statistics are each process' own: judge those that will be saved
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
    rows = torch.arange(rank, len(split), world)
    degrader = BatchDegrader(split.size, device) if max(recipe.eval_resolutions) > 1 else None
    figures: dict[str, float] = {}
    model.eval()
    for factor in recipe.eval_resolutions:
        parts = []
        for start in range(0, len(rows), recipe.eval_batch_size):
            batch = split.__getitems__(rows[start : start + recipe.eval_batch_size].tolist())
            images = batch["images"].to(device).float()
            if factor > 1:
                images = degrader(images, (batch["sides"] / factor).round().long().clamp(1, split.size))
            with accelerator.autocast():
                parts.append(model(pixel_values=normalize(images)).logits.float())
        logits = _gather_interleaved(torch.cat(parts), len(split), accelerator).cpu()
        hits = (logits.argmax(dim=1) == labels).double()
        recalls = [hits[labels == k].mean() for k in labels.unique()]
        suffix = "" if factor == 1 else f"_x{factor:g}"
        figures[f"validation_loss{suffix}"] = nn.functional.cross_entropy(logits, labels).item()
        figures[f"accuracy{suffix}"] = hits.mean().item()
        figures[f"mean_class_accuracy{suffix}"] = torch.stack(recalls).mean().item()
    name, over_all, _ = recipe.select_by.partition("_over_resolutions")
    suffixes = ["" if f == 1 else f"_x{f:g}" for f in recipe.eval_resolutions]
    figures["selection"] = float(np.mean([figures[name + s] for s in (suffixes if over_all else [""])]))
    return figures


def _gather_interleaved(mine: Tensor, total: int, accelerator: Any) -> Tensor:
    """Puts the rows rank, rank + world, … of each process back into their order."""
    world = accelerator.num_processes
    if world == 1:
        return mine
    longest = -(-total // world)
    padded = torch.cat([mine, mine.new_zeros(longest - len(mine), *mine.shape[1:])])
    gathered = accelerator.gather(padded).view(world, longest, *mine.shape[1:])
    return gathered.transpose(0, 1).reshape(world * longest, *mine.shape[1:])[:total]


def _build_ema(model: nn.Module, recipe: Recipe, device: torch.device) -> Any:
    if not recipe.ema_decay:
        return None
    from timm.utils import ModelEmaV3

    # Warm-up: early on the average follows quickly instead of remembering the initialisation.
    return ModelEmaV3(model.to(device), decay=recipe.ema_decay, use_warmup=True)


class _Monitor:
    """Losses of one epoch: kept on the device, looked at every `log_every` updates."""

    def __init__(self, accelerator: Any, recipe: Recipe, epoch: int, steps: int) -> None:
        from tqdm import tqdm

        self.accelerator, self.recipe, self.epoch = accelerator, recipe, epoch
        self.pending: list[tuple[Tensor, dict[str, Tensor], Tensor]] = []
        self.started = time.perf_counter()
        self.bar = tqdm(
            total=steps,
            desc=f"epoch {epoch + 1}/{recipe.epochs}",
            unit="step",
            disable=not accelerator.is_local_main_process,
            leave=False,
            dynamic_ncols=True,
            mininterval=1.0,
        )

    def add(self, loss: Tensor, losses: dict[str, Tensor] | None, rows: Tensor) -> None:
        self.pending.append((loss.detach(), losses or {}, rows))
        self.bar.update()

    def report(self, progress: Progress, rate: float) -> None:
        """Fetches the pending losses in one transfer, logs them, and stops the run if one is not finite."""
        if not self.pending:
            return
        names = ["loss", *self.pending[0][1]]
        values = torch.stack([torch.stack([loss, *parts.values()]).float() for loss, parts, _ in self.pending])
        values = values.cpu().double()
        finite = values.isfinite().all(dim=1)
        if not bool(finite.all()):
            first = int((~finite).nonzero()[0])
            step = progress.step - len(self.pending) + first + 1
            parts = ", ".join(f"{n} = {v:.4g}" for n, v in zip(names, values[first].tolist(), strict=True))
            raise FerError(
                f"The loss is not finite in epoch {self.epoch + 1} at step {step} ({parts}; training rows "
                f"{self.pending[first][2].tolist()}); start a new output_dir with a lower learning_rate, or with "
                "gradient_clip."
            )
        for name, total in zip(names, values.sum(dim=0).tolist(), strict=True):
            progress.sums[name] = progress.sums.get(name, 0.0) + total
        progress.summed += len(self.pending)
        means = dict(zip((f"train/{n}" for n in names), values.mean(dim=0).tolist(), strict=True))
        self.accelerator.log({**means, "train/learning_rate": rate}, step=progress.update)
        self.bar.set_postfix(loss=f"{values[-1, 0]:.3f}", refresh=False)
        self.pending.clear()


def _print_row(row: dict[str, Any], header: bool) -> None:
    columns = {
        "epoch": "epoch",
        "train_loss": "train loss",
        "validation_loss": "val loss",
        "accuracy": "accuracy",
        "mean_class_accuracy": "mean class",
        "selection": "selection",
        "seconds": "seconds",
    }
    if header:
        print("  ".join(f"{title:>10}" for title in columns.values()))
    cells = []
    for key in columns:
        value = row.get(key, "")
        cells.append(f"{value:>10.4f}" if isinstance(value, float) and key != "seconds" else f"{value:>10}")
    print("  ".join(cells) + ("  *" if row["best"] else ""), flush=True)
