"""Findings about a file: the tools raise the first one that stops them, the data check reports all."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..errors import UserError

logger = logging.getLogger(__name__)

OK, NOTE, ERROR = "ok", "note", "error"  # an error stops a run or makes its result wrong; a note does neither
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

    def warn(self, path: Path, check: str) -> None:
        """Log a check's findings that do not stop the tools."""
        for finding in self:
            if finding.check == check:
                logger.warning("%s: %s", path, "; ".join(filter(None, (finding.says, finding.remedy))))


def many(count: int, what: str) -> str:
    plural = {"category": "categories", "box": "boxes"}.get(what, f"{what}s")
    return f"{count:,} {what if count == 1 else plural}"


def in_digits(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers)
