"""What predict writes: the results of images and of videos, in the formats that are asked for."""

import argparse
import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli
from ..errors import UserError, until_error

if TYPE_CHECKING:
    from ..predictor.inputs import Numbering
    from ..predictor.predictor import Predictor
    from ..predictor.video import Camera, FrameBoxes, Video
    from .window import Window

OF_IMAGES = {"image": ".jpg", "json": ".json"}  # a file each
OF_ALL_IMAGES = {"csv": ["keypoints.csv"], "coco": ["keypoints.json", "images.json"]}
OF_VIDEOS = {"video": ".mp4", "json": ".jsonl", "csv": ".csv"}
NOT_IN_RESULTS = ("sources", "model", "device", "out", "overwrite", "show")  # options on which no result depends
FORMS = list(dict.fromkeys([*OF_IMAGES, *OF_ALL_IMAGES, *OF_VIDEOS]))


@dataclass(frozen=True)
class GivenBoxes:
    """The images' ids, and the given boxes and scores: of each image, and of each frame of a video."""

    numbers: "Numbering"
    of_images: "list[tuple] | None" = None
    of_frame: "FrameBoxes | None" = None


@dataclass(frozen=True)
class Plan:
    """What is written: the formats, and a unique name for each source."""

    forms: list[str]
    images: dict[Path, str]
    videos: dict[Path | str | int, str]  # and addresses and cameras

    def of_images(self, out: Path) -> list[Path]:
        """Every file that is written for the images."""
        of_all = [out / name for form in self.forms for name in OF_ALL_IMAGES.get(form, [])]
        return self._own(out, self.images.values(), OF_IMAGES) + (of_all if self.images else [])

    def of_videos(self, out: Path) -> list[Path]:
        """Every file that is written for the videos."""
        return self._own(out, self.videos.values(), OF_VIDEOS)

    def _own(self, out: Path, names: Iterable[str], endings: dict[str, str]) -> list[Path]:
        own = [ending for form, ending in endings.items() if form in self.forms]
        return [out / f"{name}{ending}" for name in names for ending in own]


def save_images(
    given: argparse.Namespace,
    plan: Plan,
    predictor: "Predictor",
    boxes: GivenBoxes,
    window: "Window | None",
    failures: cli.Failures,
) -> int:
    """Predict images, with persons of different images in one batch, and save the results under the images' names;
    returns the number of images that are done. Several processes share the images, and the first one joins their
    results; it alone returns a number above 0.

    What cannot be written is passed over and keeps the folder of parts, so that the same command tries it again.
    """
    from ..predictor import shared
    from ..predictor.image import InputImage
    from ..predictor.inputs import image_list
    from ..runtime import distributed, log
    from ..runtime.files import write_text

    numbers, options, turned = boxes.numbers, cli.drawing(given), not given.ignore_exif
    rows = list(zip(numbers.files, numbers.names, numbers.ids, numbers.sizes, strict=True))
    columns = list(zip(*boxes.of_images, strict=True)) if boxes.of_images else []

    def find(chunk: slice) -> dict[str, Any]:
        """Save what is one image's; returns what goes into the files of all images."""
        errors, unwritten, saved = list[UserError](), cli.Failures(), 0
        table, entries, listed = list[str](), list[dict](), list[tuple]()
        files = [InputImage(file, str(file), oriented=turned, size=size) for file, _, _, size in rows[chunk]]
        known = {file: (name, number) for file, name, number, _ in rows[chunk]}
        own = [column[chunk] for column in columns]
        stream = predictor.stream(files, *own, found=bool(given.boxes), on_error=errors.append)
        for result in progress.follow(stream):
            file = result.image.source
            name, number = known[file]
            with unwritten.passing_over():
                if "image" in plan.forms:
                    result.write(given.out / f"{plan.images[file]}.jpg", options)
                if "json" in plan.forms:
                    write_text(given.out / f"{plan.images[file]}.json", result.to_json())
                saved += bool({"image", "json"} & set(plan.forms))
            if window is not None:
                window.show(result.picture(options), wait=True)
            table.append(result.to_csv(header=not table))
            entries += result.to_coco(number, numbers.category["id"])
            listed.append((name, number, result.size))
        return {
            "coco": entries if "coco" in plan.forms else [],
            "csv": "".join(table) if "csv" in plan.forms else "",
            "images": image_list(listed, numbers.category, turned)["images"],
            "found": len(entries),
            "saved": saved,
            "errors": [str(error) for error in errors],
            shared.UNWRITTEN: [str(error) for error in unwritten.errors],
        }

    wanted = {name: value for name, value in vars(given).items() if name not in NOT_IN_RESULTS}
    how = shared.dependence(wanted, rows) | {"--model": shared.of_network(predictor)}
    parts = shared.Parts(given.out / shared.PARTS, how, len(rows), predictor.batch_size, given.overwrite)
    with log.Progress(parts.length, "images", hidden=distributed.rank() > 0) as progress:
        if not parts.fill(find):
            return 0
    saved, found, images, unwritten = 0, 0, 0, cli.Failures()
    for part in parts:
        saved, found, images = saved + part["saved"], found + part["found"], images + len(part["images"])
        failures.errors += map(UserError, part["errors"])
        unwritten.errors += map(UserError, part[shared.UNWRITTEN])
    if images and "csv" in plan.forms:
        with unwritten.passing_over():
            shared.write_tables(given.out / "keypoints.csv", (part["csv"] for part in parts))
            saved += 1
    if images and "coco" in plan.forms:
        with unwritten.passing_over():
            shared.write_lists(given.out / "keypoints.json", (part["coco"] for part in parts))
            around = json.dumps(image_list([], numbers.category, turned))
            shared.write_lists(given.out / "images.json", (part["images"] for part in parts), around)
            saved += 1
    failures.errors += unwritten.errors
    if not unwritten.errors:
        parts.remove()
    if images:
        log.logger.info("%s: %d %s(s) in %d image(s)", given.out, found, predictor.skeleton.noun, images)
    return saved


