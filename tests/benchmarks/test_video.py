"""The video's benchmark, on a few frames; nothing here is timed."""

import re
from pathlib import Path

import pytest
import torch
from helpers.planted import planted_yolox

from benchmarks import video
from transpose.predictor.detector import DEFAULT

pytestmark = pytest.mark.slow


def test_every_stage_and_the_whole(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    planted_yolox(tmp_path / f"{DEFAULT}.onnx", [((200.0, 150.0), (100.0, 200.0), 0.9, {0: 0.9})])
    monkeypatch.setenv("TRANSPOSE_HOME", str(tmp_path))
    monkeypatch.setattr(video, "WEIGHTS", run / "final_state.pth")
    monkeypatch.setattr("sys.argv", ["video", "--images", "1", "--runs", "1"])
    threads = torch.get_num_threads()
    try:
        video.main()
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out
    assert re.findall(r"^\| (\w+) \| \d+\.\d ms", said, re.MULTILINE) == [
        *("read", "detect", "estimate", "draw", "encode", "whole")
    ]
    assert re.search(r"The whole takes \d+\.\d\d times as long as its slowest stage\.$", said.strip())
