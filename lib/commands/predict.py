"""Find keypoints: python tools/predict.py SOURCE… --model NAME|FOLDER|FILE [--boxes FILE] [--out DIR]"""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli
from ..errors import UserError, until_error

if TYPE_CHECKING:
    from ..predictor.inputs import Numbering, Sources
    from ..predictor.predictor import Predictor
    from ..predictor.video import Camera, FrameBoxes, Video
    from .window import Window

OF_IMAGES = {"image": ".jpg", "json": ".json"}  # a file each
OF_ALL_IMAGES = {"csv": ["keypoints.csv"], "coco": ["keypoints.json", "images.json"]}
OF_VIDEOS = {"video": ".mp4", "json": ".jsonl", "csv": ".csv"}
DETECTORS = ("yolox_nano", "yolox_tiny", "yolox_s", "fasterrcnn", "retinanet")
WHOLE_IMAGE = "whole-image"  # in place of a detector
NOT_IN_RESULTS = ("sources", "model", "device", "out", "overwrite", "show")  # options on which no result depends
FORMS = list(dict.fromkeys([*OF_IMAGES, *OF_ALL_IMAGES, *OF_VIDEOS]))


def add_detector(add: Callable[..., Any]) -> None:
    """The options that choose what finds the boxes, here and in visualize."""
    add(
        "--detector",
        choices=(*DETECTORS, WHOLE_IMAGE),
        help=f"detector; whole-image: each image is one box (default: {DETECTORS[0]})",
    )
    add("--detector-class", metavar="NAME", help="COCO class to detect (default: person)")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Find the keypoints of the persons in images and videos.")
    add = parser.add_argument
    what = 'image, folder, zip, list (@FILE), pattern ("a/**/*.jpg"), video, its address (http, rtsp) or camera number'
    add("sources", nargs="+", metavar="SOURCE", help=what)
    add("--model", required=True, help="released model (tp_r_a4 …), output folder of a run, or checkpoint")
    add("--cfg", type=Path, metavar="YAML", help="configuration of a checkpoint that is outside its run's folder")
    add(
        "--out",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )
    add(
        "--save",
        nargs="+",
        action="extend",
        choices=FORMS,
        metavar="FORMAT",
        help=f"any of {', '.join(FORMS)} (default: image; for videos, video)",
    )
    add("--track", action="store_true", help="videos: give each person an id that stays the same from frame to frame")
    add("--smooth", action="store_true", help="videos: track, and smooth the keypoints over time")
    add("--overwrite", action="store_true", help="replace existing results")
    add("--show", action="store_true", help="show the results in a window; q closes it, and stops a camera")
    cli.add_drawing(parser)
    boxes = parser.add_argument_group("bounding boxes: given, or found by a detector")
    add = boxes.add_argument
    add(
        "--box",
        action="append",
        metavar="X,Y,W,H",
        help="a box in pixels, used in every image and frame; may be repeated; --box=-5,… if X is negative",
    )
    add("--boxes", type=Path, metavar="FILE", help="COCO detections (of tools/detect.py) or annotations with the boxes")
    add("--annotations", type=Path, metavar="FILE", help="COCO annotation file that gives the images their ids")
    add_detector(add)
    add(
        "--detect-every",
        type=int,
        default=1,
        metavar="N",
        help="videos: run the detector in every Nth frame (default: %(default)s)",
    )
    add(
        "--box-score",
        type=float,
        metavar="S",
        help="leave out boxes with a lower score (default: 0.3 with YOLOX, else 0.5)",
    )
    add(
        *("--max-instances", "--most-persons"),  # the second is the old name
        type=int,
        default=100,
        metavar="N",
        help="refuse an image with more persons (default: %(default)s)",
    )
    cli.add_reading(add)
    how = parser.add_argument_group("how the network is run (default: as its recipe tests it)")
    add = how.add_argument
    add(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="flip test: average with the heatmaps of the mirrored crop",
    )
    add("--kernel", type=int, metavar="N", help="kernel size of DARK's blur, odd")
    add("--batch", type=int, metavar="N", help="persons in a batch")
    add("--precision", default="float32", help="float32, bfloat16, float16 or auto (default: %(default)s)")
    add("--backend", default="pytorch", help="pytorch, openvino or onnxruntime (default: %(default)s)")
    add("--compile", action="store_true", help="compile the network (torch.compile)")
    cli.add_device(add)
    given = parser.parse_args(argv)
    given.box = [box_from(text) for text in given.box or ()]  # before any weights are downloaded
    return given


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(argv)

    from ..predictor import inputs
    from ..predictor.detector import TORCHVISION, detector_for
    from ..predictor.video import Camera, Video
    from ..runtime import distributed, log
    from .window import Window

    log.start(quiet=distributed.rank() > 0)
    cli.drawing(given)  # refuses unknown drawing options at once
    failures, videos = cli.Failures(), {}
    sources = inputs.expand(given.sources, failures.errors.append)
    plan = make_plan(given, sources)
    for source, name in plan.videos.items():
        with failures.passing_over():
            videos[name] = Camera(source) if isinstance(source, int) else Video(source)
    if not plan.images and not videos:
        failures.end(done=0)
    window = Window() if given.show else None
    predictor = make_predictor(given)
    category = predictor.skeleton.category
    boxes = choose_boxes(given, sources, category, failures)
    if not (given.box or given.boxes):  # last, as it may have to be downloaded
        wanted = given.detector, given.detector_class, given.box_score
        device = distributed.own_device(given.device) if given.detector in TORCHVISION else given.device
        predictor.detector = detector_for(category, *wanted, device=device)
    done = save_images(given, plan, predictor, boxes, window, failures) if plan.images else 0
    for name, video in videos.items():
        with failures.passing_over():
            save_video(given, predictor, video, given.out / name, plan.forms, window, boxes.of_frame)
            done += 1
    if distributed.rank() == 0:  # which has joined what all found
        failures.end(done)


