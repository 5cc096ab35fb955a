"""Videos and cameras -> frames -> a video, by OpenCV. Frames are uint8 BGR (H, W, 3)."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from ..errors import UserError

logger = logging.getLogger(__name__)

# What FFmpeg would write on the console of its own accord is said in our sentences.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

USUAL_RATE = 30.0  # frames per second of a video or camera that states none
CODEC = "mp4v"  # MPEG-4 part 2: the one for .mp4 that every build of OpenCV can write


class Video:
    """A video file, or a camera by its number. Raises UserError if it cannot be opened."""

    def __init__(self, source: Path | int):
        self.source = source
        self.name = f"camera {source}" if isinstance(source, int) else str(source)
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            raise UserError(f"{self.name}: cannot be opened; not there, in use, or no video that OpenCV can decode")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else USUAL_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        # What the file states; only its end tells how many there are.
        self.length = int(count) if not isinstance(source, int) and 0 < count < sys.maxsize else None

    def frames(self) -> Iterator[np.ndarray]:
        """Every frame once, turned upright as the file says. Raises UserError if there is none."""
        try:
            empty = True
            while True:
                there, frame = self._capture.read()
                if not there:
                    break
                empty = False
                yield frame
            if empty:
                raise UserError(f"{self.name}: not a single frame can be read")
        finally:
            self._capture.release()


class Recording:
    """An .mp4 that appears at `path` when it is finished, and not at all if an exception ends it. Without sound.

    Leaving it raises UserError if the file is not whole, as on a full disk, or cannot take its place.
    """

    def __init__(self, path: Path, rate: float):
        self.path, self.rate, self.length = path, rate, 0
        self._unfinished = path.with_name(f".{path.stem}.part{path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> "Recording":
        return self

    def add(self, frame: np.ndarray, until: float | None = None) -> None:
        """Append a frame, which must be as large as the first; with `until` as often as needed to last these seconds.

        Raises UserError if the file cannot be written.
        """
        size = frame.shape[1], frame.shape[0]
        if self._writer is None:
            self._size = size
            with _writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter.fourcc(*CODEC)
            with _quiet():
                self._writer = cv2.VideoWriter(str(self._unfinished), codec, self.rate, size)
            if size[0] % 2 or size[1] % 2:
                logger.warning(
                    "%s: its format has even sizes alone: the last column or row of pixels is cut off", self.path
                )
            if not self._writer.isOpened():
                raise UserError(f"{self.path}: OpenCV cannot write this video ({CODEC}, {size[0]} x {size[1]})")
        if size != self._size:
            raise UserError(f"{self.path}: frame {self.length} is {size} in size, those before it are {self._size}")
        times = 1 if until is None else round(until * self.rate) - self.length
        for _ in range(times):
            with _quiet():
                self._writer.write(frame)
            self.length += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        try:
            with _quiet():
                self._writer.release()
            if kind is None and self.length:
                with _writing(self.path):
                    self._check()
                    os.replace(self._unfinished, self.path)
        finally:
            self._unfinished.unlink(missing_ok=True)

    def _check(self) -> None:
        """Raise UserError or OSError if not all frames are in the file: OpenCV's writer does not say when it fails.

        The header is written last and the first error ends all writing, so that what the header says and the last
        frame tell of the whole; to decode everything again would take as long as to write it. Where OpenCV has no
        FFmpeg, whose counts are exact, nothing is compared.
        """
        with self._unfinished.open("rb") as file:
            os.fsync(file.fileno())
        if cv2.CAP_FFMPEG not in cv2.videoio_registry.getBackends():
            return
        with _quiet():
            film = cv2.VideoCapture(str(self._unfinished))
            count = int(film.get(cv2.CAP_PROP_FRAME_COUNT))
            film.set(cv2.CAP_PROP_POS_FRAMES, self.length - 1)
            whole = count == self.length and film.read()[0]
            film.release()
        if not whole:
            raise UserError(
                f"{self.path}: cannot write, not all of the {self.length} frames are there afterwards: the disk may be "
                "full; what stood there is untouched"
            )


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror}); what stood there is untouched") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what OpenCV says on the console of each frame that it cannot write."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


class Window:
    """A window that shows pictures until q is pressed. Raises UserError where there is none to be had."""

    TITLE = "TransPose (q closes)"

    def __init__(self) -> None:
        # Without a display the toolkit would not complain but end the process.
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserError("--show: there is no display here (DISPLAY is not set); leave it out and look at the files")
        try:
            cv2.namedWindow(self.TITLE, cv2.WINDOW_NORMAL)
        except cv2.error:
            raise UserError(
                "--show: this OpenCV was built without windows; pip uninstall opencv-python-headless, then "
                "pip install opencv-python"
            ) from None
        self.closed = False

    def show(self, picture: np.ndarray, wait: bool = False) -> None:
        """Show a picture, until a key is pressed if it is to `wait`; nothing once the window is closed."""
        if self.closed:
            return
        cv2.imshow(self.TITLE, picture)
        if cv2.waitKey(0 if wait else 1) & 0xFF == ord("q"):
            cv2.destroyWindow(self.TITLE)
            self.closed = True
