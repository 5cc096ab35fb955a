"""The web explorer as a Hugging Face Space; the Space's variable MODEL is the --model of tools/web_demo.py."""

import os
import runpy
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent / "tools"

sys.path.insert(0, str(TOOLS))
sys.argv = [
    *("web_demo.py", "--model", os.environ.get("MODEL", "tp_r_a4")),
    *("--host", "0.0.0.0", "--port", os.environ.get("GRADIO_SERVER_PORT", "7860")),
    *("--max-megabytes", "10", "--max-pixels", "12000000"),
    # All visitors come by the Space's proxy, so by one address, and by the name that it gives.
    *("--max-sessions", "20", "--name", os.environ.get("SPACE_HOST", "localhost")),
]
runpy.run_path(str(TOOLS / "web_demo.py"), run_name="__main__")
