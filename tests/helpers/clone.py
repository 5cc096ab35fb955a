"""A copy of the clone in which the commands and programs of the pages run, without a network."""

import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from helpers.goldens import ROOT
from helpers.pages import Block
from helpers.places import MOST_SECONDS, surroundings

FOLDERS = ("lib", "tools", "docs", "experiments", "tests", "benchmarks")
QUICKER = {  # options with which a command takes fewer instances, images or minutes the same way
    "attention_stats": ["--persons", "4"],
    "check_data": ["--images", "8"],
    "test": ["TEST.IMAGE_THRE", "0.9"],
    "verify_coco": ["TEST.IMAGE_THRE", "0.9"],
    "predict": ["--box-score", "0.9"],
    "soak": ["MINUTES=0.2"],
    "benchmark": ["--smallest", "--model", "tp_r_a3"],
    "pip": ["--no-build-isolation"],
}
OTHERWISE = {  # what ends otherwise with random weights or in seconds: exit codes, and words of the output
    "tools/download.py tp_r_a4 resnet50": ((1,), "resnet50-19c8e357.pth: its sha256 is"),
    "tools/download.py resnet50": ((2,), "resnet50-19c8e357.pth: its sha256 is"),
    "tools/verify_coco.py --data data/coco": ((1,), "0 of 10 APs within ±0.1 of the published ones"),
    "make soak": ((0, 2), "epochs trained and validated"),  # seconds are too few to see that nothing grows
}


def shape(text: str) -> str:
    """The words of an output without its numbers, and without the folders of its paths."""
    names = (word.rsplit("/", 1)[-1] for word in text.split())
    return " ".join("#" if re.search(r"\d", name) else name for name in names)


class Clone:
    """Tools run in a server's forks, which have torch already; other programs in processes of their own."""

    def __init__(self, folder: Path, run: Path):
        self.folder, self.run = folder / "clone", run
        self.streams = [folder / "stdout", folder / "stderr"]
        self.quicker = QUICKER
        self.reset()
        command = [sys.executable, str(self.folder / "tests/helpers/preloaded.py")]
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings()
        )
        self.ask("train", ["--help"], ["tools/train.py"])  # its imports are made before the copy is replaced

    def reset(self) -> None:
        """A fresh copy, with the run as the demo's."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for part in FOLDERS:
            shutil.copytree(ROOT / part, self.folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for path in ROOT.iterdir():
            if path.is_file() and not path.name.startswith("."):
                shutil.copy(path, self.folder)
        (self.folder / "data").mkdir()
        (self.folder / "data/coco_sample").symlink_to(ROOT / "data/coco_sample")
        shutil.copytree(self.run, self.folder / "output/coco/transpose_r/demo")
        nowhere = "http://127.0.0.1:9"
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": sysconfig.get_path("purelib"),  # what `make venv` would download
            "PIP_NO_INDEX": "1",
            "PYTEST_ADDOPTS": "--collect-only -q",
            "TRANSPOSE_HOME": str(self.folder / "cache"),
            "TORCH_HOME": str(self.folder / "torch"),
            "HF_HOME": str(self.folder / "huggingface"),
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere),
            "no_proxy": "127.0.0.1",
        }
        self.quicker = QUICKER

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        assert self.server.wait(MOST_SECONDS) == 0

    def block(self, block: Block) -> str:
        """Run a block; its output must have the lines that the page shows, but for their numbers."""
        lines = block.lines() if block.language == "sh" else [["PYTHONPATH=tools", "python", "-", block.text]]
        output = "".join(map(self.command, lines))
        for shown in block.printed.split("…\n"):
            assert shape(shown) in shape(output), f"{block.page.name} shows\n{shown}and the output is\n{output}"
        return output

    def command(self, line: list[str]) -> str:
        environment = dict(self.environment)
        while "=" in line[0]:  # NAME=value in front of the program
            variable, value = line[0].split("=", 1)
            if variable == "PYTHONPATH":
                value += os.pathsep + environment[variable]
            environment, line = environment | {variable: value}, line[1:]
        program, *words = line
        tool = next((Path(word).stem for word in words if word.startswith("tools/")), "")
        quicker = self.quicker.get(tool or program, self.quicker.get(words[-1], []))
        if program == "torchrun":
            words[words.index("--nproc_per_node") + 1] = "2"
        if tool == "benchmark":
            words.remove("--write")  # it writes only what is measured in full
        if program == ".":
            return self.activate(words[0])
        if tool == "web_demo":
            return self.serve(words)
        if program != "python" or (not tool and words[0] != "-"):
            return self.start([program, *words, *quicker], line, environment)
        if not tool:
            return self.start([program, "-c", words[1]], ["python", "-"], environment)
        return self.ask(tool, [*words[1:], *quicker], words)

    def ask(self, tool: str, words: list[str], line: list[str]) -> str:
        """`python tools/<tool>.py <words>` in a fork of the server."""
        assert self.server.stdin is not None and self.server.stdout is not None
        place = {"tool": tool, "arguments": words, "folder": str(self.folder), "environment": self.environment}
        out, err = self.streams
        request = place | {"stdout": str(out), "stderr": str(err), "seconds": MOST_SECONDS}
        for path in self.streams:
            path.unlink(missing_ok=True)
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        return self.judge(line, code, "".join(path.read_text() for path in self.streams))

    def start(self, command: list[str], line: list[str], environment: dict[str, str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=surroundings() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MOST_SECONDS,
        )
        return self.judge(line, done.returncode, done.stdout)

    def judge(self, line: list[str], code: int, output: str) -> str:
        codes, words = OTHERWISE.get(shlex.join(line), ((0,), ""))
        assert code in codes and words in output, f"exit code {code}: {shlex.join(line)}\n{output}"
        return output

    def activate(self, script: str) -> str:
        """The commands that follow are those of the environment."""
        shell = ["bash", "-ec", f". {shlex.quote(script)} && command -v python"]
        python = Path(self.start(shell, [".", script], self.environment).strip())
        assert python.is_relative_to(self.folder)
        self.environment["PATH"] = f"{python.parent}{os.pathsep}{self.environment['PATH']}"
        return ""

    def serve(self, words: list[str]) -> str:
        """Start a server, ask it for its page, and stop it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        out = self.streams[0]
        with out.open("w") as file:
            command = [sys.executable, *words, "--port", str(port)]
            environment = surroundings() | self.environment
            server = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=file, stderr=file)
        try:
            end = time.monotonic() + MOST_SECONDS
            while not answers(port):
                assert server.poll() is None and time.monotonic() < end, out.read_text()
                time.sleep(0.1)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=MOST_SECONDS)
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert answer.status == 200 and b"TransPose" in answer.read()
        finally:
            server.terminate()
            server.wait(MOST_SECONDS)
        assert "Traceback" not in out.read_text()
        return out.read_text()


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
