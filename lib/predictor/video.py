"""Videos and cameras -> frames -> a video. Files and addresses by PyAV, cameras by OpenCV.

Frames are uint8 BGR (H, W, 3), upright; times are seconds since the first frame.
"""

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import islice, tee
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import UserError, needs
from ..runtime.ahead import ahead
from ..runtime.files import open_to_read
from .image import Frame, InputImage
from .predictor import Predictor
from .result import PoseResult
from .tracker import Tracker

logger = logging.getLogger(__name__)

# FFmpeg's names for the formats of `inputs.VIDEOS`. Its text formats are left out: they can name other files or hosts.
CONTAINERS = "mov,mp4,avi,matroska,webm,mpeg,mpegts,mpegvideo,asf"
# Scheme of an address -> the formats and protocols that may read it.
ADDRESSES = {"http": (CONTAINERS, "http,https,tcp,tls"), "rtsp": ("rtsp,sdp", "rtsp,rtsps,rtp,udp,tcp,tls")}
MAX_PIXELS = 2**25  # of a frame, 8192 x 4096: a decoder keeps up to some twenty of them
# Half the time of x264's defaults at nearly their quality; files are about a quarter larger.
ENCODING = {"preset": "veryfast", "crf": "20"}
SECONDS = 20  # without an answer from an address, in seconds
WAITING = 2**27  # bytes of the frames that wait for one stage
FEWEST_WAITING, MOST_WAITING = 4, 32  # frames
GROWTH = 4  # of a frame beside the stated size, at most: else more bytes would wait
SEEN = 0.2  # lowest score of a keypoint that the next frame's box is computed from
USUAL_RATE = Fraction(30)  # frames per second of a video or camera that does not state it


def _usable(rate: Any) -> Fraction:
    return Fraction(rate).limit_denominator(1001) if rate and 0 < rate < 1000 else USUAL_RATE


