"""The demo: a Gradio app around the photo and video pipelines, for visitors with a browser.

`launch_demo` starts it, `build_demo` gives the `gradio.Blocks` to mount or launch elsewhere. It keeps nothing: no
flagging, no history, no analytics, and uploads are deleted after minutes.
"""

from .app import build_demo, launch_demo
from .limits import Limits

__all__ = ["Limits", "build_demo", "launch_demo"]
