"""Does this code reproduce a published table? Sums of the inputs, one test after another, and a report to publish.

A verification goes on where it was interrupted: what is done stands in a file, with the sums of the inputs that it was
done with.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation.coco_eval import METRICS
from ..runtime.files import checksum, write_text

TOLERANCE = 0.001  # of AP: the ±0.1 points within which the published one is reproduced
STATE, REPORT = "verification.json", "report.md"


@dataclass(frozen=True)
class Input:
    """A file, or a folder of files, that the tests read; `source` says where it comes from, and `published` is the
    publisher's sum, as "md5:…" or "sha256:…", if there is one."""

    path: Path
    source: str
    published: str = ""


@dataclass(frozen=True)
class Test:
    """A model on a kind of boxes, and what is published of it: AP, or all of `METRICS`."""

    model: str
    boxes: str
    published: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.model}, {self.boxes}"


def refuse_missing(inputs: Sequence[Input]) -> None:
    """Raise UserError that lists what is missing, and where each comes from."""
    missing = [entry for entry in inputs if not entry.path.exists()]
    if missing:
        listed = "; ".join(f"{entry.path} (from {entry.source})" for entry in missing)
        raise UserError(f"{len(missing)} of the {len(inputs)} inputs are missing: {listed}")


def checksums(entry: Input) -> dict[str, Any]:
    """An input's size, its sha256, and whether it agrees with the published sum (None: there is none).

    A folder's sum is that of its `sha256sum` lines, "<sum>  <name>\\n", in the order of the names.
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
    """The report (markdown) of all tests, and whether each AP is within `TOLERANCE` and each published sum agrees.

    `run` does a test: what was measured, in words, and the ten numbers. Each result is kept in `folder` at once.
    Raises UserError if an input is missing, or is another than that which the folder's results were measured with.
    """
    refuse_missing(inputs)
    state = _read(folder / STATE)
    for entry in inputs:
        name = entry.path.name
        progress(f"sum of {entry.path}")
        found = checksums(entry)
        if state["inputs"].setdefault(name, found) != found:
            raise UserError(
                f"{entry.path}: not what the results in {folder} were measured with (its sha256 is {found['sha256']}); "
                "name another folder with --out, or pass --overwrite to start again"
            )
        if found["agrees"] is False:
            progress(f"{entry.path}: its sum is not the published one, {entry.published}")
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
        state = json.loads(path.read_bytes())
        complete = all({"AP"} <= test["metrics"].keys() and test["measured"] for test in state["tests"].values())
        if complete and all("sha256" in found for found in state["inputs"].values()):
            return state
    except (ValueError, TypeError, LookupError, AttributeError):
        pass
    raise UserError(f"{path}: damaged, or not a verification; pass --overwrite to start again")


def reproduced(test: Test, metrics: dict[str, float]) -> bool:
    return abs(metrics["AP"] - test.published[0]) <= TOLERANCE


def _verdict(test: Test, metrics: dict[str, float]) -> tuple[str, ...]:
    """AP as published and as measured, their difference, in points, and a word."""
    published, found = 100 * test.published[0], 100 * metrics["AP"]
    word = "pass" if reproduced(test, metrics) else "**fail**"
    return f"{published:.1f}", f"{found:.2f}", f"{found - published:+.2f}", word


def _report(tests: Sequence[Test], inputs: Sequence[Input], state: dict[str, Any]) -> str:
    """Markdown: the verdicts, all ten numbers where they are published, the protocol, and the inputs."""
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
    lines += ["", "## Inputs", "", "| input | files | bytes | sha256 | published sum |", "|---|---|---|---|---|"]
    for entry in inputs:
        found = state["inputs"][entry.path.name]
        says = {None: "none", True: "agrees", False: f"**differs**: {entry.published}"}[found["agrees"]]
        lines.append(f"| {entry.path.name} | {found['files']:,} | {found['bytes']:,} | `{found['sha256']}` | {says} |")
    return "\n".join([*lines, "", "A folder's sum is that of the lines of `sha256sum *`.", ""])
