"""demo.ipynb: it runs from its first to its last cell, and what it shows was made by running it."""

import base64
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from helpers.goldens import ROOT
from helpers.places import run_in_new_process, sentence

NOTEBOOK = ROOT / "demo.ipynb"


def cells(path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def pictures(path) -> list[np.ndarray]:
    shown = [output["data"]["image/jpeg"] for cell in cells(path) for output in cell["outputs"] if "data" in output]
    return [cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR) for text in shown]


def test_it_runs_with_random_weights(run, tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    out = tmp_path / "run.ipynb"
    before = NOTEBOOK.read_bytes()
    command = [sys.executable, str(ROOT / "docs/run_notebook.py"), "--model", str(run), "--out", str(out)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [cell["source"] for cell in cells(out)] == [cell["source"] for cell in cells(NOTEBOOK)]
    assert [cell["execution_count"] for cell in cells(out)] == list(range(1, len(cells(out)) + 1))
    assert [picture.shape[1] for picture in pictures(out)] == [picture.shape[1] for picture in pictures(NOTEBOOK)]
    assert NOTEBOOK.read_bytes() == before


def test_what_is_kept_was_run_in_order_and_is_light():
    kept = cells(NOTEBOOK)
    assert [cell["execution_count"] for cell in kept] == list(range(1, len(kept) + 1))
    outputs = [output for cell in kept for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert NOTEBOOK.stat().st_size < 1_500_000
    assert len(pictures(NOTEBOOK)) == 8
    assert "memorised the images" in NOTEBOOK.read_text()


def test_unusable_input_is_one_message(run, tmp_path, without_torch):
    outcome = run_in_new_process(
        "../docs/run_notebook", ["--model", str(run), "--out", "none/run.ipynb"], tmp_path, without_torch
    )
    assert sentence(outcome) == "none/run.ipynb: there is no folder none to write it into"
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    outcome = run_in_new_process("../docs/run_notebook", ["--model", "nothing", "--out", "run.ipynb"], tmp_path, {})
    assert outcome.returncode == 2 and "Traceback" not in outcome.stderr
    # Before it the kernel may say how it talks.
    assert outcome.stderr.splitlines()[-1].startswith("error: nothing: there is no such file or folder")
    assert not (tmp_path / "run.ipynb").exists()


def test_an_untrained_demo_is_reported(tmp_path, without_torch):
    if (ROOT / "output/coco/transpose_r/demo").exists():
        pytest.skip("the demo is trained")
    outcome = run_in_new_process("../docs/run_notebook", [], tmp_path, without_torch)
    assert "the demo is not trained yet; make demo does it" in sentence(outcome)
