"""From a yaml and the command line to the frozen, checked configuration."""

import ast
import difflib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from .. import yaml_file
from ..errors import UserError, shown
from .check import REMOVED, check, report_idle_keys
from .default import defaults
from .paths import repository_root

PATHS = (
    "DATASET.ROOT",
    "DATASET.SKELETON",
    "DATASET.DECODED_DIR",
    "MODEL.PRETRAINED",
    "MODEL.INIT_FROM",
    "TEST.MODEL_FILE",
    "TEST.COCO_BBOX_FILE",
)
BASE_KEY = "_BASE_"  # key for the path of another yaml, relative to this one, whose values it overrides


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    output_dir: str = "",
    log_dir: str = "",
    data_dir: str = "",
    report: bool = True,
) -> CfgNode:
    """The checked configuration of a yaml, frozen, with absolute paths.

    Args:
        path: The yaml.
        overrides: KEY VALUE KEY VALUE …, as on the command line.
        output_dir: Replaces OUTPUT_DIR; relative to the current directory, as the next two.
        log_dir: Replaces LOG_DIR.
        data_dir: Replaces DATA_DIR.
        report: Log the keys that have no effect.

    Raises:
        UserError: Names the file, the key and what to do.
    """
    cfg = defaults()
    given: set[str] = set()
    for file, content in _read_yaml(Path(path)):
        own: set[str] = set()
        for key, value in leaves(content):
            _expect_once(key, own, str(file))
            _set(cfg, key, value, where=str(file))
        given |= own
    given |= _merge_overrides(cfg, overrides)
    for key, directory in (("OUTPUT_DIR", output_dir), ("LOG_DIR", log_dir), ("DATA_DIR", data_dir)):
        if directory:
            cfg[key] = str(Path(directory).absolute())
    where = f"{path} with the command line" if overrides else str(path)
    _resolve_paths(cfg, where)
    check(cfg, where)
    if report:
        report_idle_keys(cfg, given)
    cfg.freeze()
    return cfg


def _read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, dict]]:
    """The nested dicts of the yaml's bases and then its own, each with its file; safe loader only."""
    content = yaml_file.read(path, "configuration file")
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: a configuration must be a mapping of keys to values, not a {type(content).__name__}")
    base = content.pop(BASE_KEY, None)
    if base is None:
        return [(path, content)]
    if not isinstance(base, str):
        raise UserError(f"{path}: {BASE_KEY} must be the name of a yaml, not {shown(base)}")
    base_path = (path.parent / base).resolve()
    if base_path in seen:
        raise UserError(f"{path}: {BASE_KEY} names {base}, which leads back to this file")
    if not base_path.is_file():
        raise UserError(f"{path}: {BASE_KEY} names {base}, but {base_path} does not exist")
    return [*_read_yaml(base_path, (*seen, path.resolve())), (path, content)]


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys and values of nested dicts."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from leaves(value, name + ".")
        else:
            yield name, value


def _set(cfg: CfgNode, key: str, value: Any, where: str) -> None:
    """Set a dotted key, after checking that it exists and that the value has its type; skip a removed key."""
    if key in REMOVED:
        return
    *parents, leaf = key.split(".")
    node: Any = cfg
    for parent in parents:
        node = node.get(parent) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or leaf not in node:
        raise UserError(f"{where}: {key} is not a configuration key; {_nearest(key)}")
    if isinstance(node[leaf], CfgNode):
        if value not in (None, {}):
            raise UserError(f"{where}: {key} contains further keys, and cannot have the value {shown(value)}")
        return
    node[leaf] = _coerce(value, node[leaf], key, where)


def _expect_once(key: str, seen: set[str], where: str) -> None:
    """A yaml may spell a key in one piece or by sections."""
    if key in seen:
        raise UserError(f"{where}: {key} is set twice, in one piece and inside its section; remove one")
    seen.add(key)


def _nearest(key: str) -> str:
    known = [*(name for name, _ in leaves(defaults())), *REMOVED]
    sections = {name[:dot] for name in known for dot in range(len(name)) if name[dot] == "."}
    full = difflib.get_close_matches(key, [*known, *sorted(sections)], n=1, cutoff=0.75)
    if not full:
        last_parts = {name.rsplit(".", 1)[-1]: name for name in known}
        part = difflib.get_close_matches(key.rsplit(".", 1)[-1], last_parts, n=1, cutoff=0.5)
        full = [last_parts[part[0]]] if part else difflib.get_close_matches(key, known, n=1, cutoff=0)
    return f"the nearest is {full[0]}"


def _decode(text: str) -> Any:
    """The value of a string: "(0,1)" is a tuple, "1e-4" (text in yaml) a number; else the string itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _coerce(value: Any, default: Any, key: str, where: str) -> Any:
    """The value in its default's type; integers become floats, and floats integers, if the value stays equal."""
    if isinstance(default, str):
        if value is None:
            return ""
        _expect(isinstance(value, str), value, "text", key, where)
        return _expect("\0" not in value, value, "text without a NUL character", key, where)
    if isinstance(value, str):
        lowered = value.lower()
        value = lowered == "true" if lowered in ("true", "false") else _decode(value)
    if isinstance(default, bool):
        return _expect(isinstance(value, bool), value, "true or false", key, where)
    if isinstance(default, list | tuple):
        _expect(isinstance(value, list | tuple), value, f"a list such as {default}", key, where)
        return type(default)(_coerce(item, default[0] if default else "", key, where) for item in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int):
        whole = isinstance(value, int) or (number and value.is_integer())
        return int(_expect(number and whole and abs(value) < 2**63, value, "a whole number", key, where))
    return float(_expect(number and not abs(value) > sys.float_info.max, value, "a number", key, where))


def _expect(holds: bool, value: Any, wanted: str, key: str, where: str) -> Any:
    if not holds:
        raise UserError(f"{where}: {key} must be {wanted}, not {shown(value)}")
    return value


def _merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> set[str]:
    """Set the command line's KEY VALUE pairs; returns the keys."""
    if len(overrides) % 2:
        raise UserError(f"command line: overrides come as KEY VALUE pairs, but {overrides[-1]} has no value")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        # A path that exists in the current directory is used; for any other, the yaml's rule applies.
        if key in PATHS and value and os.path.exists(value):
            value = os.path.abspath(value)
        _set(cfg, key, value, where="command line")
    return set(overrides[::2])


def _resolve_paths(cfg: CfgNode, where: str) -> None:
    root = repository_root()
    for key in ("OUTPUT_DIR", "LOG_DIR"):
        cfg[key] = str(root / cfg[key])
    for key in PATHS:
        section, leaf = key.split(".")
        value = cfg[section][leaf]
        if value or key == "DATASET.ROOT":
            candidates = [root / cfg.DATA_DIR / value, root / value]
            try:
                cfg[section][leaf] = str(next((c for c in candidates if c.exists()), candidates[0]))
            except OSError as error:  # such as a name that is too long
                raise UserError(f"{where}: {key} {shown(value)} cannot be a path ({error.strerror})") from None
