"""Calls to the Hub: tried again where that helps, and what went wrong in one sentence that holds no secret."""

from __future__ import annotations

import contextlib
import email.utils
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import FerError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

#: How often a call is made at most.
TRIES = 5
#: Seconds that are waited at most before one of them, if the Hub asks for it.
LONGEST_WAIT = 300.0

_PASSING = {408, 429, 500, 502, 503, 504}
_NOT_DONE = {429, 503}  # of these, those after which the Hub has surely not done what it was asked for
_BROKEN = {"TimeoutException", "NetworkError", "RemoteProtocolError"}  # of httpx and of httpx2
_LOGGERS = {"huggingface_hub": logging.ERROR} | dict.fromkeys(
    ("httpx", "httpx2", "httpcore", "httpcore2"), logging.WARNING
)
_TOKEN = re.compile(r"\b(?:hf_(?!fer\b|hub\b|xet\b)|api_org_)[\w.\-]{4,}")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@")
_QUERY = re.compile(r"(https?://[^\s?]+)\?[^\s)]*")  # signed addresses of storage


def hub_client(api: HfApi | None = None, token: str | None = None) -> HfApi:
    """A client for `token` (None: the one of the environment or of `hf auth login`); `api`, where one is given.

    Raises:
        FerError: the token holds what cannot stand in a request.
    """
    from huggingface_hub import HfApi

    if api is None or token is not None:
        api = HfApi(endpoint=api.endpoint if api is not None else None, token=token)
    if not all(secret.isascii() and secret.isprintable() and " " not in secret for secret in _secrets(api)):
        # Libraries would quote it in their messages.
        raise FerError("What is set as the token is no token of the Hub; copy it anew, on one line, into HF_TOKEN.")
    return api


def retried(
    call: Callable[[], T],
    sleep: Callable[[float], object] = time.sleep,
    repeatable: bool = True,
    tries: int = TRIES,
) -> T:
    """The result of `call`, tried up to `tries` times while the Hub or the way to it fails, for a time.

    Waits as long as the Hub asks for (`Retry-After`, up to `LONGEST_WAIT`), else 1, 2, 4 and 8 s.

    Args:
        call: makes one request, or several that may be made again.
        sleep: waits so many seconds.
        repeatable: False for what must not be done twice: tried again only where the Hub says that it was not done.
        tries: fewer, where the client makes several itself.

    Raises:
        Exception: the last one.
    """
    wait = 1.0
    for left in range(tries - 1, -1, -1):
        try:
            return call()
        except Exception as error:
            asked = _retry_after(error)
            passing = status_of(error) in (_PASSING if repeatable else _NOT_DONE) or (repeatable and _is_broken(error))
            if not left or not passing or (asked or 0) > LONGEST_WAIT:
                raise
        sleep(wait if asked is None else asked)
        wait *= 2
    raise AssertionError("unreachable")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the client's log lines, which name signed addresses; errors come as exceptions all the same."""
    loggers = {logging.getLogger(name): level for name, level in _LOGGERS.items()}
    before = {logger: logger.level for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(max(logger.getEffectiveLevel(), level))
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


# --- what happened --------------------------------------------------------------------------------


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the Hub answered with, of an error or of what led to it."""
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def is_missing(error: BaseException, what: str) -> bool:
    """Whether it is the client's error of that name: RepositoryNotFoundError, RevisionNotFoundError."""
    return any(cls.__name__ == what for cause in _causes(error) for cls in type(cause).__mro__)


def may_be_done(error: BaseException) -> bool:
    """Whether the Hub may have done what it was asked for, although no success came back."""
    return _is_broken(error) or status_of(error) in _PASSING - _NOT_DONE


def sentence(error: BaseException, api: HfApi, repo: str, kind: str, revision: str | None = None) -> FerError:
    """What an error of the client means for somebody who pushes to `repo`, and what to do about it."""
    if isinstance(error, FerError):
        return error
    status, said = status_of(error), scrub(_message(error), api)
    wait = _retry_after(error)
    if is_missing(error, "OfflineModeIsEnabled"):
        text = f"Nothing can be pushed to {repo} while HF_HUB_OFFLINE is set; unset it, and run the command again."
    elif is_missing(error, "LocalTokenNotFoundError"):
        text = f"No token of the Hub is there to push to {repo} with; log in with `hf auth login`, or set HF_TOKEN."
    elif status == 401 and not is_missing(error, "RepositoryNotFoundError"):
        text = (
            f"The Hub does not accept the token, so {repo} cannot be pushed to (401); log in with `hf auth login`, or "
            "set HF_TOKEN to one that is valid."
        )
    elif status == 403:
        text = (
            f"This token may not write to the {kind} {repo} (403); use one that may, push to a repository of your own, "
            "or propose the change to its owners (--create-pr)."
        )
    elif is_missing(error, "RevisionNotFoundError"):
        text = (
            f"The {kind} {repo} has no branch {revision or 'main'} (404); make it on the Hub first, or push to another "
            "one."
        )
    elif status == 404 or is_missing(error, "RepositoryNotFoundError"):
        text = (
            f"There is no {kind} {repo} that this token can see ({status or 404}); check the name, and what the token "
            "gives access to."
        )
    elif status in (409, 412):
        text = (
            f"The {kind} {repo} changed again and again while this was pushed ({status}); nothing of it was committed: "
            "run the command again once the others are done."
        )
    elif status == 429:
        times = f"asks to wait {wait:.0f} s" if wait else "still asks to wait"
        text = f"The Hub {times} before anything is pushed to {repo} (429); run the command again after that."
    elif status is not None and status >= 500:
        text = (
            f"The Hub keeps failing while {repo} is pushed to ({status}); run the command again later: what "
            "was uploaded is not sent again."
        )
    elif status is not None:
        text = f"The Hub refuses what was to be pushed to {repo} ({status}: {said}); put that right, and run it again."
    elif _is_broken(error):
        text = (
            f"The connection to the Hub broke while {repo} was pushed to ({said}); check the network, and run the "
            "command again: what was uploaded is not sent again."
        )
    else:
        text = f"{repo} cannot be pushed to: {said}; put that right, and run the command again."
    return FerError(text)


def shareable(error: BaseException, api: HfApi | None = None) -> BaseException | None:
    """The error, for a traceback, if nothing that was said on the way to it holds a secret; else None."""
    secret = [*map(re.escape, _secrets(api)), _TOKEN.pattern, _CREDENTIALS.pattern, _QUERY.pattern]
    chain = [*_causes(error), error.__context__ or error]
    return None if any(re.search(pattern, str(cause)) for cause in chain for pattern in secret) else error


def scrub(text: str, api: HfApi | None = None) -> str:
    """`text` on one short line, without tokens, credentials in addresses, and queries of addresses."""
    for secret in _secrets(api):
        text = text.replace(secret, "***")
    text = _QUERY.sub(r"\1", _CREDENTIALS.sub("", _TOKEN.sub("***", text)))
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split()).rstrip(".;: ")
    return text if len(text) <= 240 else f"{text[:239]}…"


