from __future__ import annotations

from pathlib import Path

import pytest
from runs import TINY, train


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run that nothing disturbed; not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(*TINY, f"--output_dir={folder}")
    return folder
