"""Lets `python tools/<tool>.py` import the package from a bare clone: `transpose` is the folder `lib`."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[1] / "lib")]
