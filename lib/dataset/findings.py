"""Findings about a file: the tools raise the first one that stops them, the data check reports all."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..errors import UserError

logger = logging.getLogger(__name__)

OK, NOTE, ERROR = "ok", "note", "error"  # an error stops a run or makes its result wrong; a note does neither
UNSURE = "units", NOTE  # a note that is a warning too
MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """The result of a check, a few examples, and how to fix it; `error` is the message with which the tools that read
    the file stop, and is empty if they continue."""

    level: str
    check: str
    says: str
    examples: tuple[str, ...] = ()
    remedy: str = ""
    error: str = ""


class Findings(list[Finding]):
    """The findings about one file, in the order of the checks."""

    def add(
        self, level: str, check: str, says: str, examples: Iterable[str] = (), remedy: str = "", error: str = ""
    ) -> None:
        self.append(Finding(level, check, says, tuple(islice(examples, MAX_EXAMPLES)), remedy, error))

    def refuse(self, path: Path) -> None:
        """Raise UserError for the first finding that stops the tools."""
        for finding in self:
            if finding.error:
                raise UserError(f"{path}: {finding.error}")

    def warn(self, path: Path) -> str:
        """Log the findings that make a result wrong and do not stop the tools; returns them in short."""
        found = [finding for finding in self if finding.level == ERROR or (finding.check, finding.level) == UNSURE]
        for finding in found:
            says = "; ".join(filter(None, (finding.says, finding.remedy)))
            logger.warning("%s: %s: %s", path, finding.check, says)
        return "; ".join(f"{finding.check}: {finding.says}" for finding in found)


def many(count: int, what: str) -> str:
    plural = {"category": "categories", "box": "boxes"}.get(what, f"{what}s")
    return f"{count:,} {what if count == 1 else plural}"


def in_digits(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers)
