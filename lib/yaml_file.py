"""Read a yaml's plain values with the safe loader; refuses duplicate keys and aliases that multiply."""

import errno
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, shown

MAX_LENGTH = 1_000  # characters of a value other than text: the time for a number in base 60 grows with their square
TEXT = "tag:yaml.org,2002:str"
MAX_NODES = 20_000  # keys and values, with repetitions by aliases and merges counted


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str):
        super().__init__(stream)
        self.nodes = 0
        self.sizes: dict[Any, int] = {}  # finished node -> number of nodes in it, itself included

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias, before = self.check_event(yaml.AliasEvent), self.nodes
        mark = self.peek_event().start_mark
        node = super().compose_node(parent, index)
        if alias and node not in self.sizes:
            raise yaml.MarkedYAMLError(problem="this alias contains itself", problem_mark=mark)
        if isinstance(node, yaml.ScalarNode) and node.tag != TEXT and len(node.value) > MAX_LENGTH:
            problem = f"a value of {len(node.value):,} characters that is no text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self.nodes += self.sizes[node] if alias else 1
        if self.nodes > MAX_NODES:
            problem = f"more than {MAX_NODES:,} values, with repetitions by aliases counted"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self.sizes[node] = self.sizes[node] if alias else self.nodes - before
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                problem = f"{shown(name)} is in line {lines[name]} already; one of the two has no effect"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[name] = line
        return node


def read(path: Path, what: str) -> Any:
    """The values in a file, None for an empty one. Raises UserError that names the file, as `what`, and the line."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EINVAL, "Not a regular file")  # a pipe or a device may never end
        return _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise UserError(f"{path}: cannot read the {what} ({error.strerror})") from None
    except MemoryError:
        raise
    except Exception as error:  # also from values, such as an invalid date
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        text = getattr(error, "problem", None) or str(error) or type(error).__name__
        text = "lists lie in lists too deep" if isinstance(error, RecursionError) else text
        raise UserError(f"{path}: not a yaml file: {place}{' '.join(text.split())}") from None
