"""Resolution degradation of whole batches, on any device: bicubic down and up, with a side per sample.

A separable resampling is one small matrix per image axis. The matrices are Pillow's antialiased bicubic filter
(Keys 1981, a = −0.5), and like Pillow each pass (first along the rows, then along the columns) ends in 8 bits, so
the result is the per-image path's (`hf_fer.data.resolution`) to one grey level: of natural images' values, one or
two in ten thousand differ by one, and one in millions by two. `benchmarks/data.py` measures both paths, and what lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ..errors import FerError

_SMALL = 64  # px: up to here whole matrices are faster than strips
_STRIPS = 4  # at 224 px they leave out two zeros in three; more are too thin for fast products
_AT_ONCE = 2**18  # values: what a product reads and writes stays in a core's cache

#: A matrix in p strips of h rows: the columns from one strip's window to the next one's, and (p, h, width) float32.
Strips = tuple[int, Tensor]


def bicubic_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Pillow's bicubic resampling along one axis, as (size_out, size_in) float64 with rows summing to 1."""
    sizes = torch.tensor([size_in]), torch.tensor([size_out])
    return bicubic_matrices(*sizes, size_out, size_in, torch.float64)[0].numpy()


def bicubic_matrices(sizes_in: Tensor, sizes_out: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Pillow's bicubic resampling along one axis for many pairs of sizes, where the sizes are, without a look at them.

    Args:
        sizes_in, sizes_out: (B,) int64, at least 1.
        rows, columns: room for the largest of `sizes_out`, of `sizes_in`.
        dtype: of the result, and what it is computed in.

    Returns:
        (B, rows, columns); matrix b is zero below row `sizes_out[b]` and right of column `sizes_in[b]`.
    """
    row = torch.arange(rows, device=sizes_in.device)[:, None]
    column = torch.arange(columns, device=sizes_in.device)
    size_in, size_out = sizes_in[:, None, None], sizes_out[:, None, None]
    # The distance of two pixel centres, (column + ½) − (row + ½)·in/out, in units of the filter, which shrinking
    # stretches by in/out (that is the antialiasing). In whole numbers up to the division, which alone rounds.
    steps = ((2 * column + 1) * size_out - (2 * row + 1) * size_in).abs()
    x = steps.to(dtype) / (2 * torch.maximum(size_in, size_out)).to(dtype)
    inner = (1.5 * x - 2.5) * x * x + 1.0
    outer = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    weights = torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))
    weights = weights * ((column < size_in) & (row < size_out))
    return weights / weights.sum(dim=2, keepdim=True).where(row < size_out, 1.0)


class BatchDegrader:
    """Down-samples each image of a batch to a side of its own and draws it back.

    Two ways to the same values, each the fastest where it is the default:

    - `"bands"` (CPU): side after side, the matrices cut into strips without most of their zeros. Works from the
      sides' values, so on a GPU it would wait for them. On one thread: the products are too small to be shared,
      and a second Python thread gains nothing where each holds the interpreter every few microseconds.
    - `"dense"` (elsewhere): whole matrices made on the device for all images at once, and four batched products.
      Nothing waits for the device. Where a user lets float32 products run in TF32 (weights of 11 bits), some five
      values in ten thousand miss by two grey levels.

    Args:
        size: side of the square images in px.
        device: where the batches are.
        method: "bands" or "dense"; None: by the device.

    Raises:
        FerError: a size below 1, or another method.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu", method: str | None = None) -> None:
        if size < 1:
            raise FerError(f"BatchDegrader: size={size!r} is no side in pixels; give at least 1.")
        if method not in (None, "bands", "dense"):
            raise FerError(f"BatchDegrader: method={method!r} does not exist; give 'bands', 'dense' or None.")
        self.size, self.device = size, torch.device(device)
        self.method = method or ("bands" if self.device.type == "cpu" else "dense")
        self._count = _STRIPS if size > _SMALL else 1
        self._strips: dict[int, tuple[Strips, Strips]] = {}  # at most some size³ bytes: 14 MB at 224

    @torch.no_grad()
    def __call__(self, images: Tensor, sides: Tensor) -> Tensor:
        """
        Args:
            images: (B, C, size, size), values 0–255, floating point or uint8.
            sides: (B,) int64, each in 1…size; `size` leaves an image as it is (in whole values).

        Returns:
            (B, C, size, size), whole values 0–255 in the dtype of `images`, without a gradient; "bands" leaves
            them in `channels_last` order, as its last product makes them.

        Raises:
            FerError: images of another size; with "bands", a side out of its range.
        """
        if images.ndim != 4 or images.shape[2:] != (self.size, self.size):
            raise FerError(
                f"This BatchDegrader takes images of {self.size}x{self.size} px, not a tensor of shape "
                f"{tuple(images.shape)}; make one for that size."
            )
        # Half precision would be worth neither the name nor the grey levels.
        with torch.autocast(images.device.type, enabled=False):
            return self._in_bands(images, sides) if self.method == "bands" else self._dense(images, sides)

    def _dense(self, images: Tensor, sides: Tensor) -> Tensor:
        sides = sides.to(images.device, non_blocking=True)
        whole = torch.full_like(sides, self.size)
        dtype = torch.float32 if images.device.type == "mps" else torch.float64  # of making them: mps has no float64
        values = images.float()
        for sizes in ((whole, sides), (sides, whole)):
            matrices = _to_22_bits(bicubic_matrices(*sizes, self.size, self.size, dtype))[:, None]
            values = _to_eight_bits(values @ matrices.mT)
            values = _to_eight_bits(matrices @ values)
        return values.to(images.dtype)

    def _in_bands(self, images: Tensor, sides: Tensor) -> Tensor:
        rows_of: dict[int, list[int]] = defaultdict(list)
        for row, side in enumerate(sides.tolist()):
            if not 1 <= side <= self.size:
                raise FerError(f"The side {side} of image {row} is not in 1…{self.size}; clamp what you draw.")
            rows_of[side].append(row)
        most = max(1, _AT_ONCE // (images.shape[1] * self.size**2))
        degraded = torch.empty_like(images, memory_format=torch.channels_last)
        # `no_grad` would still count versions of every view: an eighth of the time at 48 px.
        with torch.inference_mode(), _single_threaded():
            for side, rows in rows_of.items():
                for start in range(0, len(rows), most):
                    some = rows[start : start + most]
                    alike = images[some[0]][None] if len(some) == 1 else torch.stack([images[row] for row in some])
                    for row, image in zip(some, self._degrade_alike(alike.float(), side), strict=True):
                        degraded[row].copy_(image)
        return degraded

    def _degrade_alike(self, values: Tensor, side: int) -> Tensor:
        """(n, C, size, size) float32, all to one side and back."""
        size, (count, channels) = self.size, values.shape[:2]
        if side == size:
            return _to_eight_bits(values.clone())
        down, up = self._strips_of(side)
        # Each product contracts one axis and leaves the new one where the next finds its own last: from
        # (n, C, H, W) over (w, n, C, H), (w, n, C, h), (W, n, C, h) to (H, W, n, C), and nothing is copied.
        # New axes have room for whole strips; what is zero there meets zeros in the next matrix, or is cut off.
        room = self._room(side)
        values = _resample_first(values.reshape(-1, size).T, down)
        values = _resample_last(values.view(-1, size), down)
        values = _resample_first(values.view(room, -1), up)
        values = _resample_first(values.view(-1, room).T, up)
        values = values.view(len(values), -1, count, channels)[:size, :size]
        return values.permute(2, 3, 0, 1)

    def _strips_of(self, side: int) -> tuple[Strips, Strips]:
        if side not in self._strips:
            size, room = self.size, self._room(side)
            self._strips[side] = self._cut(size, side, room, size), self._cut(side, size, self._room(size), room)
        return self._strips[side]

    def _cut(self, size_in: int, size_out: int, rows: int, columns: int) -> Strips:
        matrix = bicubic_matrices(torch.tensor([size_in]), torch.tensor([size_out]), rows, columns, torch.float64)[0]
        return _cut_into_strips(_to_22_bits(matrix).to(self.device), self._count)

    def _room(self, side: int) -> int:
        """`side`, up to the next with as many rows in each strip."""
        return -(-side // self._count) * self._count


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Torch on one thread: the products are too small to be shared.

    Threads that wait for each other after every one of them gain little on an idle machine, and on a busy one each
    wait may last as long as another process keeps a core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _to_eight_bits(values: Tensor) -> Tensor:
    """Whole values 0–255, in place; halves go up, as in Pillow."""
    return values.add_(0.5).floor_().clamp_(0, 255)


def _to_22_bits(weights: Tensor) -> Tensor:
    """Float32, rounded as Pillow rounds its weights: where halves are exact there, they are here."""
    return (weights * 2**22).round().div_(2**22).float()


def _cut_into_strips(matrix: Tensor, count: int) -> Strips:
    """A float32 matrix, its rows in `count` strips of as many each.

    The windows are as narrow as equal steps from one to the next allow, so that all strips are one batched product.
    """
    blocks = matrix.unflatten(0, (count, -1))
    columns = step = matrix.shape[1]
    for number, used in enumerate(blocks.any(dim=1)):
        inside = used.nonzero()[:, 0].tolist()
        if inside and number > 0:
            step = min(step, inside[0] // number)
        if inside and number < count - 1:
            step = min(step, (columns - 1 - inside[-1]) // (count - 1 - number))
    if step == 0:  # some strip needs all there is
        return _cut_into_strips(matrix, 1)
    width = columns - (count - 1) * step
    return step, torch.stack([block[:, i * step : i * step + width] for i, block in enumerate(blocks)])


def _resample_first(values: Tensor, strips: Strips) -> Tensor:
    """(in, N) to (out, N)."""
    step, weights = strips
    windows = values.unfold(0, weights.shape[2], step).mT
    return _to_eight_bits(torch.bmm(weights, windows)).flatten(0, 1)


def _resample_last(values: Tensor, strips: Strips) -> Tensor:
    """(N, in) to (N, out)."""
    step, weights = strips
    windows = values.unfold(1, weights.shape[2], step).transpose(0, 1)
    out = values.new_empty(len(values), *weights.shape[:2])
    torch.bmm(windows, weights.mT, out=out.transpose(0, 1))
    return _to_eight_bits(out).flatten(1)
