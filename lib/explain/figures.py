"""Figures of attention, by matplotlib: the paper's grid, single maps, and the figures for a data set.

R rows of maps, Q queries, H x W the encoder's grid, K keypoints, L layers. Lengths are inches unless said otherwise.
"""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import UserError, needs
from ..pose import draw
from ..runtime.files import write_atomically
from .maps import MODES, Explanation, Maps, Query, kept
from .stats import Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Ending -> metadata without time and program name, so that equal figures give equal files.
FIGURE_FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"metadata": {"Software": None}},
    ".jpg": {"pil_kwargs": {"quality": 85}},
    ".svg": {"metadata": {"Date": None, "Creator": None}},
}
DPI = 200
COLOUR_MAP = "inferno"  # perceptually uniform, readable in grey and for colour-blind readers
DIMMED = 0.5  # brightness of the image without attention
SOLID_FROM = 0.45  # fraction of a map's largest weight from which the colour hides nearly all of the image
SOLID = 0.9
WIDTH, WIDEST_CELL, GAP, MARGIN = 10.5, 1.3, 0.05, 0.1
BAR, BAR_LABELS, LINE, LETTER, LEGEND = 0.13, 0.45, 0.14, 0.058, 0.25
INK = "#333333"
STYLE: Any = {
    "font.family": "DejaVu Sans",  # part of matplotlib, so that figures are the same everywhere
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "transpose",  # else the ids in the file would differ each time
}


def _matplotlib(module: str = "") -> Any:
    """Matplotlib, or a module of it. Raises UserError if it is not installed."""
    return needs(f"matplotlib{module}", extra="explain")


def _styled() -> Any:
    return _matplotlib().rc_context(STYLE)


def check_name(path: Path) -> None:
    """Raise UserError if no picture can be written under this name."""
    if path.suffix not in FIGURE_FORMATS:
        raise UserError(f"{path}: the name of a picture must end in {', '.join(FIGURE_FORMATS)}")


def save(figure: "Figure", path: str | Path) -> None:
    """Write the figure in the format of the name's ending; equal figures give equal bytes."""
    path = Path(path)
    check_name(path)
    how = FIGURE_FORMATS[path.suffix] | {"format": path.suffix.removeprefix("."), "dpi": figure.dpi}
    with _styled():
        write_atomically(path, lambda file: figure.savefig(file, **how))


def rendered(figure: "Figure") -> np.ndarray:
    """The figure's pixels (h, w, 3), uint8 RGB."""
    with _styled():
        canvas = _matplotlib(".backends.backend_agg").FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(width: float, height: float, dpi: float = DPI) -> "Figure":
    return _matplotlib(".figure").Figure(figsize=(width, height), dpi=dpi, facecolor="white")


def _colours() -> "Colormap":
    return _matplotlib().colormaps[COLOUR_MAP]


def words(name: str) -> str:
    """A keypoint's name, or another label, with spaces."""
    return name.replace("_", " ")


# One person


def overlay(
    explanation: Explanation,
    weights: np.ndarray,
    threshold: float = 0.0,
    height: int | None = None,
    *,
    share: float = 0.0,
) -> np.ndarray:
    """The crop's picture (h, w, 3), uint8 RGB, in grey beneath a map (H, W) in the colours of `COLOUR_MAP`.

    The brightest colour is the map's largest weight; weights below `threshold`, or below `share` of the largest, are
    left out. Colours are interpolated between the cells' centres. `height` scales the picture down.
    """
    shown = kept(weights, threshold, share)
    picture = explanation.picture
    if height is not None and height < picture.shape[0]:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    height, width = picture.shape[:2]
    heat = cv2.resize(shown / max(shown.max(), 1e-300), (width, height), interpolation=cv2.INTER_CUBIC)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None] / 255
    return np.rint(255 * _blended(heat, DIMMED * grey)).astype(np.uint8)


def _blended(heat: np.ndarray, ground: np.ndarray | float) -> np.ndarray:
    """Colours (..., 3) for heat (...) from 0 to 1 over a grey background."""
    heat = np.clip(heat, 0, 1)
    weight = SOLID * np.minimum(heat / SOLID_FROM, 1)[..., None]
    return weight * _colours()(heat)[..., :3] + (1 - weight) * ground


