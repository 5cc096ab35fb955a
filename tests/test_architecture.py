"""Which folder of lib may import which, read from the source."""

import ast
import sys
from pathlib import Path

import pytest
from helpers.goldens import ROOT

LIB = ROOT / "lib"
# The floors, the lowest first. A folder imports itself, and folders of the floors below its own.
FLOORS = (
    {"errors"},
    {"yaml_file"},
    {"runtime", "pose", "config"},
    {"models", "dataset"},
    {"core"},
    {"evaluation", "explain"},
    {"engine"},
    {"build"},
    {"analysis", "predictor"},
    {"cli"},
    {"commands"},
    {"__main__"},
)
FLOOR = {folder: number for number, floor in enumerate(FLOORS) for folder in floor}
ONLY_THESE_PACKAGES = {
    "errors": set(),
    "pose/skeleton.py": {"numpy"},
    "pose/geometry.py": {"numpy"},
    "models/transpose.py": {"torch", "torchvision"},
    "models/encoder.py": {"torch"},
    "models/hrnet.py": {"torch", "torchvision"},
}
WITHOUT_TORCH = (
    "errors",
    "yaml_file",
    "config",
    "cli",
    "pose/skeleton.py",
    "pose/geometry.py",
    "pose/draw.py",
    "pose/sheets.py",
)
MAY_SAY_CFG = ("config", "build", "cli", "commands")

FILES = sorted(LIB.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LIB)))


def folder(path: Path) -> str:
    return path.relative_to(LIB).parts[0].removesuffix(".py")


def of(table, path: Path):
    """What a table says of a file, by its path or its folder."""
    return next((key for key in (str(path.relative_to(LIB)), folder(path)) if key in table), None)


def imports(source: str, package: tuple[str, ...] = ()) -> set[str]:
    """Dotted names that a source imports anywhere, `from a import b` as a.b; `package` is the folder it lies in."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ("transpose", *package)[: len(package) + 2 - node.level] if node.level else ()
            found |= {".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names}
    return found


def folders_imported(source: str, package: tuple[str, ...] = ()) -> set[str]:
    own = [name.split(".") for name in imports(source, package)]
    return {parts[1] if len(parts) > 1 else "" for parts in own if parts[0] == "transpose"}


def tops_imported(source: str) -> set[str]:
    """The first names of all absolute imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).split(".")[0])
    return found


def packages_imported(source: str) -> set[str]:
    """Other packages than Python's own and this one."""
    return tops_imported(source) - set(sys.stdlib_module_names) - {"transpose"}


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
    assert folders_imported(source) == {"a", "b", "d", "e"}
    assert packages_imported(source) == {"yaml"}
    relative = "from . import near\nfrom .beside import x\nfrom .. import up\nfrom ..other.deep import y"
    assert imports(relative, ("folder",)) == {
        *("transpose.folder.near", "transpose.folder.beside.x", "transpose.up", "transpose.other.deep.y")
    }
    assert folders_imported(relative, ("folder",)) == {"folder", "up", "other"}
    assert folders_imported("from ...far import z", ("folder", "deeper")) == {"far"}
    assert tops_imported("import lib.a, b.c\nfrom d.e import f\nfrom ..g import h") == {"lib", "b", "d"}
    for text in ("cfg = 1", "x.cfg", "def f(*, cfg): 0", "f(cfg=1)", "import a as cfg"):
        assert "cfg" in names(text)


@each_file
def test_a_folder_imports_only_what_lies_below_it(path):
    if path == LIB / "__init__.py":  # the public face
        return
    own = folder(path)
    assert own in FLOOR, f"a new folder: give {own} a floor"
    seen = folders_imported(path.read_text(), path.relative_to(LIB).parent.parts)
    above = {other for other in seen - {own, "__version__"} if FLOOR.get(other, len(FLOORS)) >= FLOOR[own]}
    assert not above, f"{path.relative_to(LIB)} imports {', '.join(above)}, which stand beside it or above"


@each_file
def test_imports_inside_lib_are_relative(path):
    assert not tops_imported(path.read_text()) & {"transpose", "lib"}


def test_core_does_not_know_the_models():
    for path in (LIB / "core").glob("*.py"):
        assert "models" not in folders_imported(path.read_text(), ("core",)), path


@each_file
def test_files_import_only_the_packages_of_their_extra(path):
    packages = packages_imported(path.read_text())
    if limited := of(ONLY_THESE_PACKAGES, path):
        assert packages <= ONLY_THESE_PACKAGES[limited], f"{limited} imports more than {ONLY_THESE_PACKAGES[limited]}"
    if of(WITHOUT_TORCH, path):
        assert not packages & {"torch", "torchvision"}


@each_file
def test_cfg_is_spoken_of_at_the_top_only(path):
    if folder(path) not in MAY_SAY_CFG:
        assert "cfg" not in names(path.read_text())
        assert "yacs" not in tops_imported(path.read_text())
