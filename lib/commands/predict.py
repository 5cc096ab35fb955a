"""Find keypoints: python tools/predict.py SOURCE… --model NAME|FOLDER|FILE [--boxes FILE] [--out DIR]"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli
from ..errors import UserError
from .results import FORMS, OF_ALL_IMAGES, OF_IMAGES, OF_VIDEOS, GivenBoxes, Plan, save_images, save_video

if TYPE_CHECKING:
    from ..predictor.inputs import Sources
    from ..predictor.predictor import Predictor

DETECTORS = ("yolox_nano", "yolox_tiny", "yolox_s", "fasterrcnn", "retinanet")
WHOLE_IMAGE = "whole-image"  # in place of a detector


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
