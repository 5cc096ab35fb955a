"""The package as a user has it: its wheel unpacked, with only the packages that it depends on."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.goldens import ROOT
from helpers.places import surroundings

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

# sitecustomize.py: the named top-level modules are not installed.
ABSENT = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, *place):
        return None if name.partition(".")[0] in {absent} else super().find_spec(name, *place)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def python(*arguments: str, folder: Path, path: str = "") -> subprocess.CompletedProcess:
    """`python <arguments>` in a folder, with PYTHONPATH `path`."""
    line, environment = [sys.executable, *arguments], surroundings() | {"PYTHONPATH": path}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the clone that holds no other files than are needed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "lib", source / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    built = python("-m", "pip", *build, "-w", str(folder), str(source), folder=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path) -> str:
    """Where the wheel is unpacked."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "installed")
    return str(wheel.parent / "installed")


def installed_with(packages: list[str]) -> set[str]:
    """Names of these requirements' packages and of all that they need."""
    found: set[str] = set()
    pending = [Requirement(text) for text in packages]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            pending += map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            found.remove(name)
    return found


@pytest.fixture(scope="session")
def machine(installed: str, tmp_path_factory):
    """Makes a PYTHONPATH with the wheel, where only what it depends on, and the named extras, are installed."""

    def make(*extras: str) -> str:
        folder = tmp_path_factory.mktemp("machine")
        there = installed_with([*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])])
        owners = importlib.metadata.packages_distributions()
        absent = {module for module, of in owners.items() if not {canonicalize_name(name) for name in of} & there}
        (folder / "sitecustomize.py").write_text(ABSENT.format(absent=absent))
        return os.pathsep.join([str(folder), installed])

    return make
