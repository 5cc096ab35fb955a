"""Run demo.ipynb and keep its outputs: python docs/run_notebook.py [--model NAME|FOLDER|FILE] [--out FILE]"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))  # makes `transpose` importable

from transpose import cli
from transpose.errors import UserError

NOTEBOOK = Path(__file__).resolve().parents[1] / "demo.ipynb"
DEMO = "output/coco/transpose_r/demo"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run demo.ipynb from its first to its last cell.")
    add = parser.add_argument
    add("--model", default=DEMO, help="of which it makes its outputs, from the repository's root (%(default)s)")
    add("--out", type=Path, default=NOTEBOOK, metavar="FILE", help="where it goes; else it takes its own place")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.model == DEMO and not (NOTEBOOK.parent / DEMO).exists():
        raise UserError(f"{DEMO}: the demo is not trained yet; make demo does it, or --model names another model")
    if not given.out.parent.is_dir():
        raise UserError(f"{given.out}: there is no folder {given.out.parent} to write it into")
    try:
        import nbclient
        import nbformat
    except ModuleNotFoundError:
        raise UserError("running a notebook needs two packages: pip install nbclient ipykernel") from None

    os.environ["TRANSPOSE_MODEL"] = given.model
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    # No times, so that equal outputs are equal files.
    client = nbclient.NotebookClient(notebook, kernel_name="python3", resources=folder, record_timing=False)
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        if error.ename != UserError.__name__:
            raise
        raise UserError(error.evalue) from None
    part = given.out.with_name(f"{given.out.name}.part")
    part.write_text(nbformat.writes(notebook) + "\n")
    part.replace(given.out)


if __name__ == "__main__":
    cli.run(main)
