"""The whole app: a header, the tabs, and how it is launched."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoints.loading import embedded_models
from ..errors import FerError
from .limits import Limits

if TYPE_CHECKING:
    import gradio as gr

    from ..inference.detection import FaceDetector
    from .models import ModelPool

MODELS_VARIABLE = "HF_FER_DEMO_MODELS"
"""Environment variable with the models to offer, separated by commas: folders, Hub ids, "default"."""

TITLE = "hf-fer: facial expression recognition"


def build_demo(
    models: Sequence[str] | ModelPool | None = None,
    detector: str | FaceDetector = "auto",
    records: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    *,
    share: bool = False,
) -> gr.Blocks:
    """The demo as `gradio.Blocks`, its queue set up; `launch_demo` launches it as it is meant to be.

    Args:
        models: checkpoint folders, Hub ids, or names of `embedded_models`. None: what `HF_FER_DEMO_MODELS` lists,
            else all of those, "default" first. They are loaded when somebody first asks for them, and a bounded
            number stays in memory; `launch_demo` tries each at its start.
        detector: what `hf_fer.inference.detection.load_detector` takes; "auto": YuNet, or where it is not to be had
            the whole picture as one face, which the page then says.
        records: folder of result records for the leaderboard; None: the leaderboard inside the package.
        limits: bounds on what a visitor may ask.
        share: it will be launched with a public link, and says so.

    Raises:
        FerError: gradio is not installed, a detector or records that cannot be used, or a model named twice.
    """
    gr = _import_gradio()
    from .about import about_tab
    from .leaderboard import leaderboard_tab, load_leaderboard
    from .models import ModelPool
    from .photo import photo_tab
    from .resolution import resolution_tab
    from .video import video_tab
    from .why import why_tab

    limits = limits or Limits()
    pool = models if isinstance(models, ModelPool) else ModelPool(models or _models(), detector, limits.models)
    leaderboard = load_leaderboard(records)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, limits.kept_seconds)) as demo:
        gr.HTML(_HEADER % ("pass over Gradio's servers to" if share else "stay on"))
        if pool.notice:
            gr.HTML(_notice(pool.notice))
        model = gr.Dropdown(
            pool.choices,
            value=pool.names[0],
            label="Model",
            visible=len(pool.names) > 1,
            elem_id="hf-model",
        )
        with gr.Tabs(elem_id="hf-tabs"):
            with gr.Tab("Photo"):
                photo = photo_tab(pool, limits, model)
            with gr.Tab("Resolution") as resolution:
                of_resolution = resolution_tab(pool, limits, model)
            with gr.Tab("Why") as why:
                of_why = why_tab(pool, limits, model)
            with gr.Tab("Video"):
                video_tab(pool, limits, model)
            with gr.Tab("Leaderboard"):
                leaderboard_tab(leaderboard)
            with gr.Tab("About"):
                about_tab(pool, limits, share)
        for tab, own in ((resolution, of_resolution), (why, of_why)):
            tab.select(None, [photo, own], own, js=_CARRIED.replace("%s", own.elem_id), api_visibility="private")
        gr.api(_models_of(pool), api_name="models", api_description="The names of the models.", queue=False)
    # Not open: no call passes the queue by.
    demo.queue(max_size=limits.queue, default_concurrency_limit=limits.at_once, api_open=False)
    return demo


def launch_demo(
    models: Sequence[str] | ModelPool | None = None,
    detector: str | FaceDetector = "auto",
    records: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    inbrowser: bool = False,
    block: bool = True,
    quiet: bool = False,
) -> gr.Blocks:
    """Starts the demo: no flagging, no history, no analytics, bounded uploads, and a page that asks nobody else.

    Args:
        models, detector, records, limits: see `build_demo`.
        host: address to listen at; None: `GRADIO_SERVER_NAME`, else this machine alone (127.0.0.1).
        port: None: `GRADIO_SERVER_PORT`, else a free one from 7860.
        share: make a public link through Gradio's tunnel. Everything then passes over servers of theirs.
        inbrowser: open it in the browser.
        block: return only when it is stopped; False leaves it running in threads until `close()`.
        quiet: print nothing.

    Returns:
        The running demo; `local_url` says where.

    Raises:
        FerError: see `build_demo`; a model that cannot be loaded, or the port is taken.
    """
    _import_gradio()
    from starlette.middleware import Middleware

    from .guard import BodyLimit
    from .models import ModelPool
    from .theme import CSS, theme

    limits = limits or Limits()
    if port is not None and not 0 < port < 2**16:
        raise FerError(f"There is no port {port}; name one from 1 to 65535.")
    if not isinstance(models, ModelPool):
        models = ModelPool(models or _models(), detector, limits.models)
        models.check()
    demo = build_demo(models, detector, records, limits, share=share)
    options: dict[str, Any] = {
        "server_name": host,
        "server_port": port,
        "share": share,
        "inbrowser": inbrowser,
        "prevent_thread_lock": True,
        "quiet": quiet,
        "theme": theme(),
        "css": CSS,
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "show_error": False,  # what is unexpected may hold names of files here
        "max_file_size": limits.file_mb * 2**20,
        "state_session_capacity": 200,
        "app_kwargs": {"middleware": [Middleware(BodyLimit, most=limits.file_mb * 2**20)]},  # type: ignore[list-item]
        "pwa": False,
        "mcp_server": False,
        "ssr_mode": False,
    }
    try:
        if host is not None:
            socket.getaddrinfo(host, port)  # Gradio would try a hundred ports of a name that does not exist
        demo.launch(**options)
    except OSError as error:
        where = f"{f'port {port}' if port else 'any port'} of {host or 'this machine'}"
        raise FerError(f"The demo cannot listen at {where}; choose another port or address.") from error
    if block:
        _block(demo)
    return demo


def _block(demo: gr.Blocks) -> None:
    """Waits until Ctrl-C or SIGTERM, the way a container is stopped, and closes: that deletes what visitors sent."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    demo.block_thread()


_HEADER = """<header class="hf-header"><h1>Facial expression recognition</h1>
<p>What expression does a face appear to show, and how sure can a network be when the face is small? Pictures %s
the machine that runs this page and are deleted after minutes.</p></header>"""


# A picture given in the first tab is there in the others as well, until another is given here or there. In the browser.
_CARRIED = """(given, own) => {
  const carried = (window.hfCarried ??= {});
  if (!given || (own && carried["%s"] === given.path)) return own;
  carried["%s"] = given.path;
  return given;
}"""


def _notice(words: str) -> str:
    from . import markup

    return f'<div class="hf-alert" role="note"><p>{markup.text(words, 600)}</p></div>'


def _models() -> list[str]:
    named = [name.strip() for name in os.environ.get(MODELS_VARIABLE, "").split(",")]
    return [name for name in named if name] or embedded_models()


def _models_of(pool: ModelPool) -> Any:
    def models() -> list[str]:
        return list(pool.names)

    return models


def _import_gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise FerError('The demo needs gradio; install it with `pip install "hf-fer[demo]"`.') from error
    return gradio
