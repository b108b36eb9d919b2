"""What stands between strangers and the app: errors as sentences, bodies of bounded size."""

from __future__ import annotations

import functools
import html
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import FerError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")

UNEXPECTED = "Something went wrong on our side; try another file, or try again later."
# What a form puts around a file that is itself within the limit.
_FORM_BYTES = 1 << 20


def without_path(message: str, path: str) -> str:
    """An error's sentence with the visitor's file name in place of where the file lies on this machine."""
    name = Path(path).name
    return message.replace(path, name if name.isprintable() else repr(name))


def sentence(error: Exception) -> str:
    """What a visitor is told of an exception: a `FerError`'s own sentence, nothing of any other."""
    if isinstance(error, FerError):
        text = str(error)
        return text + ("" if text.endswith((".", "!", "?")) else ".")
    # The traceback, but not the arguments: no picture and no name of a file is logged.
    logging.getLogger(__name__).error("the demo met %s", type(error).__name__, exc_info=error)
    return UNEXPECTED


def for_api(function: Callable[..., T]) -> Callable[..., T]:
    """Wraps the function of an API endpoint: every failure reaches the client as one escaped sentence."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> T:
        import gradio as gr

        try:
            return function(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            # Escaped: Gradio's page renders an error's text as HTML, and a file's name may be in it.
            raise gr.Error(html.escape(sentence(error)), print_exception=False) from None

    return guarded


class BodyLimit:
    """ASGI middleware that answers 413 to a request whose body is larger than a file may be.

    Gradio bounds each uploaded file; nothing bounds the number of files in a form, or the JSON of a call.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most + _FORM_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.most:
            await self._refuse(send)
            return
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.most:  # a body without a length, or longer than it said
                raise _TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except _TooLargeError:
            if not started:
                await self._refuse(send)

    async def _refuse(self, send: Send) -> None:
        text = f"The request is larger than the {self.most >> 20} MB that are accepted here; send a smaller file."
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})


class _TooLargeError(Exception):
    pass
