"""The one exception users of hf-fer are meant to read."""

from __future__ import annotations


class FerError(ValueError):
    """Something the user can put right: one sentence with what is wrong, where, and the way out.

    The command line prints the sentence and exits with status 2; `--debug` shows the traceback.
    """
