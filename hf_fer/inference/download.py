"""Pictures from an http(s) address: bounded in size, in time and in where a redirect may lead."""

from __future__ import annotations

import http.client
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from ..checkpoints.checks import first_sentence, printable
from ..errors import FerError

MAX_BYTES = 64 << 20
"""Default limit on a file, which is in memory as a whole: a photo of 64 megapixels has some 30 MB."""
TIMEOUT = 20.0
"""Default limit on the whole download, in seconds."""

_CHUNK = 1 << 16
_SAFE = "%/:=&?~#+!$,;'@()*[]"  # what has a meaning in an address; the rest is percent-encoded


def is_address(text: str) -> bool:
    """Whether a text is a web address rather than a path."""
    return text[:8].lower().startswith(("http://", "https://"))


def download(url: str, *, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT) -> bytes:
    """The file at an address.

    Nothing keeps an address from naming a machine of the local network: on a server, pass none that strangers wrote.

    Args:
        url: http or https; redirects are followed to these two only.
        max_bytes: what is longer is refused, as soon as that is known.
        timeout: seconds for everything together.

    Raises:
        FerError: no such address, an answer that is an error, too long, or too slow.
    """
    name = shown_address(url)
    if not is_address(url):
        raise FerError(f"{name}: only addresses of http and https are read")
    if re.match(r"https?://[^/?#]*@", url, re.IGNORECASE):  # http.client would take it for a part of the host
        raise FerError(f"{name}: addresses with a user name or password are not read; download the file first")
    if not timeout > 0:
        raise FerError(f"{name}: timeout={timeout!r} leaves no time to read it; give some seconds")
    answer: dict[str, Any] = {}
    given_up = threading.Event()

    def run() -> None:
        try:
            answer["data"] = _read(url, name, max_bytes, timeout, given_up)
        except Exception as error:
            answer["error"] = error

    # A server that sends a byte now and then never runs into a timeout of the socket, so nobody waits for this thread
    # longer than agreed; left behind, it ends at the next byte.
    thread = threading.Thread(target=run, daemon=True, name="hf-fer-download")
    thread.start()
    thread.join(timeout)
    if not answer:
        given_up.set()
        raise FerError(f"{name}: the answer took longer than {timeout:g} s; download the file first")
    if "error" in answer:
        error = answer["error"]
        if isinstance(error, FerError):
            raise error
        raise FerError(f"{name}: cannot be read ({_reason(error)})") from error
    return answer["data"]


def shown_address(url: str) -> str:
    """An address as it can stand in a message: without user name, password and query, which may be secrets."""
    try:
        parts = urllib.parse.urlsplit(url)
        text = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        text = url.split("?")[0].rpartition("@")[2]
    return printable(text if len(text) <= 200 else f"{text[:200]}...")


def _read(url: str, name: str, max_bytes: int, timeout: float, given_up: threading.Event) -> bytes:
    # Of urllib's handlers those for http(s) alone: not files, FTP or data.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _Redirects,
    ):
        opener.add_handler(handler())
    request = urllib.request.Request(
        urllib.parse.quote(url, safe=_SAFE), headers={"User-Agent": "hf-fer", "Accept": "image/*"}
    )
    too_long = FerError(f"{name}: refused, the file is over the limit of {max_bytes:,} bytes")
    data = bytearray()
    with opener.open(request, timeout=timeout) as response:
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and int(announced[:20]) > max_bytes:
            raise too_long
        while not given_up.is_set() and (chunk := response.read1(_CHUNK)):
            data += chunk
            if len(data) > max_bytes:
                raise too_long
        if announced.isdigit() and len(data) < int(announced[:20]):
            raise FerError(f"{name}: the connection broke off after {len(data):,} of {int(announced[:20]):,} bytes")
    return bytes(data)


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = urllib.parse.urljoin(req.full_url, headers.get("Location") or headers.get("URI") or "")
        if not is_address(target):
            raise FerError(f"{shown_address(req.full_url)}: redirects to {shown_address(target)}, which is not read")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, http.client.InvalidURL):  # its text repeats parts of the address
        return "its host or port is none"
    return first_sentence(error)
