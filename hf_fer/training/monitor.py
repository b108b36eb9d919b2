"""What a run shows while it trains: losses, progress bar, one table row an epoch; and when it must not go on."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from ..errors import FerError
from .batches import EpochBatches, original_row
from .recipe import Recipe


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


class EpochMonitor:
    """Losses of one epoch: kept on the device, looked at every `log_every` updates, by all processes together.

    Args:
        accelerator: an `accelerate.Accelerator`.
        recipe: `epochs`, `loss_limit`.
        batches: of the epoch, to name the rows of a step.
        epoch: its number, from 0.
        split: the training images, to name rows as the data set numbers them.
    """

    def __init__(self, accelerator: Any, recipe: Recipe, batches: EpochBatches, epoch: int, split: Any = None) -> None:
        from tqdm import tqdm

        self.accelerator, self.recipe, self.batches, self.epoch, self.split = accelerator, recipe, batches, epoch, split
        self.pending: list[tuple[Tensor, dict[str, Tensor]]] = []
        self.started = time.perf_counter()
        self.bar = tqdm(
            total=batches.steps,
            initial=batches.first_step,
            desc=f"epoch {epoch + 1}/{recipe.epochs}",
            unit="step",
            disable=not accelerator.is_local_main_process,
            leave=False,
            dynamic_ncols=True,
            mininterval=1.0,
        )

    def add(self, loss: Tensor, losses: dict[str, Tensor] | None) -> None:
        """Notes a step's loss and its named parts, 0-d tensors on the device, without waiting for them."""
        self.pending.append((loss.detach(), losses or {}))
        self.bar.update()

    def report(self, progress: Progress, rate: float, stop: bool = False) -> bool:
        """Fetches the pending losses in one transfer and logs their means over the processes.

        Every process calls it at the same step.

        Args:
            progress: after the last of the pending steps; their losses are added to its sums.
            rate: learning rate, for the log.
            stop: whether this process has been asked to stop.

        Returns:
            Whether any process has.

        Raises:
            FerError: a loss of some process is not finite or above `loss_limit`; raised in all of them.
        """
        if not self.pending:
            return stop and self.accelerator.num_processes == 1
        names = ["loss", *self.pending[0][1]]
        own = torch.stack([torch.stack([loss, *parts.values()]).float() for loss, parts in self.pending])
        asked = torch.full_like(own[:, :1], float(stop))
        # (processes, steps, 1 + names); gathered as rows, since gather joins along the first axis
        table = self.accelerator.gather(torch.cat([asked, own], dim=1)[None]).cpu().double()
        values = table[:, :, 1:]
        self._check(values, names, progress)
        means = values.mean(dim=0)
        for name, total in zip(names, means.sum(dim=0).tolist(), strict=True):
            progress.sums[name] = progress.sums.get(name, 0.0) + total
        progress.summed += len(means)
        logged = dict(zip((f"train/{name}" for name in names), means.mean(dim=0).tolist(), strict=True))
        self.accelerator.log({**logged, "train/learning_rate": rate}, step=progress.update)
        self.bar.set_postfix(loss=f"{means[-1, 0]:.3f}", refresh=False)
        self.pending.clear()
        return bool(table[:, :, 0].any())

    def _check(self, values: Tensor, names: list[str], progress: Progress) -> None:
        finite = values.isfinite().all(dim=2)
        fine = finite & (values[:, :, 0] <= self.recipe.loss_limit)
        if bool(fine.all()):
            return
        step, rank = divmod(int((~fine).T.flatten().nonzero()[0]), len(values))  # the first step, whoever's
        parts = ", ".join(f"{n} = {v:.4g}" for n, v in zip(names, values[rank, step].tolist(), strict=True))
        limit = f"above loss_limit ({self.recipe.loss_limit:g})" if finite[rank, step] else "not finite"
        number = progress.step - values.shape[1] + step
        rows = [original_row(self.split, row) for row in self.batches.rows(number, rank)]
        raise FerError(
            f"The loss is {limit} in epoch {self.epoch + 1} at step {number + 1} ({parts}; training rows {rows}); "
            "start a new output_dir with a lower learning_rate, or with gradient_clip."
        )


def print_row(row: dict[str, Any], header: bool) -> None:
    """One line of the console's table: an epoch's figures, with a star at the best so far."""
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
        cells.append(f"{value:>10.{1 if key == 'seconds' else 4}f}" if isinstance(value, float) else f"{value:>10}")
    print("  ".join(cells) + ("  *" if row["best"] else ""), flush=True)
