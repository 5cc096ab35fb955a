"""Find people: python tools/predict.py SOURCE… --model NAME|FOLDER|FILE [--boxes FILE] [--out DIR] [--save FORM …]"""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ..predictor.inputs import Numbering, Sources
    from ..predictor.predictor import Predictor
    from ..predictor.video import Video, Window

OF_PHOTOGRAPHS = {"image": ".jpg", "json": ".json"}  # a file each
OF_ALL_PHOTOGRAPHS = {"csv": ["keypoints.csv"], "coco": ["keypoints.json", "images.json"]}
OF_VIDEOS = {"video": ".mp4", "json": ".jsonl", "csv": ".csv"}
DETECTORS = ("fasterrcnn", "retinanet", "whole-image")
FORMS = list(dict.fromkeys([*OF_PHOTOGRAPHS, *OF_ALL_PHOTOGRAPHS, *OF_VIDEOS]))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Find the keypoints of the people in photographs and videos.")
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help='photograph, folder, pattern ("a/**/*.jpg"), video, camera number')
    add("--model", required=True, help="name of the zoo (tp_r_a4), output folder of a run, or checkpoint")
    add("--cfg", type=Path, metavar="YAML", help="what a checkpoint outside of its run's folder was trained with")
    add("--out", type=Path, default=Path("predictions"), metavar="DIR", help="where results go (%(default)s)")
    add("--save", nargs="+", choices=FORMS, metavar="FORM", help=f"of {', '.join(FORMS)}; else image, of a video video")
    add("--track", action="store_true", help="of a video: give persons ids that stay theirs")
    add("--smooth", action="store_true", help="of a video: track, and smooth the keypoints over time")
    add("--overwrite", action="store_true", help="replace results that are there already")
    add("--show", action="store_true", help="show the pictures in a window; q closes it and ends a camera")
    add("--threshold", type=float, default=0.2, metavar="T", help="draw keypoints scored so or more (%(default)s)")
    boxes = parser.add_argument_group("boxes")
    add = boxes.add_argument
    add("--boxes", type=Path, metavar="FILE", help="COCO detection JSON (tools/detect.py), in place of a detector")
    add("--annotations", type=Path, metavar="FILE", help="COCO annotation file that gives the photographs their ids")
    add("--detector", default=DETECTORS[0], choices=DETECTORS, help="whole-image: one person each (%(default)s)")
    add("--box-score", type=float, default=0.5, metavar="S", help="leave out boxes scored less (%(default)s)")
    add("--most-persons", type=int, default=100, metavar="N", help="refuse an image with more (%(default)s)")
    add("--max-pixels", type=int, metavar="N", help="refuse a file with more, before it is decoded (134 million)")
    add("--ignore-exif", action="store_true", help="do not turn photographs as EXIF says: COCO's annotations do not")
    how = parser.add_argument_group("how the network is run; by default as its recipe tests it")
    add = how.add_argument
    add("--flip", action=argparse.BooleanOptionalAction, help="average with the mirrored crop's heatmaps")
    add("--kernel", type=int, metavar="N", help="of DARK's blur, odd")
    add("--batch", type=int, metavar="N", help="persons at a time")
    add("--precision", default="float32", help="float32, bfloat16 or float16 (%(default)s)")
    add("--backend", default="pytorch", help="pytorch, openvino or onnxruntime (%(default)s)")
    add("--compile", action="store_true", help="torch.compile")
    add("--device", help="cpu, cuda, cuda:1 …; else a GPU if there is one")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(argv)

    from ..predictor import inputs
    from ..predictor.video import Video, Window
    from ..runtime import log

    log.start()
    found = inputs.expand(given.sources)
    forms = chosen_forms(given.save, found)
    names = result_names(found)
    check_results(given, found, names, forms)
    if given.boxes and (found.videos or found.cameras):
        raise UserError("--boxes is for photographs; the persons of a video or a camera are found by a detector")
    numbers = inputs.numbering(found.photographs, given.annotations)
    boxes = inputs.read_boxes(given.boxes, numbers, given.box_score) if given.boxes else []
    films_of: list[Path | int] = [*found.videos, *found.cameras]
    films = {names[source]: Video(source) for source in films_of}
    window = Window() if given.show else None
    predictor = make_predictor(given)
    if found.photographs:
        own_names = {file: names[file] for file in found.photographs}
        photographs(given, predictor, own_names, forms, numbers, boxes, window)
    for name, video in films.items():
        film(given, predictor, video, given.out / name, forms, window)


