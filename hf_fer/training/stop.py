"""A request to stop, as pre-emptible machines send it: SIGTERM, then little time."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Stopped(Exception):
    """Training stopped on request; a checkpoint was written, and `str()` says which."""


class StopRequest:
    """While it is entered, SIGTERM ends nothing but sets `made`; what handled the signal before then does again.

    Signals reach a process' main thread alone: entered in another, it does nothing.
    """

    def __init__(self) -> None:
        self.made = False
        self._before: object = None
        self._installed = False

    def __enter__(self) -> StopRequest:
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, _: int, __: FrameType | None) -> None:
        self.made = True

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._installed:
            signal.signal(signal.SIGTERM, self._before)
