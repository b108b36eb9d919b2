"""How long a classifier takes for one image, from the picture to the probabilities."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

WARM_UP = 3


def measure_latency(
    answer: Callable[[list[Image.Image]], np.ndarray],
    images: list[Image.Image],
    network: torch.nn.Module,
    *,
    calls: int = 50,
) -> dict[str, Any]:
    """Times calls with one image each: image processor, forward pass and softmax.

    Args:
        answer: RGB images in, probabilities on the host out, so that a call ends when the device has.
        images: at least one; taken in turn.
        network: the module behind it, for the device and dtype.
        calls: how many are timed, after a few that are not.

    Returns:
        `median_ms` and `p90_ms` (milliseconds), `calls`, `batch_size` 1, and what it ran on: `device`, `processor`,
        `threads`, `dtype`. Comparable among records that agree in these four.
    """
    was_training = network.training
    network.eval()
    times = []
    try:
        for call in range(WARM_UP + calls):
            image = images[call % len(images)]
            begin = time.perf_counter()
            answer([image])
            times.append(1e3 * (time.perf_counter() - begin))
    finally:
        network.train(was_training)
    timed = np.asarray(times[WARM_UP:])
    described = describe_hardware(network)
    return {
        "median_ms": float(np.median(timed)),
        "p90_ms": float(np.percentile(timed, 90)),
        "calls": calls,
        "batch_size": 1,
        **{key: described[key] for key in ("device", "processor", "threads", "dtype")},
    }


def describe_hardware(network: torch.nn.Module) -> dict[str, Any]:
    """What a network runs on."""
    parameter = next(network.parameters())
    device = parameter.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",  # the kernel's build is nobody's business
    }


def processor_name() -> str:
    """The model name of the processor where the system tells it: "x86_64" would make all machines alike."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:  # noqa: PTH123
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
