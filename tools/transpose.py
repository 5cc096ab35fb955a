"""Makes `transpose` importable from a bare clone: the package is the folder `lib`."""

import importlib.util
import sys
from pathlib import Path

_folder = Path(__file__).resolve().parents[1] / "lib"
_spec = importlib.util.spec_from_file_location(
    "transpose", _folder / "__init__.py", submodule_search_locations=[str(_folder)]
)
assert _spec is not None and _spec.loader is not None
sys.modules["transpose"] = _module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
