"""What checks find, and how it is told: every fault counted, some of each named."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError
from ...pose.skeleton import Skeleton
from ..coco import Instances
from ..images import ImageReader

OK, NOTE, ERROR = "ok", "note", "error"  # an error stops a run or spoils what comes of it, a note is worth knowing
TRAIN, TEST = "tools/train.py", "tools/test.py"
MOST_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """What a check found, a few examples of it, and how to mend it."""

    level: str
    check: str
    says: str
    examples: tuple[str, ...] = ()
    remedy: str = ""


@dataclass
class Section:
    """The findings about one file or folder, which some of the tools read."""

    title: str
    tools: Sequence[str] = ()
    findings: list[Finding] = field(default_factory=list)

    def add(self, level: str, check: str, says: str, examples: Sequence[str] = (), remedy: str = "") -> None:
        self.findings.append(Finding(level, check, says, tuple(examples), remedy))


@dataclass
class Report:
    """All findings; the sentence with which each tool stops; and, as far as they could be had, persons to look at,
    what reads their photographs, and their skeleton."""

    sections: list[Section] = field(default_factory=list)
    stops: dict[str, str] = field(default_factory=dict)
    people: Instances | None = None
    reader: ImageReader | None = None
    skeleton: Skeleton | None = None

    def section(self, title: str, tools: Sequence[str]) -> Section:
        self.sections.append(Section(title, tools))
        return self.sections[-1]

    def stop(self, tools: Iterable[str], error: UserError) -> None:
        for tool in tools:
            self.stops.setdefault(tool, str(error))

    def count(self, level: str, tool: str = "") -> int:
        """Findings of a level, of those sections that the tool reads or of all."""
        sections = [section for section in self.sections if not tool or tool in section.tools]
        return sum(finding.level == level for section in sections for finding in section.findings)

    @property
    def healthy(self) -> bool:
        return not self.stops and not self.count(ERROR)

    def lines(self, width: int = 100) -> list[str]:
        """The report as text; only a path makes a line wider than `width`."""
        lines = []
        for section in self.sections:
            lines += _wrapped(section.title, width, "", "    ")
            for finding in section.findings:
                start = f"  {finding.level:<5} {finding.check:<13} "
                space = " " * len(start)
                lines += _wrapped(finding.says, width, start, space)
                if finding.examples:
                    lines += _wrapped(f"such as {'; '.join(finding.examples)}", width, space, space)
                if finding.remedy:
                    lines += _wrapped(f"-> {finding.remedy}", width, space, space + "   ")
            lines.append("")
        for tool in (TRAIN, TEST):
            verdict = "would take this data"
            if tool in self.stops:
                verdict = f"would stop: {self.stops[tool]}"
            elif self.count(ERROR, tool):
                verdict += ", but the errors above spoil what comes of it"
            lines += _wrapped(verdict, width, f"{tool:<15} ", " " * 16)
        return [*lines, f"{many(self.count(ERROR), 'error')}, {many(self.count(NOTE), 'note')}"]


def _wrapped(text: str, width: int, first: str, further: str) -> list[str]:
    text = "".join(c if c.isprintable() else "?" for c in text)
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )


def many(count: int, what: str) -> str:
    plural = {"category": "categories", "box": "boxes"}.get(what, f"{what}s")
    return f"{count:,} {what if count == 1 else plural}"


def plain(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers)


def short(path: Path) -> str:
    """The path from the current folder, if it lies in it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def without(path: Path, error: UserError) -> str:
    """The sentence of an error about the file at `path`, where that is the section's title."""
    return str(error).removeprefix(f"{path}: ")
