"""The report as one self-contained HTML file, for screens, phones and print."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..explain.figures import words
from ..pose.skeleton import Skeleton
from .cases import Attended, Case
from .tables import STEP_NAMES, ReportTable, comparison_tables, tables

CASE_TITLES = {
    "inversion": "Inversions: left and right exchanged",
    "swap": "Swaps: a keypoint of another instance",
    "miss": "Misses",
    "jitter": "Jitter",
    "misranked": "Scores: a worse detection of this instance has a higher score",
    "background": "Detections similar to no instance",
    "not found": "Instances that no detection found",
    "moved": "Images whose OKS changed most",
}
STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 70rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0; max-width: 45rem; }
.lead { font-size: 1.1rem; }
.note, figcaption { font-size: .85rem; color: #555; }
.plots, .cases { display: grid; gap: 1.2rem; align-items: start; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.cases { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure svg { width: 100%; height: auto; max-width: 34rem; display: block; }
.cases img { width: 100%; height: auto; display: block; background: #f4f4f4; }
.attention { display: grid; gap: .6rem; grid-template-columns: repeat(3, 1fr); margin-top: .5rem; font-size: .9em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e4; }
th { font-weight: 600; border-bottom: 2px solid #999; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
@media (max-width: 40rem) {
  table { font-size: .75rem; }
  th, td { padding: .2rem .3rem; }
  th { white-space: normal; }
  td:first-child, th:first-child { white-space: normal; min-width: 6rem; }
}
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; }
  .wide { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .1rem .25rem; }
  .plots { grid-template-columns: repeat(2, 1fr); }
  .cases { grid-template-columns: repeat(3, 1fr); gap: .5rem; }
}
"""


@dataclass(frozen=True, eq=False)
class Shown:
    """A case and its picture, BGR, under the heading `kind`, with the network's attention if a model was given."""

    kind: str
    picture: np.ndarray
    text: str
    attention: Sequence[Attended] = ()


def describe(case: Case, name: str, skeleton: Skeleton) -> str:
    """A case in words; `name` is the image's file name."""
    parts = [name]
    if case.keypoints:
        parts += [", ".join(words(skeleton.names[k]) for k in case.keypoints), f"OKS −{case.loss:.2f}"]
    return "; ".join(parts)


def page(report: dict[str, Any], plots: dict[str, str], shown: Sequence[Shown], skeleton: Skeleton) -> str:
    """The HTML; `plots` are SVG texts by title; `skeleton` names the keypoints."""
    parts = [
        f"<h1>{_escaped(report['results'])}</h1>",
        f'<p class="note">{report["instances"]:,} instances in {report["images"]:,} images of '
        f"{_escaped(report['annotations'])}; {report['detections']:,} detections; intervals of 95 % from "
        f'{report["resamples"]:,} resamples of the images. <a href="#notes">How to read this</a></p>',
        f'<p class="lead">{_escaped(summary(report))}</p>',
        *map(_table, comparison_tables(report)),
        "<h2>At a glance</h2>",
        '<div class="plots">',
        *(f"<figure><h3>{_escaped(title)}</h3>{svg}</figure>" for title, svg in plots.items()),
        "</div>",
        *map(_table, tables(report)),
        *_cases(shown, skeleton),
        NOTES,
    ]
    title = _escaped(f"Analysis of {report['results']}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def summary(report: dict[str, Any]) -> str:
    """AP, and the errors that cost most of it."""
    ap, steps = report["metrics"]["AP"], sorted(report["steps"], key=lambda step: -(step["gain"]["value"] or 0))
    if ap["value"] is None:
        return "No instance counts, so there is no AP."
    text = f"AP {ap['value']:.3f}"
    if ap["low"] is not None:
        text += f" ({ap['low']:.3f} to {ap['high']:.3f})"
    cost = [
        f"{STEP_NAMES[s['corrected']]} (+{s['gain']['value']:.3f})" for s in steps[:3] if s["gain"]["value"] > 0.0005
    ]
    return f"{text}. Correcting these would bring most: {', '.join(cost)}." if cost else f"{text}. No error costs AP."


NOTES = """<h2 id="notes">How to read this</h2>
<p>Each labelled keypoint of an instance that was found is <b>good</b> if its similarity to the annotated place is .85
or more, which is about the precision of human annotators; a <b>jitter</b> if it is .5 or more; an <b>inversion</b> or a
<b>swap</b> if it is nearer to the keypoint of the other side, or of another instance; a <b>miss</b> if it is near none
of these. Similarity is the OKS of one keypoint. The taxonomy is from Ronchi and Perona, <i>Benchmarking and Error
Diagnosis in Multi-Instance Pose Estimation</i>, ICCV 2017.</p>
<p>Corrections: a wrong keypoint moves to its annotated place; among the detections of one instance, the better ones get
the higher scores; a false positive is removed; an instance that was not found is ignored. A gain is the most that the
correction could bring, and depends on the order of the corrections.</p>
<p>Pictures: left is the annotation, right the detection; blue is the instance's left side, orange its right side. A
pink line connects a wrong keypoint with its annotated place. If a model was given, the pictures below an inversion or a
swap show what the wrong place (pink ring) attends to in the last layer; a white ring marks the annotated place. The
numbers are the attention near each place (similarity .5 or more); the numbers in brackets are those of evenly spread
attention.</p>"""


def _escaped(text: Any) -> str:
    return html.escape(str(text))


def _table(table: ReportTable) -> str:
    head = "".join(f"<th>{_escaped(cell)}</th>" for cell in table.heads)
    rows = "".join("<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{_escaped(table.note)}</p>' if table.note else ""
    return (
        f'<h2>{_escaped(table.title)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _cases(shown: Sequence[Shown], skeleton: Skeleton) -> list[str]:
    parts = ["<h2>Worst cases</h2>"] if shown else []
    for kind, title in CASE_TITLES.items():
        of_kind = [one for one in shown if one.kind == kind]
        if of_kind:
            parts += [
                f'<h3>{_escaped(title)}</h3><div class="cases">',
                *(_case(one, skeleton) for one in of_kind),
                "</div>",
            ]
    return parts


def _case(shown: Shown, skeleton: Skeleton) -> str:
    attention = []
    for one in shown.attention:
        text = (
            f"{words(skeleton.names[one.keypoint])}: {_percent(one.wrong)} found ({_percent(one.even[0])}), "
            f"{_percent(one.right)} annotated ({_percent(one.even[1])})"
        )
        attention.append(_figure(one.picture, text))
    return f'<div>{_figure(shown.picture, shown.text)}<div class="attention">' + "\n".join(attention) + "</div></div>"


def _figure(picture: np.ndarray, text: str) -> str:
    content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()
    height, width = picture.shape[:2]
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img width="{width}" height="{height}" alt="" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{_escaped(text)}</figcaption></figure>"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g}\N{NO-BREAK SPACE}%"
