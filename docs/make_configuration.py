"""Writes docs/configuration.md, every key with its default and meaning, from the source of lib/config/default.py."""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, PAGE = ROOT / "lib/config/default.py", ROOT / "docs/configuration.md"
KEY = re.compile(r"_C\.([\w.]+) = (.+?)\s*$")
TITLES = {
    "": "A run",
    "CUDNN": "CUDNN: the GPU's library",
    "MODEL": "MODEL: the network",
    "LOSS": "LOSS",
    "DATASET": "DATASET: files and augmentation",
    "TRAIN": "TRAIN",
    "TEST": "TEST",
    "DEBUG": "DEBUG: pictures while training",
}
HEAD = """# Configuration

A yaml describes a run; `KEY VALUE` pairs after a command's options override it. Both use the keys below. An unknown
key, a value of the wrong type or values that do not fit together stop the command before it starts. A yaml may name
another one, relative to itself, under `_BASE_`, and then holds only the values that differ.

Relative paths in a yaml are looked for under `DATA_DIR` (the option `--data-dir`), then under the repository's root
(without a clone: the current directory). They are never looked for beside the yaml. A path given as `KEY VALUE` is
first looked for in the current directory.

The defaults are the original's; a key that the original does not have keeps the published behaviour by default. The
published recipes in `experiments/coco` set other values for some keys. **No effect** marks a key that the original's
files set and nothing reads; the log names it.

`make docs` generates this page from `lib/config/default.py`.
"""


def entries(source: str) -> list[tuple[str, str, str]]:
    """(key, default as yaml has it, meaning) of each assignment, in the order of the source."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    found = []
    for number, line in enumerate(source.splitlines(), start=1):
        comment = comments.get(number)
        match = KEY.match(line[: comment.start[1]] if comment else line)
        if match and match[2] != "CfgNode()":
            value = ast.literal_eval(match[2])
            default = json.dumps(value) if isinstance(value, bool | list) else str(value)
            found.append((match[1], default, comment.string.removeprefix("#").strip() if comment else ""))
    return found


def page(source: str) -> str:
    parts, section = [HEAD], None
    for key, default, meaning in entries(source):
        group = key.partition(".")[0] if "." in key else ""
        if group != section:
            section = group
            parts.append(f"\n## {TITLES[group]}\n\n| key | default | meaning |\n|---|---|---|\n")
        meaning = meaning.replace("*", r"\*").replace("no effect", "**No effect**")
        parts.append(f"| `{key}` | {f'`{default}`' if default else ''} | {meaning} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
