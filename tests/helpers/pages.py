"""README and the pages of docs/: their fenced blocks, and why some are not run without preparation."""

import re
import shlex
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from helpers.goldens import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- ((?:needs|takes) [^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = r"(?:[A-Z_]+=\S* )*(?:python|make|pip|pytest|torchrun|transpose) "  # how a command begins
SENTENCE = re.compile(rf"`({PROGRAM}[^`…]+)`")
HEREDOC = re.compile(r" <<'END'\n(.*?)^END$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    reason: str  # what it needs or takes
    language: str
    text: str
    printed: str  # the block of text right below, which shows its output

    def lines(self) -> list[list[str]]:
        """The words of each command; a program between <<'END' and END is the last word of its command."""
        programs = HEREDOC.findall(self.text)
        text = HEREDOC.sub(" PROGRAM", self.text).replace("\\\n", " ")
        lines = [shlex.split(part, comments=True) for line in text.splitlines() for part in line.split(" && ")]
        given = iter(programs)
        return [[next(given) if word == "PROGRAM" else word for word in line] for line in lines if line]


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text()
    found = list(BLOCK.finditer(text))
    made = []
    for block, below in zip_longest(found, found[1:]):
        shows = below is not None and below[2] == "text" and not text[block.end() : below.start()].strip()
        if block[2] in languages:
            made.append(Block(page, block[1] or "", block[2], block[3], below[3] if shows and below else ""))
    return made


def sentences(page: Path) -> list[list[str]]:
    """The words of each command that stands between two backticks of a sentence, without a gap."""
    found = SENTENCE.findall(BLOCK.sub("", page.read_text()))
    return [shlex.split(part) for command in found for part in command.split(" && ")]


def runnable(page: Path) -> list[Block]:
    return blocks(page, "sh", "python")


def name(page: Path) -> str:
    return page.stem
