"""The report of all findings: each with its count and some examples."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError
from ...pose.skeleton import Skeleton
from ..coco import Instances
from ..findings import ERROR, NOTE, Findings, many
from ..images import ImageReader

TRAIN, TEST = "tools/train.py", "tools/test.py"


@dataclass
class Section:
    """The findings about a file or folder, and the tools that read it."""

    title: str
    tools: Sequence[str]
    findings: Findings = field(default_factory=Findings)


@dataclass
class Report:
    """All findings; the message with which each tool would stop; and, if there are any, instances to draw, the reader
    of their images, and their skeleton."""

    sections: list[Section] = field(default_factory=list)
    stops: dict[str, str] = field(default_factory=dict)
    instances: Instances | None = None
    reader: ImageReader | None = None
    skeleton: Skeleton | None = None

    def begin(self, title: str, tools: Sequence[str]) -> None:
        """Start a section for the findings that follow."""
        self.sections.append(Section(title, tools))

    @property
    def findings(self) -> Findings:
        """The findings of the current section."""
        return self.sections[-1].findings

    def stop(self, error: UserError, tools: Sequence[str] | None = None) -> None:
        """Record that this error stops the section's tools, or `tools`, unless an earlier one does."""
        for tool in self.sections[-1].tools if tools is None else tools:
            self.stops.setdefault(tool, str(error))

    def fail(self, check: str, error: UserError, path: Path | None = None, tools: Sequence[str] | None = None) -> None:
        """Add an error that stops the tools as a finding, without `path`, which is the section's title."""
        self.findings.add(ERROR, check, str(error).removeprefix(f"{path}: "))
        self.stop(error, tools)

    def add(self, findings: Findings, path: Path) -> None:
        """Add findings of the tools' own checks of the file at `path`."""
        self.findings.extend(findings)
        try:
            findings.refuse(path)
        except UserError as error:
            self.stop(error)

    def count(self, level: str, tool: str = "") -> int:
        """The number of findings of a level, in the sections that `tool` reads, or in all."""
        sections = [section for section in self.sections if not tool or tool in section.tools]
        return sum(finding.level == level for section in sections for finding in section.findings)

    @property
    def healthy(self) -> bool:
        return not self.stops and not self.count(ERROR)

    def lines(self, width: int = 100) -> list[str]:
        """The report as text, in lines of `width` characters; only a path may be longer."""
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
                verdict += ", but the errors above make the result wrong"
            lines += _wrapped(verdict, width, f"{tool:<15} ", " " * 16)
        return [*lines, f"{many(self.count(ERROR), 'error')}, {many(self.count(NOTE), 'note')}"]


def _wrapped(text: str, width: int, first: str, further: str) -> list[str]:
    text = "".join(c if c.isprintable() else "?" for c in text)
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )


def short(path: Path) -> str:
    """The path relative to the current folder, if it is inside it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
