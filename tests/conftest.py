"""Tests never reach a hub, and never fill the user's own caches."""

from __future__ import annotations

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_DATASETS_CACHE", tempfile.mkdtemp(prefix="hf-fer-datasets-"))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