def chosen_forms(save: list[str] | None, found: "Sources") -> list[str]:
    """What is to be written. Raises UserError if there is nothing that fits some of the sources."""
    forms = save or ["image", "video"]
    for files, fitting in (
        (found.photographs, OF_PHOTOGRAPHS | OF_ALL_PHOTOGRAPHS),
        ([*found.videos, *found.cameras], OF_VIDEOS),
    ):
        if files and not set(forms) & set(fitting):
            raise UserError(f"--save {' '.join(forms)}: of {files[0]} can be saved: {', '.join(fitting)}")
    return forms


def result_names(found: "Sources") -> dict[Path | int, str]:
    """What the results of each source are called, no two alike."""
    from ..predictor import inputs

    everything: list[Path | int] = [*found.photographs, *found.videos, *found.cameras]
    stems = [Path(f"camera{source}") if isinstance(source, int) else source for source in everything]
    shared = [Path(name).stem for files in OF_ALL_PHOTOGRAPHS.values() for name in files]
    return dict(zip(everything, inputs.result_names(stems, shared), strict=True))


def check_results(given: argparse.Namespace, found: "Sources", names: dict[Path | int, str], forms: list[str]) -> None:
    """Raise UserError if a result would take the place of a file that is there, or of a source."""
    kinds: list[tuple[list, dict[str, str]]] = [
        (found.photographs, OF_PHOTOGRAPHS),
        ([*found.videos, *found.cameras], OF_VIDEOS),
    ]
    planned = [
        given.out / f"{names[source]}{ending}"
        for files, endings in kinds
        for source in files
        for form, ending in endings.items()
        if form in forms
    ]
    if found.photographs:
        planned += [given.out / name for form in forms for name in OF_ALL_PHOTOGRAPHS.get(form, [])]
    own = {os.path.realpath(file) for file in [*found.photographs, *found.videos]}
    for path in planned:
        if os.path.realpath(path) in own:
            raise UserError(f"{path}: this is one of the sources; choose another folder with --out")
    there = [path for path in planned if path.exists()]
    if there and not given.overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(
            f"{there[0]}{more}: there already; --overwrite replaces results, --out chooses another folder for them"
        )


def make_predictor(given: argparse.Namespace) -> "Predictor":
    from ..models.backends import usable_device
    from ..predictor.detector import Detector, whole_image
    from ..predictor.predictor import Predictor, trained_network

    usable_device(given.device)
    trained = trained_network(given.model, given.cfg)
    # The detector comes last: it may have to be downloaded, in vain if something here is wrong.
    predictor = Predictor(
        trained,
        flip_test=given.flip,
        kernel_size=given.kernel,
        batch_size=given.batch,
        precision=given.precision,
        backend=given.backend,
        compiled=given.compile,
        device=given.device,
        most_persons=given.most_persons,
        max_pixels=given.max_pixels,
    )
    if given.detector == "whole-image":
        predictor.detector = whole_image
    elif not given.boxes:
        predictor.detector = Detector(given.detector, threshold=given.box_score, device=given.device)
    return predictor


