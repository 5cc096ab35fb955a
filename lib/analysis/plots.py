"""The report's plots, by matplotlib, as SVG that can be read on a phone: narrow, and with text kept as text."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import needs
from ..explain.figures import FIGURE_FORMATS, INK, STYLE, words
from .confidence import draw_reliability
from .estimates import RECALLS, THREE_QUARTERS, Ranking
from .report import PCK_AT, SHARES, Analysis
from .tables import STEP_NAMES
from .taxonomy import STEPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.1  # inches, at 96 pixels each
LINE = 0.19
PAGE_STYLE: Any = STYLE | {"svg.fonttype": "none"}
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = dict(zip(SHARES, ("#009e73", "#56b4e9", "#e69f00", "#cc79a7", "#d55e00", "#bbbbbb"), strict=True))
STEP_COLOURS = COLOURS | {"score": "#0072b2", "false positive": "#f0e442", "false negative": "#bbbbbb"}


def plots(analysis: Analysis, report: dict[str, Any]) -> dict[str, str]:
    """Title -> SVG. Raises UserError if matplotlib is not installed."""
    with needs("matplotlib", extra="explain").rc_context(PAGE_STYLE):
        made = {
            "What each correction would bring": _steps(report),
            "Precision and recall at OKS .75": _precision(analysis),
            "What became of the keypoints": _shares(report),
            "PCK: keypoints within a part of the box's longer side": _pck(report),
            "AP by slice": _slices(report),
        }
        if report["reliability"]["curves"]:
            made["Reliability of keypoint scores"] = _reliability(report["reliability"])
        return {title: _svg(figure) for title, figure in made.items()}


def _figure(height: float) -> tuple["Figure", "Axes"]:
    figure = needs("matplotlib.figure", extra="explain").Figure(figsize=(WIDTH, height), layout="constrained")
    place = figure.add_subplot()
    place.spines[["top", "right"]].set_visible(False)
    return figure, place


def _svg(figure: "Figure") -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", **FIGURE_FORMATS[".svg"])
    text = file.getvalue()
    return text[text.index("<svg") :]


def _rows(place: "Axes", labels: Sequence[str]) -> None:
    """The names of the horizontal bars, the first on top."""
    place.set_yticks(range(len(labels)), labels)
    place.set_ylim(len(labels) - 0.4, -0.6)
    place.spines["left"].set_visible(False)
    place.tick_params(length=0)
    place.grid(axis="x", color="#eeeeee")
    place.set_axisbelow(True)


def _steps(report: dict[str, Any]) -> "Figure":
    """A bar for the AP, and one for the gain of each correction."""
    figure, place = _figure(0.6 + LINE * 1.2 * (len(STEPS) + 1))
    reached = report["metrics"]["AP"]["value"] or 0
    place.barh(0, reached, color="#666666", height=0.7)
    _write(place, reached, 0, f"{reached:.3f}")
    for row, step in enumerate(report["steps"], start=1):
        gain = step["gain"]["value"] or 0
        place.barh(row, gain, left=reached, color=STEP_COLOURS[step["corrected"]], height=0.7)
        reached = step["AP"]["value"] or 0
        _write(place, reached, row, f"{gain:+.3f}")
    place.set_xlim(0, 1.18)
    place.set_xticks(np.linspace(0, 1, 6))
    place.set_xlabel("AP")
    _rows(place, ["as it is", *(f"+ {STEP_NAMES[step]}" for step in STEPS)])
    return figure


def _write(place: "Axes", x: float, y: float, text: str) -> None:
    place.text(x + 0.015, y, text, va="center", fontsize=7, color=INK)


def _precision(analysis: Analysis) -> "Figure":
    figure, place = _figure(3.0)
    weights, last = np.ones((1, len(analysis.images))), np.zeros(len(RECALLS))
    for key, colour, label in (
        (("AP of all", ""), "#666666", "as it is"),
        *((("AP of step", step), STEP_COLOURS[step], STEP_NAMES[step]) for step in STEPS),
    ):
        estimate = analysis.estimates[key]
        assert isinstance(estimate, Ranking)
        curve = np.maximum(last, estimate.precision(weights)[0][0, THREE_QUARTERS])
        place.fill_between(RECALLS, last, curve, color=colour, linewidth=0, label=f"{label}: {curve.mean():.3f}")
        last = curve
    place.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision")
    place.legend(loc="lower left", fontsize=6.5, framealpha=0.9)
    return figure


def _shares(report: dict[str, Any]) -> "Figure":
    rows = [("all", report["shares"]), *((words(k["name"]), k["shares"]) for k in report["keypoints"])]
    figure, place = _figure(1.0 + LINE * len(rows))
    start = np.zeros(len(rows))
    for name in SHARES:
        part = np.array([100 * (shares[name]["value"] or 0) for _, shares in rows])
        place.barh(range(len(rows)), part, left=start, color=COLOURS[name], height=0.8, label=name)
        start += part
    place.set(xlim=(0, 100), xlabel="% of labelled keypoints")
    _rows(place, [name for name, _ in rows])
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=7, handlelength=1)
    return figure


def _pck(report: dict[str, Any]) -> "Figure":
    """A curve for each keypoint; the best and the worst are coloured."""
    figure, place = _figure(2.6)
    curves = [(words(k["name"]), np.array(k["PCK"], float)) for k in report["keypoints"] if k["labelled"]]
    curves.sort(key=lambda curve: -curve[1].mean())
    for name, curve in curves[1:-1]:
        place.plot(PCK_AT, curve, color="#cccccc", linewidth=0.8, label=f"_{name}")
    for (name, curve), colour in zip(
        curves[:: max(len(curves) - 1, 1)], (COLOURS["good"], COLOURS["miss"]), strict=False
    ):
        place.plot(PCK_AT, curve, color=colour, linewidth=1.3, label=name)
    place.plot(PCK_AT, report["PCK"]["all"], color=INK, linewidth=2, label="all")
    place.set(xlim=(0, PCK_AT[-1]), ylim=(0, 1), xlabel="error / longer side of the box", ylabel="share of keypoints")
    place.grid(color="#eeeeee")
    place.legend(loc="lower right", fontsize=7, frameon=False)
    return figure


def _reliability(found: dict[str, Any]) -> "Figure":
    figure, place = _figure(WIDTH)
    draw_reliability(place, found["curves"], found["similarity"])
    return figure


def _slices(report: dict[str, Any]) -> "Figure":
    figure, place = _figure(0.7 + LINE * (len(report["slices"]) + 1))
    rows = [("all", report["metrics"]["AP"]), *((f"{s['group']}: {s['label']}", s["AP"]) for s in report["slices"])]
    for row, (_, ap) in enumerate(rows):
        colour = INK if not row else "#0072b2"
        if ap["low"] is not None:
            place.plot([ap["low"], ap["high"]], [row, row], color=colour, linewidth=1.5, alpha=0.5)
        if ap["value"] is not None:
            place.plot(ap["value"], row, "o", color=colour, markersize=4)
    place.set(xlim=(0, 1.02), xlabel="AP and its 95 % interval")
    _rows(place, [name for name, _ in rows])
    return figure
