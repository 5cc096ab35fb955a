"""Where relative paths start."""

from pathlib import Path


def repository_root() -> Path:
    """The clone, or the current directory for an installed package."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "experiments").is_dir() else Path.cwd()