@dataclass(frozen=True)
class GivenBoxes:
    """The images' ids, and the given boxes and scores: of each image, and of each frame of a video."""

    numbers: "Numbering"
    of_images: "list[tuple] | None" = None
    of_frame: "FrameBoxes | None" = None


def choose_boxes(given: argparse.Namespace, sources: "Sources", category: str, failures: cli.Failures) -> GivenBoxes:
    """Raises UserError for a file that is malformed or belongs to other images."""
    from ..predictor import inputs

    lowest, listed = 0.5 if given.box_score is None else given.box_score, given.annotations
    if given.boxes and not listed:
        beside = inputs.list_beside(given.boxes)
        listed = given.boxes if inputs.is_annotation_file(given.boxes) else beside if beside.exists() else None
    if given.boxes and not sources.images:
        of_frame = inputs.read_frame_boxes(given.boxes, category, lowest)
        return GivenBoxes(inputs.numbering(sources), of_frame=of_frame)
    numbers = inputs.numbering(sources, listed, category, failures.errors.append)
    if sources.images and not numbers.files:
        failures.end(done=0)
    numbers.refuse_otherwise_turned(not given.ignore_exif)
    if given.boxes:
        return GivenBoxes(numbers, inputs.read_boxes(given.boxes, numbers, lowest))
    if given.box:
        own = given.box, None
        return GivenBoxes(numbers, [own] * len(numbers.files), lambda frame: own)
    return GivenBoxes(numbers)


def box_from(text: str) -> list[float]:
    """Raises UserError for text that is not a box."""
    try:
        x, y, w, h = (float(number) for number in text.split(","))
    except ValueError:
        raise UserError(f"--box must be X,Y,W,H, four numbers in pixels, not {text!r}") from None
    return [x, y, w, h]


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


