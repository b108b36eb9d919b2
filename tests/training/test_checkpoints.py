"""How a checkpoint that cannot be written says so, whichever writer meets the end of the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_fer.errors import FerError
from hf_fer.training.checkpoints import save_checkpoint

CUT_SHORT = "[enforce fail at inline_container.cc:664] . unexpected pos 10880 vs 10776"  # as torch 2.14 says it


def save(folder: Path, error: Exception, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_state(_: str) -> None:
        raise error

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    accelerator = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None, save_state=save_state)
    save_checkpoint(accelerator, folder, {"update": 7}, keep=2)


@pytest.mark.parametrize(
    ("error", "free", "reason"),
    [
        (RuntimeError(CUT_SHORT), 0, "No space left on device; 0 MiB"),
        (RuntimeError(CUT_SHORT), 700 << 20, "unexpected pos 10880 vs 10776; 700 MiB"),  # a quota, say
        (OSError(28, "No space left on device"), 5 << 20, "No space left on device; 5 MiB"),
    ],
)
def test_every_writer_says_that_the_disk_is_full(
    error: Exception, free: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FerError, match=f"step-00000007 cannot be written .*{reason} were free there.*--resume"):
        save(tmp_path / "checkpoints", error, free, monkeypatch)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_another_error_is_not_taken_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="CUDA error"):
        save(tmp_path / "checkpoints", RuntimeError("CUDA error: device-side assert triggered"), 0, monkeypatch)
