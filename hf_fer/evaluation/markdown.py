"""Markdown out of text and figures that nobody vouches for: escaped, one line, finite. Pure standard library."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import FerError

TIMES, TO, NONE = "\u00d7", "\u2013", "\u2013"  # multiplication sign, en dashes

# Markdown takes a backslash before any ASCII punctuation. Inside a line these need none, nor does an
# underscore within a word; a colon does before a slash, or an address would become a link.
_MARKUP = "".join(sorted(set(string.punctuation) - set("-,'/()%+:_")))
_SPECIAL = re.compile(rf"(?<![^\W_])_|_(?![^\W_])|:(?=/)|[{re.escape(_MARKUP)}]")


def one_line(text: object, limit: int = 100) -> str:
    """`text` without control and formatting characters, at most `limit` of them."""
    cleaned = "".join(c if c.isprintable() else " " for c in str(text))
    return " ".join(cleaned.split())[:limit]


def shorten(text: object, limit: int) -> str:
    """`text` on one line; what is longer than `limit` ends in an ellipsis."""
    line = one_line(text, limit + 1)
    return line if len(line) <= limit else f"{line[: limit - 1]}\u2026"


def escape(text: object, limit: int = 100) -> str:
    """`text` as literal Markdown: no markup, table cell, link, mention or HTML comes out of it."""
    html = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
    return _SPECIAL.sub(lambda match: html.get(match[0], f"\\{match[0]}"), one_line(text, limit))


def code(text: object) -> str:
    """`text` as a code span; not for table cells."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table of cells that are Markdown already; the first `left` columns are text, the others figures."""
    rule = [*["---"] * left, *["---:"] * (len(head) - left)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *rows])


def finite(value: Any, name: str) -> float:
    """`value`, if it is a number.

    Raises:
        FerError: it is not, or it is infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FerError(f"The report's {name} is {one_line(repr(value))}, not a number; evaluate the model again.")
    return value


def figure(metrics: Mapping[str, Any], key: str) -> float:
    """The number under `key`.

    Raises:
        KeyError: there is nothing under that key.
        FerError: see `finite`.
    """
    return finite(metrics[key], key)


def percent(metrics: Mapping[str, Any], key: str, digits: int = 2) -> str:
    """The share under `key` in percent, without the sign; raises what `figure` raises."""
    return f"{100 * figure(metrics, key):.{digits}f}"


def interval(metrics: Mapping[str, Any], key: str, digits: int = 2) -> str:
    """The 95 % interval of a share in percent, `low–high`; raises what `figure` raises, IndexError and TypeError."""
    low, high = (finite(bound, key) for bound in metrics["ci95"][key])
    return f"{100 * low:.{digits}f}{TO}{100 * high:.{digits}f}"