def make_plan(given: argparse.Namespace, sources: "Sources") -> Plan:
    """Raises UserError if a format does not fit the sources, or a result would replace a file or a source."""
    from ..predictor import inputs
    from ..predictor.shared import PARTS, is_unfinished
    from ..runtime import distributed

    if given.box and given.boxes:
        raise UserError("--box and --boxes cannot be used together; pass one of the two")
    if given.box_score is not None and not 0 <= given.box_score <= 1:
        raise UserError(f"--box-score must be between 0 and 1, not {given.box_score:g}")
    if given.detect_every < 1:
        raise UserError(f"--detect-every must be 1 or more, not {given.detect_every}")
    if given.box or given.boxes:
        wanted = {"detector": given.detector, "detector-class": given.detector_class}
        refuse_detector("--box" if given.box else "--boxes", wanted | {"detect-every": given.detect_every > 1})
    videos: list[Path | str | int] = [*sources.videos, *sources.cameras]
    only_videos = {"track": given.track, "smooth": given.smooth, "detect-every": given.detect_every > 1}
    for name, wanted in only_videos.items():
        if wanted and not videos and sources.images:
            raise UserError(f"--{name} is for videos, and {sources.images[0]} is an image; leave it out")
    if videos and distributed.world() > 1:
        raise UserError(
            f"{videos[0]}: images are shared out over processes, videos are not: predict them without torchrun"
        )
    if given.boxes and videos and len(sources.images) + len(videos) > 1:
        raise UserError("--boxes belongs to images or to the frames of one video; run the command once for each")
    forms = given.save or ["image", "video"]
    own = {"image": sources.images, "video": videos}  # each has a format that the other cannot have
    for some, fitting in ((sources.images, OF_IMAGES | OF_ALL_IMAGES), (videos, OF_VIDEOS)):
        wrong = [form for form in given.save or () if form not in fitting and not own.get(form)]
        if some and (wrong or not set(forms) & set(fitting)):
            raise UserError(f"--save {' '.join(wrong or forms)}: the formats for {some[0]} are {', '.join(fitting)}")
    names = inputs.result_names(
        [*sources.images, *videos], [Path(name).stem for files in OF_ALL_IMAGES.values() for name in files]
    )
    count = len(sources.images)
    plan = Plan(
        forms,
        dict(zip(sources.images, names[:count], strict=True)),
        dict(zip(videos, names[count:], strict=True)),
    )

    planned = plan.of_images(given.out) + plan.of_videos(given.out)
    there = [path for path in planned if path.exists()]
    read = [file for file in [*sources.images, *sources.videos] if isinstance(file, Path) and file.exists()]
    files = {(status.st_dev, status.st_ino) for status in map(os.stat, read)}
    for path in there:
        if (path.stat().st_dev, path.stat().st_ino) in files:  # by another spelling too, where case does not count
            raise UserError(f"{path}: the result would replace one of the sources; choose another folder with --out")
    if is_unfinished(given.out / PARTS):  # its images' results are there, and are no others
        there = [path for path in plan.of_videos(given.out) if path.exists()]
    if there and not given.overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(
            f"{there[0]}{more}: exists already; pass --overwrite to replace it, or choose another folder with --out"
        )
    return plan


def refuse_detector(given_by: str, wanted: dict[str, object]) -> None:
    """Raise UserError if a detector's option is `wanted` although the option `given_by` gives the boxes."""
    for name, value in wanted.items():
        if value:
            raise UserError(f"--{name}: no detector runs, because {given_by} gives the boxes; pass one of the two")


def make_predictor(given: argparse.Namespace) -> "Predictor":
    from ..models.backends import usable_device
    from ..predictor.export import Exported
    from ..predictor.predictor import Predictor, trained_network
    from ..runtime import distributed

    if given.device:  # before any weights are downloaded
        usable_device(distributed.own_device(given.device))
    trained = trained_network(given.model, given.cfg)
    return Predictor(
        trained,
        flip_test=given.flip,
        kernel_size=given.kernel,
        batch_size=given.batch,
        precision=given.precision,
        backend=given.backend,
        compiled=given.compile,
        device=given.device if isinstance(trained, Exported) else distributed.own_device(given.device),
        max_instances=given.max_instances,
        max_pixels=given.max_pixels,
    )


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