def without_credentials(url: str) -> str:
    """An address without what may stand before its host."""
    return _CREDENTIALS.sub("", str(url))


def _secrets(api: HfApi | None) -> list[str]:
    from huggingface_hub import get_token

    found = [getattr(api, "token", None), get_token()]
    return sorted({token for token in found if isinstance(token, str) and len(token) > 3}, key=len, reverse=True)


def _message(error: BaseException) -> str:
    """What the Hub says, else what the innermost error that says anything does."""
    for cause in _causes(error):
        if isinstance(said := getattr(cause, "server_message", None), str) and said:
            return said
    said = [str(cause) for cause in _causes(error) if str(cause).strip()]
    return (said[-1] if _is_broken(error) else said[0]) if said else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


def _is_broken(error: BaseException) -> bool:
    """Whether a connection failed, or an answer was cut off or is none."""
    return status_of(error) is None and any(
        isinstance(cause, json.JSONDecodeError) or _BROKEN & {cls.__name__ for cls in type(cause).__mro__}
        for cause in _causes(error)
    )


def _retry_after(error: BaseException) -> float | None:
    """Seconds, from `Retry-After` (a number or a date) or the rest of a rate limit's window."""
    headers: Any = next((c.response.headers for c in _causes(error) if getattr(c, "response", None) is not None), {})
    value = str(headers.get("retry-after") or "").strip()
    if value.isdecimal() and value.isascii():
        return float(value)
    if value:
        try:
            then = email.utils.parsedate_to_datetime(value)
            then = then if then.tzinfo else then.replace(tzinfo=timezone.utc)
            return max((then - datetime.now(timezone.utc)).total_seconds(), 0.0)
        except (ValueError, OverflowError):
            return None
    window = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,6})", str(headers.get("ratelimit") or ""))
    return float(window[1]) if window else None
