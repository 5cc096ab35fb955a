"""What is wrong with a file: the first finding that stops a tool is its error, the data's check reports all."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..errors import UserError

logger = logging.getLogger(__name__)

OK, NOTE, ERROR = "ok", "note", "error"  # an error stops a run or spoils its result, a note is worth knowing
MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """What a check found, a few examples of it, and how to fix it; `error` is the sentence with which the tools that
    read the file stop, and is empty where they go on."""

    level: str
    check: str
    says: str
    examples: tuple[str, ...] = ()
    remedy: str = ""
    error: str = ""


class Findings(list[Finding]):
    """About one file, in the order in which the checks ran."""

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
        """Log what a check found and the tools that read the file go on with."""
        for finding in self:
            if finding.check == check:
                logger.warning("%s: %s", path, "; ".join(filter(None, (finding.says, finding.remedy))))


def many(count: int, what: str) -> str:
    plural = {"category": "categories", "box": "boxes"}.get(what, f"{what}s")
    return f"{count:,} {what if count == 1 else plural}"


def in_digits(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers)