def grid(explanation: Explanation, maps: Maps, threshold: float = 0.0, *, share: float = 0.0) -> "Figure":
    """The paper's figure: a row per layer, a column per query (starred), the crop with its skeleton on the left.

    `threshold` and `share` leave out small weights, as in `overlay`.

    If there are fewer queries than layers, each query has a row and each layer a column.
    """
    places = [words(query.label.replace("_", "\n", 1)) for query in maps.queries]
    turned = len(maps.rows) > len(places)
    down, across = (places, maps.rows) if turned else (maps.rows, places)
    rows, columns = len(down), len(across)
    aspect = explanation.size[0] / explanation.size[1]
    spanned = min(rows, 2)
    row_label = LINE * (1.5 + any("\n" in label for label in down))
    head = LINE * (1.5 + any("\n" in label for label in across))
    fixed = 2 * MARGIN + row_label + BAR + BAR_LABELS + (columns + spanned + 1) * GAP
    cell = min(WIDEST_CELL, (WIDTH - fixed) / (columns + spanned))
    tall = cell / aspect
    shown_height = spanned * tall + (spanned - 1) * GAP
    shown = shown_height * aspect
    left, top = MARGIN + shown + GAP + row_label, MARGIN + head
    width = left + columns * (cell + GAP) + GAP + BAR + BAR_LABELS + MARGIN
    inner = rows * (tall + GAP) - GAP
    text = f"{MODES[maps.mode]}; lower right: the map's largest weight"
    if threshold > 0:
        text += f"; less than {in_words(threshold, maps.mode)} is left out"
    if share > 0:
        text += f"; less than {share:.0%} of a map's largest is left out"
    caption = textwrap.wrap(text, int((width - left) / LETTER))
    height = top + inner + LINE * (0.5 + len(caption)) + MARGIN
    figure = _figure(width, height)

    def axes(x: float, y: float, wide: float, high: float) -> "Axes":
        """x and y are the upper left corner, from the figure's upper left corner."""
        return figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))

    def write(x: float, y: float, text: str, **options: Any) -> None:
        figure.text(x / width, 1 - y / height, text, **options)

    with _styled():
        _show(axes(MARGIN, top, shown, shown_height), with_skeleton(explanation), explanation)
        for row, column in np.ndindex(rows, columns):
            place = axes(left + column * (cell + GAP), top + row * (tall + GAP), cell, tall)
            layer, query = (column, row) if turned else (row, column)
            weights = maps.values[layer, query]
            _show(place, overlay(explanation, weights, threshold, round(1.5 * tall * DPI), share=share), explanation)
            _star(place, maps.queries[query], size=9 * (cell / 0.9) ** 0.5)
            _note(place, in_words(weights.max(), maps.mode))
        longest = max(len(word) for label in across for word in label.split("\n"))
        fontsize = min(8, 8 * cell / (LETTER * longest))
        for column, label in enumerate(across):
            middle = left + column * (cell + GAP) + cell / 2
            write(middle, top - 0.05, label, ha="center", va="bottom", linespacing=1.0, fontsize=fontsize)
        for row, label in enumerate(down):
            middle = top + row * (tall + GAP) + tall / 2
            write(left - 0.05, middle, label, ha="right", va="center", rotation=90, linespacing=1.0)
        _colour_bar(axes(left + columns * (cell + GAP) + GAP, top, BAR, shown_height))
        write(left, top + inner + LINE / 2, "\n".join(caption), va="top", linespacing=1.2)
    return figure


def single(
    explanation: Explanation, weights: np.ndarray, query: Query, threshold: float = 0.0, *, share: float = 0.0
) -> "Figure":
    """One map (H, W) over the crop, with only the query's star."""
    height, width = explanation.picture.shape[:2]
    figure = _figure(width / DPI, height / DPI)
    with _styled():
        place = figure.add_axes((0, 0, 1, 1))
        _show(place, overlay(explanation, weights, threshold, share=share), explanation)
        _star(place, query, size=14)
    return figure


def with_skeleton(explanation: Explanation, threshold: float = 0.2) -> np.ndarray:
    """The crop's picture (h, w, 3), uint8 RGB, with the keypoints scored `threshold` or more."""
    points = explanation.factor * explanation.keypoints + (explanation.factor - 1) / 2
    in_bgr = explanation.picture[..., ::-1].copy()
    drawn = draw.persons(in_bgr, points, explanation.scores, explanation.skeleton, draw.DrawOptions(threshold))
    return drawn[..., ::-1].copy()


def in_words(weight: float, mode: str) -> str:
    """A map's weight as text: in % of all attention, except relevance, which has no unit."""
    return f"{weight:.2g}" if mode == "gradient" else f"{100 * weight:.2g} %"


def _show(place: "Axes", picture: np.ndarray, explanation: Explanation) -> None:
    """The picture in crop pixels, whose outer edges are half a pixel beyond the outer pixels' centres."""
    width, height = explanation.size
    place.imshow(picture, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="antialiased")
    place.autoscale(False)
    place.set_axis_off()


def _star(place: "Axes", query: Query, size: float) -> None:
    edge: Any = {"markeredgecolor": "black", "markeredgewidth": 0.7}
    place.plot(*query.point, marker="*", markersize=size, color="white", clip_on=False, **edge)


def _note(place: "Axes", text: str) -> None:
    corner: Any = {"transform": place.transAxes, "ha": "right", "va": "bottom"}
    outline = _matplotlib(".patheffects").withStroke(linewidth=1.2, foreground="black")
    place.text(0.97, 0.02, text, fontsize=6, color="white", path_effects=[outline], **corner)


