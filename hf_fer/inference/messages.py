"""What libraries say, fit for a sentence of ours."""

from __future__ import annotations


def brief(error: BaseException) -> str:
    """The message of an exception on one printable line, at most 160 characters; its type where it has none."""
    # OpenCV's errors have theirs in `err`, without the place in its source.
    text = getattr(error, "strerror", None) or getattr(error, "err", None) or str(error)[:2000] or type(error).__name__
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))[:160]
