"""What all commands share. Imports nothing heavy, so that --help is fast."""

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from .errors import UserError, missing, passing_over

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from .pose.draw import DrawOptions

MAX_REPORTED = 20  # errors of items that are shown
# What training and testing import and prediction does not: the packages of the extra `train`.
FOR_TRAINING = ("json_tricks", "pycocotools", "tensorboardX")


class Parser(argparse.ArgumentParser):
    """A parser that takes its options before, between and after KEY VALUE pairs."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        return self.parse_intermixed_args(args, namespace)


def parser(description: str, cfg_required: bool = True) -> Parser:
    """The original's arguments: --cfg, directories, also as the original spells them, and KEY VALUE overrides."""
    arguments = Parser(description=description)
    arguments.add_argument("--cfg", required=cfg_required, metavar="YAML", help="configuration file of the experiment")
    for name, original, use in (
        ("--model-dir", "--modelDir", "folder of the runs (OUTPUT_DIR)"),
        ("--log-dir", "--logDir", "folder of TensorBoard's files (LOG_DIR)"),
        ("--data-dir", "--dataDir", "prefix of the yaml's relative paths (DATA_DIR)"),
        ("--prev-model-dir", "--prevModelDir", "accepted as in the original; unused"),
    ):
        arguments.add_argument(name, original, default="", metavar="DIR", help=use)
    arguments.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, e.g. TEST.USE_GT_BBOX True")
    return arguments


def add_drawing(arguments: argparse.ArgumentParser) -> None:
    """The options that `drawing` reads."""
    add = arguments.add_argument_group("how persons are drawn").add_argument
    add(
        "--threshold",
        type=float,
        default=0.2,
        metavar="T",
        help="draw keypoints with this score or more (default: %(default)s)",
    )
    add(
        "--draw",
        metavar="PART,…",
        help="besides skeletons: boxes, scores, ids, names (of keypoints), ellipses or none (default: ids if tracked)",
    )
    add(
        "--color-by",
        metavar="WHAT",
        help="side, person or keypoint (default: side; keypoint if the skeleton has no left/right pairs)",
    )


def add_reading(add: Callable[..., Any]) -> None:
    """Add the options with which images of users are read, by a parser's or a group's `add_argument`."""
    add(
        "--max-pixels",
        type=int,
        metavar="N",
        help="refuse an image with more pixels before decoding it (default: 134 million)",
    )
    add(
        "--ignore-exif",
        action="store_true",
        help="read images as stored, without EXIF rotation, as COCO's annotations and tools/test.py do",
    )


def add_device(add: Callable[..., Any]) -> None:
    add("--device", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")


def drawing(arguments: argparse.Namespace) -> "DrawOptions":
    """The drawing options of the arguments. Raises UserError for unknown ones."""
    from .pose.draw import DrawOptions

    parts = (
        None
        if arguments.draw is None
        else tuple(part for part in arguments.draw.replace(" ", "").split(",") if part != "none")
    )
    return DrawOptions(arguments.threshold, parts, arguments.color_by)


def configuration(arguments: argparse.Namespace, report: bool = True) -> "CfgNode":
    """The checked configuration that the arguments ask for, as `load_config`; also starts the console's log."""
    from .config.load import load_config
    from .runtime import log

    # Like `distributed.rank`, but without importing PyTorch, so that a wrong configuration is reported at once.
    log.start(quiet=int(os.environ.get("RANK", 0)) > 0)
    return load_config(
        arguments.cfg,
        arguments.opts,
        output_dir=arguments.model_dir,
        log_dir=arguments.log_dir,
        data_dir=arguments.data_dir,
        report=report,
    )


def run(main: Callable[[], None]) -> None:
    """Run a command: a user's mistake becomes one sentence and exit code 2, a fault of the program keeps its traceback.

    If the reader of standard output closes it early, as `| head` does, the command ends silently.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell ignores it, as after `&`
        signal.signal(signal.SIGINT, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):  # characters that its encoding lacks are escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except UserError as error:
        fail(str(error))
    except ImportError as error:
        if error.name in FOR_TRAINING:
            fail(str(missing(error.name, "train")))
        if "cv2" not in f"{error.name} {error.path}":
            raise
        fail(
            f"OpenCV cannot be imported ({error}); if a system library is missing, "
            "`pip uninstall opencv-python && pip install opencv-python-headless` helps"
        )
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises again for each process that ends
        reason = " ".join(str(error).split()).rstrip(".")
        fail(f"{reason}. Most often memory has run out: lower WORKERS or DATASET.CACHE_MB")
    except BrokenPipeError:
        if not output_closed():
            raise
        sys.exit(141)  # 128 + SIGPIPE, as other programs end then
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        fail(f"{str(error.filename)[:200]}…: this name is too long for the file system")
    except KeyboardInterrupt:
        sys.exit(130)


def _interrupt(number: int, frame: object) -> None:
    """The first Ctrl-C ends a command in order, which may take seconds; the second ends it at once."""
    signal.signal(signal.SIGINT, _end_at_once)
    with suppress(OSError):  # its reader may have been interrupted too
        print("stopping (Ctrl-C again stops at once)", file=sys.stderr, flush=True)
    raise KeyboardInterrupt


def _end_at_once(number: int, frame: object) -> None:
    os._exit(130)


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Ctrl-C ends the block and nothing else; the next one is a first one again."""
    try:
        yield
    except KeyboardInterrupt:
        if signal.getsignal(signal.SIGINT) is _end_at_once:
            signal.signal(signal.SIGINT, _interrupt)


def output_closed() -> bool:
    """Whether the reader of standard output has closed it; if so, the remaining output is discarded."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


class Failures:
    """The items, such as images, that a command could not use: the others are done, and the exit code is 1."""

    def __init__(self) -> None:
        self.errors: list[UserError] = []

    def passing_over(self) -> AbstractContextManager[None]:
        """A `with` statement for one item."""
        return passing_over(self.errors.append)

    def end(self, done: int) -> None:
        """If none was `done`, raise the first item's error; else report each and exit with 1, if there are any."""
        if self.errors and not done:
            raise self.errors[0]
        sentences = list(dict.fromkeys(map(str, self.errors)))  # one image may be wanted several times
        for sentence in sentences[:MAX_REPORTED]:
            print(f"error: {sentence}", file=sys.stderr)
        if sentences:
            print(f"{len(sentences)} could not be used or written, the others are done", file=sys.stderr)
            sys.exit(1)


def fail(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)
