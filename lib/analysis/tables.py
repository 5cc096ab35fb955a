"""The report's tables as text, for the console, the markdown file and the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..explain.figures import words
from .report import PCK_AT, PCK_SHOWN, SHARES

STEP_NAMES = {
    "miss": "misses",
    "swap": "swaps",
    "inversion": "inversions",
    "jitter": "jitter",
    "score": "scores",
    "false positive": "false positives",
    "false negative": "instances not found",
}
DETECTION_NAMES = {
    "misranked": "a worse detection of the same instance has a higher score (scoring error)",
    "duplicate": "a detection with a higher score found the same instance",
    "background": "the detection is similar to no instance",
    "not found": "no detection found the instance",
}


@dataclass(frozen=True)
class ReportTable:
    """Rows of text below column heads; the first column names the row."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def to_markdown(self) -> str:
        lines = [self.heads, ["---"] * len(self.heads), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join(part for part in (f"## {self.title}", table, self.note) if part)


def tables(report: dict[str, Any]) -> Iterator[ReportTable]:
    """The tables of a report (`report.measure`), except its comparison."""
    yield ReportTable(
        "COCO's numbers",
        ("", "value", "95 % interval"),
        [(n, *_with_interval(v)) for n, v in report["metrics"].items()],
    )
    rows: list[tuple[str, ...]] = [("as it is", *_with_interval(report["metrics"]["AP"]), "", "")]
    rows += [
        (f"+ {STEP_NAMES[s['corrected']]}", *_with_interval(s["AP"]), *_with_interval(s["gain"]))
        for s in report["steps"]
    ]
    yield ReportTable(
        "What each correction would bring",
        ("corrected", "AP", "95 % interval", "gain", "95 % interval"),
        rows,
        "Each row includes the corrections above it. The rest to 1 is within the error of human annotators.",
    )
    yield ReportTable(
        "Detections and instances",
        ("error", "number", "per 100 instances", "95 % interval"),
        [
            (DETECTION_NAMES[name], f"{report['counts'][name]:,}", *_with_interval(value, 100, 1))
            for name, value in report["detection_errors"].items()
        ],
    )
    rows = [("all", f"{report['labelled']:,}", *_shares(report["shares"]))]
    rows += [(words(k["name"]), f"{k['labelled']:,}", *_shares(k["shares"])) for k in report["keypoints"]]
    yield ReportTable("What became of the keypoints (%)", ("keypoint", "labelled", *SHARES), rows)
    at = [int(abs(PCK_AT - share).argmin()) for share in PCK_SHOWN]
    errors = ("median error (px)", "90 % (px)", "median / √area (%)")
    yield ReportTable(
        "Keypoints",
        ("keypoint", "AP", "95 % interval", "AR", *errors, *(f"PCK@{share:g}" for share in PCK_SHOWN)),
        [
            (
                *(words(k["name"]), *_with_interval(k["AP"]), _text(k["AR"]["value"])),
                *(_text(k["pixels"][name], 1, 1) for name in ("median", "90 %")),
                *(_text(k["of_root_area"]["median"], 100, 1), *(_text(k["PCK"][i]) for i in at)),
            )
            for k in report["keypoints"]
        ],
        "AP and AR as if only this keypoint were annotated. PCK: the share of labelled keypoints whose error is at "
        "most this part of the box's longer side; those of instances that are not found count as wrong.",
    )
    heads = ("instances", "number", "AP", "95 % interval", "AR", *SHARES)
    rows = []
    for part in report["slices"]:
        name, number = f"{part['group']}: {part['label']}", f"{part['instances']:,}"
        rows.append((name, number, *_with_interval(part["AP"]), _text(part["AR"]["value"]), *_shares(part["shares"])))
    yield ReportTable("Slices", heads, rows, "The kinds of errors are in % of the keypoints.")
    found = report["reliability"]
    yield ReportTable(
        "Reliability of keypoint scores",
        ("used as the probability", "calibration error"),
        [(name, _text(error, 1, 4)) for name, error in found["calibration_error"].items()],
        f"Of the {found['keypoints']:,} labelled keypoints of instances that are found; right is an OKS of "
        f"{found['similarity']:g} or more. Ten bins of equal width (Guo et al., ICML 2017).",
    )


def comparison_tables(report: dict[str, Any]) -> Iterator[ReportTable]:
    """The tables of a report's comparison, if it has one."""
    if "comparison" not in report:
        return
    comparison = report["comparison"]
    yield ReportTable(
        f"{comparison['results']} minus these results",
        ("", "difference", "95 % interval, paired", "better in"),
        [
            (name, *_with_interval(v, signed=True), _text(v["better"], 100, 0) + " %")
            for name, v in comparison["metrics"].items()
        ]
        + [
            (f"{name} (% of keypoints)", *_with_interval(v, 100, 1, signed=True), "")
            for name, v in comparison["shares"].items()
        ],
        "Paired: both are computed from the same resamples of the images. Better in: the share of resamples.",
    )
    yield ReportTable(
        "Images whose OKS changed most",
        ("image", "instances", "sum of the changes of OKS"),
        [(str(m["image_id"]), str(m["instances"]), f"{m['OKS']:+.3f}") for m in comparison["moved"]],
    )


def markdown(report: dict[str, Any]) -> str:
    head = (
        f"# {report['results']}\n\n{report['instances']:,} instances in {report['images']:,} images of "
        f"{report['annotations']}, {report['detections']:,} detections; intervals of {report['resamples']:,} "
        "resamples of the images"
    )
    return "\n\n".join([head, *(table.to_markdown() for table in (*comparison_tables(report), *tables(report)))]) + "\n"


def _text(value: float | None, factor: float = 1, digits: int = 3, signed: bool = False) -> str:
    if value is None:
        return "–"
    return f"{factor * value:{'+' if signed else ''}.{digits}f}"


def _with_interval(value: dict[str, Any], factor: float = 1, digits: int = 3, signed: bool = False) -> tuple[str, str]:
    """A number and its interval."""
    shown = [_text(value[key], factor, digits, signed) for key in ("value", "low", "high")]
    return shown[0], "" if value["low"] is None else f"{shown[1]} to {shown[2]}"


def _shares(shares: dict[str, Any]) -> tuple[str, ...]:
    return tuple(_text(shares[name]["value"], 100, 1) for name in SHARES)
