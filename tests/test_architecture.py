"""Who may know whom in lib (the house rules), read from the source."""

import ast
import sys

import pytest
from goldens import ROOT

LIB = ROOT / "lib"
LEAVES = {"errors"}  # anyone may import these
# Room -> the rooms it may import. Each stands below those that may import it, so there is no way round in a circle.
MAY_IMPORT = {
    "errors": set(),
    "skeleton": set(),
    "config": set(),
    "models": set(),
    "collector": set(),
    "checkpoint": set(),
    "distributed": set(),
    "log": set(),
    "interruption": set(),
    "generators": set(),
    "lock": set(),
    "geometry": {"skeleton"},
    "heatmap": {"skeleton"},
    "download": {"checkpoint", "log"},
    "zoo": {"config", "models", "checkpoint", "download"},
    "hub": {"models"},
    "draw": {"skeleton", "geometry"},
    "dataset": {"skeleton", "geometry", "heatmap", "checkpoint", "collector", "distributed"},
    "core": {"skeleton", "geometry", "heatmap", "dataset", "checkpoint", "collector", "distributed", "log"},
    "attention": {"models"},
    "explain": {"attention", "skeleton", "geometry", "heatmap", "dataset", "core", "models"},
    "attention_stats": {"explain"},
    "figures": {"attention_stats", "explain", "draw", "geometry", "checkpoint"},
    "monitor": {"skeleton", "geometry", "heatmap", "draw", "explain", "figures", "dataset", "models"},
    "inference": {"models"},
    "training": {
        *("core", "dataset", "models", "checkpoint", "distributed", "log", "monitor"),
        *("interruption", "generators", "lock"),
    },
    "build": {
        *("skeleton", "geometry", "heatmap", "dataset", "core", "models", "config"),
        *("checkpoint", "distributed", "log", "draw", "figures", "monitor", "inference"),
        *("interruption", "training"),
    },
    "cli": {"config", "distributed", "log"},
    "export": {"build", "core", "geometry", "heatmap", "inference", "skeleton"},
    "video": set(),
    "sources": {"dataset"},
    "photograph": {"dataset"},
    "persons": {"photograph", "skeleton", "draw", "checkpoint"},
    "tracking": {"persons"},
    "detector": {"config", "checkpoint", "download", "inference"},
    "predictor": {
        *("build", "checkpoint", "skeleton", "zoo", "core", "dataset", "inference", "models", "export"),
        *("detector", "persons", "photograph", "explain"),
    },
    "explorer": {
        *("predictor", "detector", "export", "explain", "figures", "persons", "dataset", "draw", "skeleton"),
    },
    "web": {"explorer", "explain", "draw"},
}
ONLY_THESE_PACKAGES = {
    "models": {"torch", "torchvision"},
    "errors": set(),
    "skeleton": {"numpy", "yaml"},
    "geometry": {"numpy"},
}
WITHOUT_TORCH = ("errors", "config", "cli", "skeleton", "geometry", "draw")
MAY_SAY_CFG = ("config", "build", "cli")

FILES = sorted(path for path in LIB.rglob("*.py") if path != LIB / "__init__.py")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LIB)))


def room(path) -> str:
    return path.relative_to(LIB).parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """Dotted names that a source imports anywhere, `from a import b` as a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(source: str) -> set[str]:
    return {name.split(".")[1] if "." in name else "" for name in imports(source) if name.split(".")[0] == "transpose"}


def packages_imported(source: str) -> set[str]:
    tops = {name.split(".")[0] for name in imports(source)}
    return tops - set(sys.stdlib_module_names) - {"transpose"}


def names(source: str) -> set[str]:
    """Variables, attributes and parameters of a source."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        found |= {getattr(node, field, None) for field in ("id", "attr", "arg", "asname", "name")}
    return found


def test_the_readers_see_every_way_to_import_and_to_name():
    source = (
        "import transpose.a.x\ndef f():\n  from transpose import b as c, d\n  from transpose.e import g\n  import yaml"
    )
    assert rooms_imported(source) == {"a", "b", "d", "e"}
    assert packages_imported(source) == {"yaml"}
    assert "" in packages_imported("from . import models") and "" in packages_imported("from ..x import y")
    for text in ("cfg = 1", "x.cfg", "def f(*, cfg): 0", "f(cfg=1)", "import a as cfg"):
        assert "cfg" in names(text)


def test_the_house_has_floors():
    below = set()
    for name, allowed in MAY_IMPORT.items():
        assert allowed <= below, name
        below.add(name)


@each_file
def test_rooms_import_only_what_lies_below_them(path):
    own = room(path)
    assert own in MAY_IMPORT, f"a new room: say in MAY_IMPORT whom {own} may know"
    assert rooms_imported(path.read_text()) <= MAY_IMPORT[own] | LEAVES | {own}


@each_file
def test_rooms_import_no_package_that_is_not_theirs(path):
    packages = packages_imported(path.read_text())
    assert "" not in packages, "a relative import"
    assert packages <= ONLY_THESE_PACKAGES.get(room(path), packages)
    if room(path) in WITHOUT_TORCH:
        assert not packages & {"torch", "torchvision"}


@each_file
def test_cfg_is_spoken_of_at_the_top_only(path):
    if room(path) not in MAY_SAY_CFG:
        assert "cfg" not in names(path.read_text())
