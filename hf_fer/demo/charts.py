"""Line charts of the demo, as Vega-Lite: what Gradio's own plots are made of, with the axes that resolutions need.

Gradio's page fills in its fonts and the colours of the light or dark theme; nothing is drawn on the server.
(`gr.LinePlot` has no logarithmic axis and no rule, and cuts off long legends.)
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components.plot import AltairPlotData

from ..evaluation.markdown import TIMES
from ..inference.annotate import expression_color

Line = tuple[str, Sequence[float], Sequence[float]]
"""Name, x values, y values."""

# Between these relative luminances a colour has a contrast of at least 3 to white and to the dark page (WCAG 2.2).
_DARKEST, _LIGHTEST = 0.15, 0.29
_METHODS = ("#0f8f83", "#c2660c", "#7c5cd6", "#d0447f", "#2b7bb9", "#6b8e23")
_MARK = "#8a8f98"
_MOST_POINTS = 20  # of a line whose points are drawn


@dataclass(frozen=True)
class Axes:
    """What a chart and its axes say.

    Attributes:
        title: of the chart.
        x, y: titles of the axes.
        factors: x values are resolution factors, up to this one: logarithmic, with ticks at powers of two.
    """

    title: str
    x: str
    y: str = "probability"
    factors: float | None = None


OVER_FACTORS = "resolution lowered by"


def empty_chart(label: str, **options: Any) -> gr.Plot:
    return gr.Plot(label=label, show_label=False, visible=False, **options)


def chart(
    lines: Sequence[Line], colors: Mapping[str, str], axes: Axes, description: str, mark: float | None = None
) -> gr.Plot:
    """The update that shows these lines.

    Args:
        lines: with values 0..1; lines of one name are one line.
        colors: name to CSS colour.
        axes: see there.
        description: what is to be seen, for who cannot.
        mark: where on the x axis to draw a dashed rule.
    """
    return gr.Plot(value=plot_data(lines, colors, axes, description, mark), visible=True)


def plot_data(
    lines: Sequence[Line], colors: Mapping[str, str], axes: Axes, description: str, mark: float | None = None
) -> AltairPlotData:
    """The Vega-Lite specification of `chart`."""
    rows = [{"x": a, "y": b, "line": name} for name, xs, ys in lines for a, b in zip(xs, ys, strict=True)]
    names = list(dict.fromkeys(name for name, *_ in lines))
    columns = 3 if max(map(len, names)) < 20 else 1  # of the legend: a phone has room for so much
    series = {
        "field": "line",
        "type": "nominal",
        "scale": {"domain": names, "range": [colors[name] for name in names]},
        "legend": {
            "orient": "bottom",
            "title": None,
            "columns": columns,
            "labelLimit": 300,
        },
    }
    place = {"x": _x(axes), "y": _y(axes)}
    tooltip = [
        {"field": "line", "type": "nominal", "title": "line"},
        {"field": "x", "type": "quantitative", "title": axes.x, "format": ".3~g"},
        {"field": "y", "type": "quantitative", "title": axes.y, "format": ".1%"},
    ]
    few = len(rows) <= _MOST_POINTS * len(names)
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "line", "strokeWidth": 2.5, "clip": True}, "encoding": {**place, "color": series}},
        {
            # Shapes as well as colours tell lines apart. Many points would be a band of ink: unseen, to point at.
            "mark": {"type": "point", "filled": True, "size": 60, "strokeWidth": 0, "opacity": 1 if few else 0},
            "encoding": {**place, "color": series, "tooltip": tooltip, **({"shape": _shape(names)} if few else {})},
        },
    ]
    if mark is not None:
        rule = {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5, "color": _MARK}
        layers.insert(0, {"data": {"values": [{"x": mark}]}, "mark": rule, "encoding": {"x": _x(axes)}})
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "description": description,
        "background": "transparent",
        "title": {"text": axes.title, "anchor": "start", "offset": 14},
        "padding": {"left": 4, "top": 8, "right": 16, "bottom": 8},
        "data": {"values": rows},
        "height": 300,
        "encoding": {},
        "layer": layers,
        "usermeta": {"embedOptions": {"renderer": "svg", "actions": False}},
    }
    # "scatter": Gradio's name for charts into which it fills the theme and whose layers it leaves alone.
    return AltairPlotData(chart="scatter", plot=json.dumps(spec))


def _x(axes: Axes) -> dict[str, Any]:
    encoding: dict[str, Any] = {"field": "x", "type": "quantitative", "title": axes.x}
    if axes.factors is None:
        return encoding | {"scale": {"zero": False, "nice": False}, "axis": {"tickCount": 8, "grid": False}}
    ticks = [2**k for k in range(8) if 2**k <= axes.factors]
    scale = {"type": "log", "base": 2, "domain": [1, axes.factors], "nice": False}
    return encoding | {
        "scale": scale,
        "axis": {"values": ticks, "grid": False, "labelExpr": f"'{TIMES}' + datum.value"},
    }


def _y(axes: Axes) -> dict[str, Any]:
    ticks = {"values": [0, 0.25, 0.5, 0.75, 1], "format": ".0%"}
    return {"field": "y", "type": "quantitative", "title": axes.y, "scale": {"domain": [0, 1]}, "axis": ticks}


def _shape(names: Sequence[str]) -> dict[str, Any]:
    shapes = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
    chosen = [shapes[k % len(shapes)] for k in range(len(names))]
    return {"field": "line", "type": "nominal", "scale": {"domain": list(names), "range": chosen}}


# --- colours --------------------------------------------------------------------------------------


def expression_lines(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each expression: its own, so light or dark that it shows on both pages."""
    return {label: on_both_pages(expression_color(label)) for label in labels}


def method_lines(names: Sequence[str]) -> dict[str, str]:
    return {name: _METHODS[k % len(_METHODS)] for k, name in enumerate(names)}


def on_both_pages(color: str) -> str:
    """`#rrggbb` of the same hue, made darker or lighter until it stands out from white and from the dark page."""
    red, green, blue = (int(color[k : k + 2], 16) / 255 for k in (1, 3, 5))
    hue, light, full = colorsys.rgb_to_hls(red, green, blue)
    now = luminance(color)
    target = min(max(now, _DARKEST), _LIGHTEST)
    if target == now:
        return color.lower()
    low, high = 0.0, 1.0
    for _ in range(20):  # luminance grows with lightness
        light = (low + high) / 2
        tried = _hex(colorsys.hls_to_rgb(hue, light, full))
        low, high = (light, high) if luminance(tried) < target else (low, light)
    return _hex(colorsys.hls_to_rgb(hue, light, full))


def luminance(color: str) -> float:
    """Relative luminance of `#rrggbb`, 0..1, by WCAG."""
    values = (int(color[k : k + 2], 16) / 255 for k in (1, 3, 5))
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _hex(rgb: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * value):02x}" for value in rgb)
