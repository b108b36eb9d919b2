"""Pieces of HTML: everything in them that comes from outside is escaped, and all of it reads well aloud."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..evaluation.markdown import TIMES
from ..inference.annotate import expression_color

if TYPE_CHECKING:
    from PIL import Image

# What Gradio's templates would take for their own.
_TEMPLATE_SIGNS = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;"})


def text(value: object, limit: int = 200) -> str:
    """Any text as it can stand in HTML, cut to `limit` characters."""
    plain = str(value)
    plain = plain if len(plain) <= limit else plain[: limit - 1] + "…"
    return html.escape("".join(c if c.isprintable() else " " for c in plain)).translate(_TEMPLATE_SIGNS)


def percent(share: float) -> str:
    """Whole percent; what is not certain is not called so."""
    return ">99\u00a0%" if 0.995 <= share < 1 else f"{100 * share:.0f}\u00a0%"


def data_uri(image: Image.Image) -> str:
    """A picture inside the page itself: no file, and no address anybody could ask for."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=88, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(image: Image.Image, alt: str, classes: str = "") -> str:
    return f'<img class="{classes}" src="{data_uri(image)}" alt="{text(alt)}">'


def bars(probabilities: Mapping[str, float], label: str, most: int = 8) -> str:
    """Probabilities as a list of bars, in the order given.

    Args:
        probabilities: class to 0..1.
        label: what the list is called when it is read aloud.
        most: classes shown.
    """
    rows = "".join(
        f'<li><span class="hf-name">{text(name, 40)}</span>'
        f'<span class="hf-track" aria-hidden="true">'
        f'<span style="width:{100 * share:.1f}%;background:{expression_color(name)}"></span></span>'
        f'<span class="hf-value">{percent(share)}</span></li>'
        for name, share in list(probabilities.items())[:most]
    )
    return f'<ul class="hf-bars" aria-label="{text(label)}">{rows}</ul>'


def face_card(face: Mapping[str, Any], number: int, crop: Image.Image | None = None, most: int = 8) -> str:
    """One face: its picture, its expression, and its `most` highest probabilities."""
    box, facts = face["box"], []
    if face.get("reliability") is not None:
        facts.append(f"reliability {percent(face['reliability'])}")
    facts.append(f"{box['xmax'] - box['xmin']}\u00a0{TIMES}\u00a0{box['ymax'] - box['ymin']}\u00a0px")
    thumbnail = "" if crop is None else picture(crop, f"Face {number}", "hf-thumb")
    return (
        f'<article class="hf-card" aria-label="Face {number}">{thumbnail}<div><h2>'
        f'<span class="hf-dot" style="background:{expression_color(face["label"])}" aria-hidden="true"></span>'
        f"{text(face['label'], 40)} <b>{percent(face['score'])}</b></h2>"
        f'<p class="hf-facts">Face {number} · {" · ".join(facts)}</p>'
        f"{bars(face['probabilities'], f'Probabilities of face {number}', most)}</div></article>"
    )


def cards(entries: Sequence[str], more: int = 0) -> str:
    rest = f'<p class="hf-facts">and {more} smaller {"face" if more == 1 else "faces"}, drawn in the picture</p>'
    many = " hf-many" if len(entries) > 2 else ""
    return f'<div class="hf-cards{many}">{"".join(entries)}</div>{rest if more else ""}'


def hint(words: str) -> str:
    """What an empty place says: what will be here, and what to do for it."""
    return f'<div class="hf-hint"><p>{text(words, 400)}</p></div>'


def alert(words: str) -> str:
    """One sentence that a visitor must read, and that a screen reader reads at once."""
    return f'<div class="hf-alert" role="alert"><p>{text(words, 600)}</p></div>'


def status(words: str) -> str:
    """One sentence on what was found, read when the reader pauses."""
    return f'<p class="hf-status" role="status">{text(words, 400)}</p>'
