"""Read the variables of a .mat file in a separate process.

SciPy's reader can crash on damaged files, or exhaust the memory. This file is also the program of the process (python
matlab_file.py FILE NAME…), which writes an .npz to its standard output.
"""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MAX_SECONDS = 60
SPARE_BYTES = 64 << 20  # bytes of memory of the process, besides eight times the file's size
MAX_TEXTS = 1000  # of a cell array: number of texts, characters per text


class Unreadable(Exception):
    """Why a file could not be read."""


def read(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The variables of these names that a file has: arrays of numbers, and of a cell array of texts an array (N) of
    text. Raises Unreadable."""
    command = [sys.executable, "-P", __file__, str(path.absolute()), *names]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unreadable(f"reading it takes more than {MAX_SECONDS} s") from None
    if ended.returncode < 0:
        raise Unreadable(f"SciPy's reader crashed with signal {-ended.returncode}")
    if ended.returncode:
        raise Unreadable(ended.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    with np.load(io.BytesIO(ended.stdout), allow_pickle=False) as found:
        return dict(found)


def _main() -> None:
    import scipy.io

    path, *names = sys.argv[1:]
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + SPARE_BYTES + 8 * os.path.getsize(path)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        found = scipy.io.loadmat(path, variable_names=names)
        variables = {name: found[name] for name in names if name in found}
        for name, value in variables.items():
            if value.dtype == object:
                texts = [str(np.squeeze(item)).strip() for item in value.ravel()[: MAX_TEXTS + 1]]
                if len(texts) > MAX_TEXTS or max(map(len, texts), default=0) > MAX_TEXTS:
                    raise ValueError(f"{name} contains other values than text")
                variables[name] = np.array(texts, np.str_)
        np.savez(sys.stdout.buffer, **variables)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


if __name__ == "__main__":
    _main()
