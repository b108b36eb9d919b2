"""The one training loop: any method of the package, any recipe, one process or many."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.augmentation import BatchAugmenter
from ..errors import FerError
from .batches import EpochBatches, FaceImages, derive_seed, epoch_loader, normalize
from .checkpoints import load_checkpoint, save_checkpoint
from .monitor import EpochMonitor, Progress, print_row
from .optim import build_optimizer, schedule_factor
from .recipe import Recipe
from .stop import Stopped, StopRequest
from .validation import validate


def fit(
    model: nn.Module,
    recipe: Recipe,
    train: FaceImages,
    validation: FaceImages,
    accelerator: Any,
    folder: Path,
    on_best: Callable[[nn.Module], None],
    groups: list[str] | None = None,
    mean: float | Tensor = 0.5,
    std: float | Tensor = 0.25,
) -> tuple[nn.Module, Progress, list[dict[str, Any]]]:
    """Trains `model` and validates it after each epoch.

    Args:
        model: takes `pixel_values` (B, C, H, W) and `labels`, returns `loss`, `logits` and `losses`; where it has a
            method `draw_views`, what that draws too.
        recipe: what to do.
        train, validation: the two splits.
        accelerator: an `accelerate.Accelerator`.
        folder: the run folder; checkpoints go below it and `metrics.jsonl` into it.
        on_best: called on the main process with the model to keep whenever validation improves.
        groups: (N,) of the training images, where the recipe samples by them.
        mean, std: of the normalisation, numbers or (1, C, 1, 1).

    Returns:
        The model in its last state (the averaged one, where the recipe averages), the progress, and one row
        of figures per epoch.

    Raises:
        FerError: a loss is not finite or exploded (the sentence says at which step, for which images, and which
            part), the weights are not finite any more, or a checkpoint cannot be written.
        Stopped: on SIGTERM, once a checkpoint is written.
    """
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes

    steps = epoch_batches(train.labels, groups, recipe, world_size=world).steps
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
    draw_views = getattr(model, "draw_views", lambda count, generator: {})

    progress, history = Progress(), []
    # What a resumed run must share with the one before it, and no recipe says.
    setup = {"processes": world, "steps_per_epoch": steps, "mixed_precision": accelerator.mixed_precision}

    def checkpoint() -> None:
        _check_weights(model, progress)  # a gradient may have broken them since the last loss was looked at
        state = {"update": progress.update, "progress": vars(progress), "history": history, "setup": setup}
        save_checkpoint(accelerator, folder / "checkpoints", state, recipe.keep_checkpoints)

    def stop_here() -> None:
        raise Stopped(f"stopped by SIGTERM after update {progress.update}, which is saved; --resume goes on from there")

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

    with StopRequest() as stop, _in_one_sentence(stop):
        while progress.epoch < recipe.epochs and not _is_stalled(history, progress, recipe):
            batches = epoch_batches(train.labels, groups, recipe, progress.epoch, progress.step, rank, world)
            loader = epoch_loader(train, batches, recipe.num_workers, pin_memory=device.type == "cuda")
            monitor = EpochMonitor(accelerator, recipe, batches, progress.epoch, train.split)
            wrapped.train()
            if recipe.freeze_batch_norm:
                _freeze_batch_norm(model)
            for batch in loader:
                # The randomness of a step is a function of its position alone, so a resumed run needs no random
                # state and repeats the uninterrupted one exactly. What happens to an image depends on its place in
                # the batch of all processes; dropout alone is drawn in each process for itself.
                generator = torch.Generator().manual_seed(_step_seed(recipe, progress, 0))
                torch.manual_seed(_step_seed(recipe, progress, rank))
                with torch.no_grad():
                    images = batch["images"].to(device, non_blocking=True).float()
                    images = normalize(augment(images, generator, batch["sides"], rank, world), mean, std)
                    if recipe.channels_last:
                        images = images.contiguous(memory_format=torch.channels_last)
                    targets = batch["targets"].to(device, non_blocking=True)
                    views = {
                        name: draws.chunk(world)[rank].to(device, non_blocking=True)
                        for name, draws in draw_views(len(images) * world, generator).items()
                    }
                rate = schedule_factor(recipe, progress.epoch + progress.step / steps)
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * rate
                with accelerator.accumulate(wrapped):
                    output = wrapped(pixel_values=images, labels=targets, **views)
                    accelerator.backward(output.loss)
                    if recipe.gradient_clip and accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(wrapped.parameters(), recipe.gradient_clip)
                    optimizer.step()
                    optimizer.zero_grad()

                progress.step += 1
                monitor.add(output.loss, output.losses)
                if not accelerator.sync_gradients:
                    continue
                progress.update += 1
                if ema is not None:
                    ema.update(model, step=progress.update)
                if progress.step == steps:
                    break  # what is due now, the end of the epoch does
                due = recipe.checkpoint_every and progress.update % recipe.checkpoint_every == 0
                if due or progress.update % recipe.log_every == 0 or (stop.made and world == 1):
                    stopping = monitor.report(progress, recipe.learning_rate * rate, stop.made)
                    if due or stopping:
                        checkpoint()
                    if stopping:
                        stop_here()

            rate = schedule_factor(recipe, progress.epoch + (progress.step - 1) / steps)
            stopping = monitor.report(progress, recipe.learning_rate * rate, stop.made)
            monitor.bar.close()
            if stopping:  # a machine that is taken away does not wait for a validation
                checkpoint()
                stop_here()
            row = {
                "epoch": progress.epoch + 1,
                "update": progress.update,
                "learning_rate": recipe.learning_rate * rate,
                "seconds": round(time.perf_counter() - monitor.started, 3),
                **progress.epoch_means(),
            }
            if (progress.epoch + 1) % recipe.validate_every == 0 or progress.epoch + 1 == recipe.epochs:
                row.update(validate(evaluated, validation, recipe, accelerator, mean, std))
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
                print_row(row, header=len(history) == 1)
            progress.next_epoch()
            checkpoint()
            asked = torch.tensor([float(stop.made)], device=device)
            if bool(accelerator.gather(asked).any()):
                stop_here()
    # Reports are made in float32: take off the autocast that mixed precision put around `forward`. Of a compiled model
    # it lies around the wrapper, and what Accelerate would put back in its place is no method of the bare one.
    evaluated = accelerator.unwrap_model(evaluated, keep_fp32_wrapper=recipe.compile)
    return evaluated, progress, history


def epoch_batches(
    labels: Tensor,
    groups: list[str] | None,
    recipe: Recipe,
    epoch: int = 0,
    first_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> EpochBatches:
    """The batches of an epoch as the recipe draws them; see `EpochBatches`."""
    return EpochBatches(
        labels,
        recipe.batch_size,
        recipe.seed,
        epoch,
        first_step,
        rank,
        world_size,
        recipe.sampling,
        groups,
        recipe.images_per_group,
        recipe.images_per_class,
        recipe.gradient_accumulation,
    )


@contextmanager
def _in_one_sentence(stop: StopRequest) -> Iterator[None]:
    """Turns what comes of loader processes into one sentence, wherever it comes: a death reaches us in mid-step."""
    try:
        yield
    except FerError as error:  # a worker process sends its whole traceback, the sentence last
        raise FerError(str(error).rstrip().splitlines()[-1].removeprefix("hf_fer.errors.FerError: ")) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        if stop.made:
            raise Stopped(
                "stopped by SIGTERM, which ended a loader process too, in the middle of a step; --resume goes on from "
                "the checkpoint before it"
            ) from error
        raise FerError(
            f"A loader process died ({str(error).splitlines()[0].rstrip('. ')}), as a rule for want of memory: lower "
            "num_workers or batch_size, enlarge /dev/shm in a container, and go on with --resume."
        ) from error


def _step_seed(recipe: Recipe, progress: Progress, rank: int) -> int:
    return derive_seed("step", recipe.seed, progress.epoch, progress.step, rank)


def _is_stalled(history: list[dict[str, Any]], progress: Progress, recipe: Recipe) -> bool:
    """Whether `patience` validations have brought nothing better."""
    since = sum("selection" in row for row in history[progress.best_epoch :])
    return 0 < recipe.patience <= since


def _check_weights(model: nn.Module, progress: Progress) -> None:
    finite = torch.stack([parameter.detach().isfinite().all() for parameter in model.parameters()])
    if not bool(finite.all()):
        broken = next(
            name for (name, _), fine in zip(model.named_parameters(), finite.tolist(), strict=True) if not fine
        )
        raise FerError(
            f"The weights are not finite after update {progress.update} ({broken} is the first that is not); start a "
            "new output_dir with a lower learning_rate, or with gradient_clip."
        )


def _freeze_batch_norm(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _build_ema(model: nn.Module, recipe: Recipe, device: torch.device) -> Any:
    if not recipe.ema_decay:
        return None
    from timm.utils import ModelEmaV3

    # Warm-up: early on the average follows quickly instead of remembering the initialisation.
    return ModelEmaV3(model.to(device), decay=recipe.ema_decay, use_warmup=True)
