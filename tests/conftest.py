"""Tests never reach a hub, and never fill the user's own caches."""

from __future__ import annotations

import os
import tempfile

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
# Workers of pytest-xdist, and the processes that their tests start, keep to their own cores: threads that wait for a
# core on which somebody else computes make everything many times slower.
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    cores, workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(cores)
    os.sched_setaffinity(0, cores[number :: min(workers, len(cores))])
os.environ.setdefault("HF_DATASETS_CACHE", tempfile.mkdtemp(prefix="hf-fer-datasets-"))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Begun last, the longest file would keep one worker busy while the others have nothing left to do.
    items.sort(key=lambda item: "test_synthetic_recipes" not in item.nodeid)
