"""Makes `transpose` importable from a bare clone: the package is the folder `lib`."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("transpose", Path(__file__).resolve().parents[1] / "lib" / "__init__.py")
sys.modules["transpose"] = _module = module_from_spec(_spec)
_spec.loader.exec_module(_module)

if __name__ == "__main__":  # PYTHONPATH=tools python -m transpose COMMAND …
    from transpose.commands import main

    main()
