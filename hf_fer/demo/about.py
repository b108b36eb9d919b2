"""The tab About: what this is, what it must not be used for, and what happens to a visitor's pictures."""

from __future__ import annotations

import gradio as gr

from .limits import Limits
from .models import ModelPool

_TEXT = """
## Responsible use

A label names the expression a face **appears to show**, not what its owner feels. People smile when they are sad, and
frown when they concentrate; expressions differ between people, situations and cultures.

- Do not use this to judge, select or watch people: not at work, not in schools (both forbidden in the EU by Article 5
  of the AI Act), not in policing, hiring, insurance or medicine.
- Only use pictures of people who agreed to it.
- Expect uneven error rates across age, gender and skin tone: the training images are an uncontrolled web sample.
- Rare expressions (disgust, fear, contempt) are often missed: compare accuracy with mean class accuracy in the tab
  Leaderboard.
- A high percentage is the network's own opinion. Where a *reliability* is shown, it was calibrated on other pictures
  than yours.

## Your pictures

- They are answered on the machine that runs this page{elsewhere}. No history, no flagging, no analytics.
- Uploads and answers are deleted from its disk about {minutes} minutes after they came. Frames of the live webcam never
  touch the disk.
- Programs can ask too: the link *Use via API* at the bottom lists the endpoints.

## Limits

Pictures and videos up to {file_mb} MB, pictures up to {megapixels} megapixels, videos up to {video} seconds. At most
{queue} requests wait at a time.

## Models and sources

{models}

This page and the default model come from hf-fer (Apache-2.0). {detector}The example portrait is NASA's
official photograph of the astronaut Eileen Collins (public domain), as it comes with scikit-image; the drawn faces are
hf-fer's own.
"""


def about_tab(pool: ModelPool, limits: Limits, share: bool) -> None:
    """Builds the tab's content."""
    yunet = "Faces are found by YuNet (Wu, Peng and Yu 2023; MIT). " if pool.detector.name == "yunet" else ""
    names = ["`" + name.replace("`", "'") + "`" for name, _ in pool.choices]
    gr.Markdown(
        _TEXT.format(
            minutes=round(limits.kept_seconds / 60),
            file_mb=limits.file_mb,
            megapixels=round(limits.pixels / 1e6),
            video=f"{limits.video_seconds:g}",
            queue=limits.queue,
            elsewhere=", and pass over Gradio's servers on their way" if share else " and sent nowhere else",
            detector=yunet,
            models="This page answers with: " + ", ".join(names) + ".",
        ),
        elem_classes="hf-about",
    )