def _colour_bar(place: "Axes") -> None:
    """The colours from 0 to a map's largest weight, over medium grey."""
    steps = np.linspace(1, 0, 256)[:, None]
    place.imshow(_blended(steps, DIMMED * 0.4), extent=(0, 1, 0, 1), aspect="auto", interpolation="nearest")
    place.set_xticks([])
    place.yaxis.tick_right()
    place.set_yticks([0, 1], ["0", "largest"])
    lowest, highest = place.get_yticklabels()
    lowest.set_verticalalignment("bottom")
    highest.set_verticalalignment("top")
    place.tick_params(length=0, pad=3)
    place.spines[:].set_visible(False)


# A whole set


def measures(statistics: Statistics) -> "Figure":
    """Distance, entropy and share inside the box: a line per keypoint, with a dot per layer."""
    joints, layers = len(statistics.names), len(statistics.distance)
    height = 0.95 + 0.19 * joints
    figure = _figure(WIDTH, height)
    panels = (
        ("mean distance (input pixels)", statistics.distance, statistics.even_distance),
        ("entropy (bits)", statistics.entropy, np.full(joints, np.log2(statistics.tokens))),
        ("share inside the box (%)", 100 * statistics.inside, 100 * statistics.even_inside),
    )
    lines = np.arange(joints)
    with _styled():
        places = figure.subplots(1, len(panels), sharey=True)
        for place, (label, values, even) in zip(places, panels, strict=True):
            place.hlines(lines, values.min(0), values.max(0), color="#dddddd", linewidth=1, zorder=1)
            place.scatter(even, lines, marker="|", s=45, color="#999999", label="spread evenly", zorder=2)
            for layer in range(layers):
                colour = _colours()(0.12 + 0.7 * layer / max(layers - 1, 1))
                place.scatter(values[layer], lines, s=22, color=colour, label=f"layer {layer}", zorder=3)
            place.set_xlabel(label)
            place.set_xlim(left=0)
            place.spines[["top", "right", "left"]].set_visible(False)
            place.tick_params(length=0)
            place.grid(axis="x", color="#eeeeee", zorder=0)
            place.set_axisbelow(True)
        places[0].set_yticks(lines, [words(name) for name in statistics.names])
        places[0].set_ylim(joints - 0.5, -0.5)
        handles, labels = places[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=layers + 1, frameon=False, handletextpad=0.1)
        figure.tight_layout(rect=(0, 0, 1, 1 - LEGEND / height), pad=0.4, w_pad=1.5)
    return figure


def pairs(statistics: Statistics) -> "Figure":
    """A K x K matrix per layer: the attention of a keypoint's query (row) to another keypoint's location (column)."""
    joints, layers = len(statistics.names), len(statistics.pairs)
    rows = -(-layers // 4)
    columns = -(-layers // rows)
    side, label = min(3.6, (WIDTH - 1.9) / columns), 0.95
    width, height = label + columns * (side + 0.12) + 0.75, rows * (side + 0.3) + label
    figure = _figure(width, height)
    most = max(float(np.nanmax(statistics.pairs)), 4.0)
    norm = _matplotlib(".colors").LogNorm(0.25, most)
    names = [words(name) for name in statistics.names]
    fontsize = min(7.5, 0.8 * 72 * side / joints)
    with _styled():
        for layer in range(layers):
            row, column = divmod(layer, columns)
            left, bottom = label + column * (side + 0.12), height - (row + 1) * (side + 0.3)
            place = figure.add_axes((left / width, bottom / height, side / width, side / height))
            values = np.maximum(statistics.pairs[layer], 0.25)
            image = place.imshow(values, cmap=COLOUR_MAP, norm=norm, interpolation="nearest")
            place.set_title(f"layer {layer}", fontsize=8, pad=3)
            below = layer + columns >= layers
            place.set_xticks(range(joints), names if below else [], rotation=90, fontsize=fontsize)
            place.set_yticks(range(joints), names if column == 0 else [], fontsize=fontsize)
            place.tick_params(length=0, pad=2)
            for edge in place.spines.values():
                edge.set_visible(False)
        bar = figure.add_axes(((width - 0.72) / width, (label) / height, BAR / width, (height - label - 0.3) / height))
        colours = figure.colorbar(image, cax=bar)
        ticks = [2.0**power for power in range(-2, int(np.log2(most)) + 1)]
        colours.set_ticks(ticks, labels=["≤ ¼", "½", *(f"{tick:g}" for tick in ticks[2:])])
        colours.ax.minorticks_off()
        colours.ax.tick_params(length=0)
        colours.outline.set_visible(False)
        colours.set_label("attention of row to column, relative to even attention", fontsize=7.5)
    return figure