def photographs(
    given: argparse.Namespace,
    predictor: "Predictor",
    names: dict[Path, str],
    forms: list[str],
    numbers: "Numbering",
    boxes: "list[tuple[np.ndarray, np.ndarray]]",
    window: "Window | None",
) -> None:
    """Predict photographs, their persons batched together, and save what is asked for under their names."""
    from ..predictor import inputs
    from ..runtime import log

    files = list(names)
    stream = predictor.stream(files, *zip(*boxes, strict=True), oriented=not given.ignore_exif)
    table: list[str] = []
    results: list[dict] = []
    sizes: list[tuple[int, int]] = []
    broken = None
    with log.Progress(len(files), "photographs") as progress:
        pending = zip(files, numbers.ids, progress.follow(stream), strict=True)
        while True:
            try:
                file, number, people = next(pending)
            except StopIteration:
                break
            except UserError as error:
                if not sizes:
                    raise
                broken = inputs.cut_short(error, len(sizes), "photograph")
                break
            if "image" in forms:
                people.save(given.out / f"{names[file]}.jpg", given.threshold)
            if "json" in forms:
                write(given.out / f"{names[file]}.json", people.to_json())
            if window is not None:
                window.show(people.draw(given.threshold)[..., ::-1].copy(), wait=True)
            table.append(people.to_csv(header=not table))
            results += people.to_coco(number, numbers.category["id"])
            sizes.append(people.size)
    if "csv" in forms:
        write(given.out / "keypoints.csv", "".join(table))
    if "coco" in forms:
        write(given.out / "keypoints.json", json.dumps(results))
        write(given.out / "images.json", json.dumps(inputs.image_list(files, sizes, numbers)))
    log.logger.info("%s: %d person(s) on %d photograph(s)", given.out, len(results), len(sizes))
    if broken is not None:
        raise broken


def film(
    given: argparse.Namespace,
    predictor: "Predictor",
    video: "Video",
    target: Path,
    forms: list[str],
    window: "Window | None",
) -> None:
    """Predict a video until it ends, or what a camera sees until Ctrl-C or q, and save what is asked for.

    A user's mistake that shows after some frames ends it as well; what was made of them is saved before it is raised.
    """
    from ..predictor import inputs
    from ..predictor.image import InputImage
    from ..predictor.tracker import Tracker
    from ..predictor.video import Recording
    from ..runtime import log

    live, begun = isinstance(video.source, int), time.monotonic()
    seen = (InputImage(frame, f"{video.name} frame {i}", "BGR") for i, frame in enumerate(video.frames()))
    stream: Iterator = map(predictor, seen) if live else predictor.stream(seen)  # live nobody waits for a batch
    if given.track or given.smooth:
        stream = map(Tracker(video.rate, smooth=given.smooth), stream)
    table: list[str] = []
    lines, persons, frames = list[str](), 0, 0
    broken = None
    try:
        with (
            Recording(target.with_suffix(".mp4"), video.rate) as recording,
            log.Progress(video.length, video.name) as progress,
            contextlib.suppress(KeyboardInterrupt) if live else contextlib.nullcontext(),
        ):
            try:
                for people in progress.follow(stream):
                    if "video" in forms or window is not None:
                        picture = people.draw(given.threshold)
                    if "video" in forms:
                        recording.add(picture, until=time.monotonic() - begun if live else None)
                    if "json" in forms:
                        lines.append(people.to_json() + "\n")
                    if "csv" in forms:
                        table.append(people.to_csv(header=not table))
                    persons, frames = persons + len(people), frames + 1
                    if window is not None:
                        window.show(picture)
                        if live and window.closed:
                            break
            except UserError as error:  # the recording ends well all the same
                if not frames:
                    raise
                broken = inputs.cut_short(error, frames, "frame")
    except UserError as error:  # or it cannot; the other forms may yet be saved
        if not frames:
            raise
        broken = error if broken is None else UserError(f"{broken}; {error}")
    if "json" in forms:
        write(target.with_suffix(".jsonl"), "".join(lines))
    if "csv" in forms:
        write(target.with_suffix(".csv"), "".join(table))
    if broken is None and video.length and frames < video.length:
        log.logger.warning(
            "%s: %d of the %d frames that it states could be read; what was found in them is saved",
            *(video.name, frames, video.length),
        )
    log.logger.info("%s: %d person(s) on %d frame(s) of %s", target.parent, persons, frames, video.name)
    if broken is not None:
        raise broken


def write(path: Path, text: str) -> None:
    from ..runtime.files import write_atomically

    write_atomically(path, lambda file: file.write(text.encode()))