def save_video(
    given: argparse.Namespace,
    predictor: "Predictor",
    video: "Video | Camera",
    target: Path,
    forms: list[str],
    window: "Window | None",
    boxes: "FrameBoxes | None" = None,
) -> None:
    """Predict a video until it ends, or what a camera sees until Ctrl-C or q, and save what is asked for.

    If a frame cannot be used, the results of those before it are saved before the error is raised.
    """
    from ..predictor import inputs
    from ..predictor.video import Recording, predict_video
    from ..runtime import log
    from ..runtime.files import write_text

    table, lines, saved = list[str](), list[str](), list[str]()
    persons = frames = 0
    errors, failed = list[UserError](), cli.Failures()  # of the frames; of the files
    options, begun = cli.drawing(given), time.monotonic()
    how = {"detect_every": given.detect_every, "track": given.track, "smooth": given.smooth}
    stream = predict_video(predictor, video, boxes=boxes, **how)
    files = {form: Path(f"{target}{ending}") for form, ending in OF_VIDEOS.items()}  # a name may contain dots
    recording = Recording(files["video"], video.rate, video.time_base) if "video" in forms else None
    try:
        with (
            recording or contextlib.nullcontext(),
            log.Progress(video.length, video.name) as progress,
            cli.until_interrupted() if video.live else contextlib.nullcontext(),
        ):
            for result in until_error(progress.follow(stream), errors):
                if recording or window:
                    picture = result.picture(options)
                if recording:
                    recording.add(picture, result.image.frame.time)
                if "json" in forms:
                    lines += [json.dumps(result.header())] if not lines else []
                    lines.append(json.dumps(result.found(), allow_nan=False))
                if "csv" in forms:
                    table.append(result.to_csv(header=not table))
                persons, frames = persons + len(result), frames + 1
                if window:
                    window.show(picture)
                    if video.live and window.closed:
                        break
    except UserError as error:
        if not frames:
            raise
        failed.errors.append(error)
    if errors and not frames:
        raise errors[0]
    for form, text in (("json", "".join(f"{line}\n" for line in lines)), ("csv", "".join(table))):
        if form in forms:
            with failed.passing_over():
                write_text(files[form], text)
                saved.append(str(files[form]))
    complete = not errors and not failed.errors
    too_short = complete and video.length and frames < video.length
    if isinstance(boxes, inputs.ListedBoxes) and complete and not too_short and not video.live:
        with failed.passing_over():
            boxes.expect_frames(frames)
    if too_short:
        log.logger.warning(
            "%s: only %d of the %d frames that the file announces could be read; their results are saved",
            *(video.name, frames, video.length),
        )
    log.logger.info(
        "%s: %d %s(s) in %d frame(s) of %s, %.1f frames/s",
        *(target.parent, persons, predictor.skeleton.noun, frames, video.name, frames / (time.monotonic() - begun)),
    )
    problems = [*(inputs.cut_short(error, frames) for error in errors), *failed.errors]
    if problems:
        kept = f"; saved: {' '.join(saved)}" if failed.errors and saved else ""
        raise UserError("; ".join(map(str, problems)) + kept)
