"""Runs tools/<tool>.py for every line of JSON on standard input, each in a process of its own; answers exit codes.

A run that ends with an error spends seconds on importing torch and a moment on the error. Here the imports are made
once, and every run is a fork of this process, which then executes the tool's file as `__main__`, as `python` does.
"""

import atexit
import json
import os
import runpy
import signal
import sys
import threading
import traceback
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import matplotlib.figure  # noqa: E402, F401

from transpose.build import run as _run  # noqa: E402, F401
from transpose.predictor import predictor as _predictor  # noqa: E402, F401

for line in sys.stdin:
    request = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    signal.alarm(request["seconds"])
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    for stream, path in ((1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv = [str(TOOLS / f"{request['tool']}.py"), *request["arguments"]]
    break
else:
    sys.exit()

exit_code: object = None
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    exit_code = end.code
except BaseException:
    traceback.print_exc()
    exit_code = 1
# Python's own way out, but without freeing all that the imports made, which takes longer than most tools run here.
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
assert exit_code is None or isinstance(exit_code, int)
os._exit(exit_code or 0)