class Video:
    """A video file, or the address (a string) of a video (http, https) or a camera (rtsp, rtsps).

    Raises UserError if there is no video in it. Whatever a file contains, it cannot make the program open another file
    or an address; an address cannot make it open a file.
    """

    def __init__(self, source: Path | str):
        if isinstance(source, str):
            scheme, separator, rest = source.partition("://")
            known = separator and scheme.lower().rstrip("s") in ADDRESSES
            source = f"{scheme.lower()}://{rest}" if known else Path(source)
        # Without a password that may be in the address.
        self.name = re.sub("//[^/@]*@", "//", source) if isinstance(source, str) else str(source)
        self.live = isinstance(source, str) and source.startswith("rtsp")
        place = f"file:{source}"  # else a name such as "concat:a|b.mp4" would be a command to FFmpeg
        formats, protocols, options = CONTAINERS, "file", {}
        limit = {"max_pixels": str(MAX_PIXELS)}  # of the decoder: the first frames are read when a file is opened
        if isinstance(source, str):
            place, (formats, protocols), options = source, ADDRESSES[source[:4]], {"timeout": (SECONDS, SECONDS)}
        self._av = needs("av", extra="video")
        try:
            if isinstance(source, Path):
                open_to_read(source).close()
            self._file = self._av.open(
                place,
                options=limit,
                container_options={"format_whitelist": formats, "protocol_whitelist": protocols},
                **options,
            )
        except (OSError, self._av.FFmpegError) as error:
            raise UserError(f"{self.name}: cannot be opened as a video ({error.strerror})") from None
        self._stream = self._file.streams.best("video")
        if self._stream is None:
            raise UserError(f"{self.name}: cannot be opened as a video (it has only sound or text)")
        codec = self._stream.codec_context
        self.frame_bytes = 3 * (codec.width * codec.height or MAX_PIXELS)  # as stated, if it is
        if codec.width * codec.height > MAX_PIXELS:
            size = f"its frames are {codec.width} x {codec.height}, and {MAX_PIXELS:,} pixels are the most that is read"
            raise UserError(f"{self.name}: refused before decoding, {size}")
        codec.options = limit  # for frames whose size changes
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate, self.time_base = _usable(rate), self._stream.time_base
        seconds = (self._stream.duration or 0) * self.time_base or Fraction(self._file.duration or 0, 1_000_000)
        # As the file states; the true number is known only at its end.
        self.length: int | None = self._stream.frames or round(seconds * self.rate) or None

    def frames(self) -> Iterator[tuple[np.ndarray, float]]:
        """Each frame and its time. Raises UserError if there is no frame."""
        first = None
        with self._file:
            for number, frame in enumerate(self._decoded()):
                seconds = float(number / self.rate) if frame.time is None else frame.time
                first = seconds if first is None else first
                if 3 * frame.width * frame.height > max(GROWTH * self.frame_bytes, WAITING // MOST_WAITING):
                    size = f"{frame.width} x {frame.height}, more than {GROWTH} times the size that the file states"
                    raise UserError(f"{self.name}: frame {number} is {size}")
                upright = np.rot90(frame.to_ndarray(format="bgr24"), frame.rotation // 90)
                yield np.ascontiguousarray(upright), seconds - first
        if first is None:
            raise UserError(f"{self.name}: not a single frame can be read")

    def _decoded(self) -> Iterator[Any]:
        damaged = 0
        packets = self._file.demux(self._stream)
        while True:
            try:
                yield from next(packets).decode()
            except StopIteration:
                break
            except self._av.FFmpegError:
                damaged += 1
        if damaged:
            logger.warning("%s: what %d damaged packet(s) hold is left out", self.name, damaged)


class Camera:
    """A camera, chosen by its number. Raises UserError if it cannot be opened."""

    live, length, time_base = True, None, Fraction(1, 1000)

    def __init__(self, number: int):
        self.name = f"camera {number}"
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise UserError(f"{self.name}: cannot be opened; it does not exist, or another program uses it")
        self.rate = _usable(self._capture.get(cv2.CAP_PROP_FPS))

    def frames(self) -> Iterator[tuple[np.ndarray, float]]:
        """Each frame and its time, until the camera stops. Raises UserError if there is no frame."""
        begun = None
        try:
            while (read := self._capture.read())[0]:
                begun = time.monotonic() if begun is None else begun
                yield read[1], time.monotonic() - begun
        finally:
            self._capture.release()
        if begun is None:
            raise UserError(f"{self.name}: not a single frame can be read")


class Recording(contextlib.AbstractContextManager):
    """An .mp4 (H.264, no sound) that appears at `path` only when it is complete, and not if an exception occurs.

    `rate` is the approximate frame rate (frames per second); times are rounded to multiples of `time_base` (seconds).
    Raises UserError if the file cannot be written completely, as on a full disk, or cannot be moved to `path`.
    """

    def __init__(self, path: Path, rate: Fraction, time_base: Fraction = Fraction(1, 90_000)):
        self.path, self.rate, self.time_base, self.length = path, rate, time_base, 0
        self._av = needs("av", extra="video")
        self._unfinished = path.with_name(f".{path.stem}.part{path.suffix}")
        self._file: Any = None
        self._size = (0, 0)
        self._last = -1  # time of the last frame, in units of `time_base`

    def add(self, frame: np.ndarray, seconds: float) -> None:
        """Append a frame, of the first frame's size, shown from `seconds` on. Odd sides are padded by one pixel."""
        size = frame.shape[1], frame.shape[0]
        odd = size[0] % 2, size[1] % 2  # 4:2:0 has one colour for 2 x 2 pixels
        with self._writing():
            if self._file is None:
                self._open(size[0] + odd[0], size[1] + odd[1])
                self._size = size
            if size != self._size:
                raise UserError(
                    f"{self.path}: frame {self.length} has the size {size}, but the frames before it have {self._size}"
                )
            even = cv2.copyMakeBorder(frame, 0, odd[1], 0, odd[0], cv2.BORDER_REPLICATE)
            picture = self._av.VideoFrame.from_ndarray(even, format="bgr24")
            self._last = picture.pts = max(round(seconds / self.time_base), self._last + 1)
            picture.time_base = self.time_base
            self._file.mux(self._stream.encode(picture))
        self.length += 1

    def _open(self, width: int, height: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The index comes first, so that a browser can play the file while it loads.
        options = {"movflags": "+faststart"}
        self._file = self._av.open(f"file:{self._unfinished}", "w", format="mp4", container_options=options)
        self._stream = self._file.add_stream(
            "libx264", rate=self.rate, width=width, height=height, pix_fmt="yuv420p", options=ENCODING
        )
        self._stream.codec_context.time_base = self.time_base

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if self._file is None:
            return
        try:
            if kind is None:
                with self._writing():
                    self._file.mux(self._stream.encode())
                    self._file.close()
                    with self._unfinished.open("rb") as file:
                        os.fsync(file.fileno())
                    os.replace(self._unfinished, self.path)
        finally:
            with contextlib.suppress(self._av.FFmpegError):  # which may raise the same error again
                self._file.close()
            self._unfinished.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, self._av.FFmpegError) as error:
            raise UserError(f"{self.path}: cannot write ({error.strerror}); an existing file is unchanged") from None


FrameBoxes = Callable[[int], tuple[Any, Any]]  # a frame's number -> boxes (N, 4) and scores (N)
Located = tuple[
    InputImage, Any, Any
]  # a frame, its boxes and scores; None: they follow from the pose in the frame before


def predict_video(
    predictor: Predictor,
    video: Video | Camera,
    *,
    boxes: FrameBoxes | None = None,
    detect_every: int = 1,
    track: bool = False,
    smooth: bool = False,
) -> Iterator[PoseResult]:
    """The result of each frame. Reading, detection and pose estimation run in parallel, except for a live camera.

    `boxes` are given, or the detector finds them in every `detect_every`-th frame; in the frames between, they follow
    from the last pose (`carried`). `track` gives persons ids, and `smooth` also smooths their keypoints.
    """
    # Some frames show many persons: a stage that they hold up is not to hold up the others.
    at_once: Callable[[Iterator], Iterator] = iter
    if isinstance(video, Video) and not video.live:
        most = min(max(WAITING // video.frame_bytes, FEWEST_WAITING), MOST_WAITING)
        at_once = partial(ahead, most=most)
    located = at_once(_located(predictor, video, at_once(video.frames()), boxes, detect_every))
    results = at_once(_estimated(predictor, located, one_by_one=video.live or detect_every > 1))
    if track or smooth:
        results = map(Tracker(float(video.rate), smooth=smooth), results)
    return results


def _located(
    predictor: Predictor,
    video: Video | Camera,
    frames: Iterator[tuple[np.ndarray, float]],
    boxes: FrameBoxes | None,
    detect_every: int,
) -> Iterator[Located]:
    """The frames with their boxes. A detector gets a few frames at a time, of a live camera one."""
    numbered = enumerate(frames)
    count = 1 if video.live else getattr(predictor.detector, "batch_size", 1)
    while group := list(islice(numbered, count)):
        asked = [pixels for number, (pixels, _) in group if not boxes and number % detect_every == 0]
        found = iter(predictor.detect(asked) if asked else ())
        for number, (pixels, seconds) in group:
            image = InputImage(pixels, f"{video.name} frame {number}", "BGR", frame=Frame(video.name, number, seconds))
            yield image, *(boxes(number) if boxes else next(found) if number % detect_every == 0 else (None, None))


def _estimated(predictor: Predictor, located: Iterator[Located], one_by_one: bool) -> Iterator[PoseResult]:
    if not one_by_one:
        images, boxes, scores = (map(itemgetter(place), row) for place, row in enumerate(tee(located, 3)))
        yield from predictor.stream(images, boxes, scores, found=True)
    result: PoseResult | None = None
    for image, *row in located:
        own: Sequence[Any] = row
        if row[0] is None:
            assert result is not None  # the first frame has boxes
            own = carried(result)
        (result,) = predictor.stream([image], *([column] for column in own), found=True)
        yield result


def carried(result: PoseResult) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) and scores (N) for the next frame: the box around the visible keypoints, enlarged by 15 %, as in
    the tracker of Xiao, Wu and Wei (ECCV 2018). Persons with fewer than three visible keypoints are dropped."""
    boxes, scores = [], []
    for pose in result:
        points = pose.keypoints[
            (pose.scores >= SEEN) & (pose.keypoints > 0).all(1) & (pose.keypoints < result.size).all(1)
        ]
        if len(points) >= 3 and (np.ptp(points, 0) >= 1).all():
            sides = 1.15 * np.ptp(points, 0)
            boxes.append([*((points.min(0) + points.max(0) - sides) / 2), *sides])
            scores.append(pose.box_score)
    return np.reshape(boxes, (-1, 4)), np.array(scores)
