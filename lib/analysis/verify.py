"""Check whether this code reproduces a published table: checksums of the inputs, the tests, and a report.

An interrupted verification continues where it stopped: a file keeps the finished tests, with the checksums of their
inputs.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dataset.json_fields import read_json
from ..errors import UserError
from ..evaluation.coco_eval import METRICS
from ..runtime.files import checksum, write_text

TOLERANCE = 0.001  # of AP: ±0.1 points
STATE, REPORT = "verification.json", "report.md"


@dataclass(frozen=True)
class Input:
    """A file, or a folder of files, that the tests read; `source` says where to get it, and `published` is the
    published checksum, as "md5:…" or "sha256:…", if there is one."""

    path: Path
    source: str
    published: str = ""


@dataclass(frozen=True)
class Test:
    """A model and a kind of boxes, with the published numbers: AP, or all of `METRICS`."""

    model: str
    boxes: str
    published: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.model}, {self.boxes}"


def refuse_missing(inputs: Sequence[Input]) -> None:
    """Raise UserError that lists the missing inputs, and where to get each."""
    missing = [entry for entry in inputs if not entry.path.exists()]
    if missing:
        listed = "; ".join(f"{entry.path} (from {entry.source})" for entry in missing)
        raise UserError(f"{len(missing)} of the {len(inputs)} inputs are missing: {listed}")


def checksums(entry: Input) -> dict[str, Any]:
    """An input's size, its sha256, and whether it agrees with the published checksum (None: there is none).

    A folder's checksum is that of its `sha256sum` lines, "<checksum>  <name>\\n", in the order of the names.
    """
    files = sorted(file for file in entry.path.iterdir() if file.is_file()) if entry.path.is_dir() else [entry.path]
    sums = [checksum(file) for file in files]
    total = sums[0]
    if entry.path.is_dir():
        lines = "".join(f"{sum_}  {file.name}\n" for sum_, file in zip(sums, files, strict=True))
        total = hashlib.sha256(lines.encode()).hexdigest()
    kind, _, wanted = entry.published.partition(":")
    return {
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": total,
        "agrees": checksum(entry.path, kind) == wanted if wanted else None,
    }


def verify(
    tests: Sequence[Test],
    inputs: Sequence[Input],
    folder: Path,
    run: Callable[[Test], tuple[str, dict[str, float]]],
    progress: Callable[[str], None] = print,
) -> tuple[str, bool]:
    """The report (markdown) of all tests, and whether each AP is within `TOLERANCE` and each checksum agrees.

    `run` does a test and returns a description of the measurement and the ten numbers. Each result is saved in `folder`
    at once. Raises UserError if an input is missing, or differs from the one that the folder's results were made with.
    """
    refuse_missing(inputs)
    state = _read(folder / STATE)
    for entry in inputs:
        name = entry.path.name
        progress(f"checksum of {entry.path}")
        found = checksums(entry)
        if state["inputs"].setdefault(name, found) != found:
            raise UserError(
                f"{entry.path}: not what the results in {folder} were made with (its sha256 is {found['sha256']}); "
                "name another folder with --out, or pass --overwrite to start again"
            )
        if found["agrees"] is False:
            progress(f"{entry.path}: its checksum is not the published one, {entry.published}")
    for test in tests:
        if test.name not in state["tests"]:
            progress(test.name)
            measured, metrics = run(test)
            state["tests"][test.name] = {"measured": measured, "metrics": metrics}
            write_text(folder / STATE, json.dumps(state, indent=2))
        published, ap, difference, word = _verdict(test, state["tests"][test.name]["metrics"])
        progress(f"{test.name}: AP {ap}, published {published}, difference {difference}: {word}")
    text = _report(tests, inputs, state)
    write_text(folder / REPORT, text)
    passed = all(reproduced(test, state["tests"][test.name]["metrics"]) for test in tests)
    return text, passed and all(state["inputs"][entry.path.name]["agrees"] is not False for entry in inputs)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"inputs": {}, "tests": {}}
    try:
        state = read_json(path, "verification", Any)
        complete = all({"AP"} <= test["metrics"].keys() and test["measured"] for test in state["tests"].values())
        if complete and all("sha256" in found for found in state["inputs"].values()):
            return state
    except (ValueError, TypeError, LookupError, AttributeError):
        pass
    raise UserError(f"{path}: damaged, or not a file of verify-coco; pass --overwrite to start again")


def reproduced(test: Test, metrics: dict[str, float]) -> bool:
    return abs(metrics["AP"] - test.published[0]) <= TOLERANCE


def _verdict(test: Test, metrics: dict[str, float]) -> tuple[str, ...]:
    """The published AP, the measured one, their difference in points, and the verdict."""
    published, found = 100 * test.published[0], 100 * metrics["AP"]
    word = "pass" if reproduced(test, metrics) else "**fail**"
    return f"{published:.1f}", f"{found:.2f}", f"{found - published:+.2f}", word


def _report(tests: Sequence[Test], inputs: Sequence[Input], state: dict[str, Any]) -> str:
    """Markdown: the verdicts, all ten numbers if they are published, the protocol, and the inputs."""
    done = state["tests"]
    passed = sum(reproduced(test, done[test.name]["metrics"]) for test in tests)
    lines = [
        "# The published table, measured",
        "",
        f"{passed} of {len(tests)} APs within ±{100 * TOLERANCE:g} of the published ones, which are rounded.",
        "",
        "| model | boxes | AP, published | AP, measured | difference | |",
        "|---|---|---|---|---|---|",
    ]
    for test in tests:
        cells = (test.model, test.boxes, *_verdict(test, done[test.name]["metrics"]))
        lines.append(f"| {' | '.join(cells)} |")
    for test in (test for test in tests if len(test.published) == len(METRICS)):
        metrics = done[test.name]["metrics"]
        lines += ["", f"| {test.name} | {' | '.join(METRICS)} |", "|---" * (1 + len(METRICS)) + "|"]
        lines.append(f"| published | {' | '.join(f'{value:.3f}' for value in test.published)} |")
        lines.append(f"| measured | {' | '.join(f'{metrics[name]:.4f}' for name in METRICS)} |")
    lines += ["", "## Protocol", "", *(f"- {test.name}: {done[test.name]['measured']}" for test in tests)]
    lines += ["", "## Inputs", "", "| input | files | bytes | sha256 | published checksum |", "|---|---|---|---|---|"]
    for entry in inputs:
        found = state["inputs"][entry.path.name]
        says = {None: "none", True: "agrees", False: f"**differs**: {entry.published}"}[found["agrees"]]
        lines.append(f"| {entry.path.name} | {found['files']:,} | {found['bytes']:,} | `{found['sha256']}` | {says} |")
    return "\n".join([*lines, "", "A folder's checksum is that of the lines of `sha256sum *`.", ""])
