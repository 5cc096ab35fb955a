"""Explore a network in the browser: python tools/web_demo.py --model NAME|FOLDER|FILE [--host H] [--port N]"""

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import cli
from ..errors import UserError, needs

SAMPLE = Path(__file__).resolve().parents[2] / "data/coco_sample"  # of a clone


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Serve a web page that shows the keypoints that a network finds in images, and its attention."
    )
    add = parser.add_argument
    add("--model", required=True, help="released model (tp_r_a4 …), output folder of a run, or checkpoint")
    add("--cfg", type=Path, metavar="YAML", help="configuration of a checkpoint that is outside its run's folder")
    cli.add_device(add)
    add(
        "--host",
        default="127.0.0.1",
        help="address to serve; 0.0.0.0 lets other machines visit (default: %(default)s, this one only)",
    )
    add("--port", type=int, default=7860, help="port (default: %(default)s)")
    add("--name", action="append", default=[], metavar="HOST", help="another host name of this server; may be repeated")
    add(
        "--max-sessions",
        type=int,
        default=5,
        metavar="N",
        help="sessions per address, of 20 in all (default: %(default)s)",
    )
    add(
        "--max-megabytes",
        type=float,
        default=20,
        metavar="N",
        help="largest uploaded file, in MB (default: %(default)s)",
    )
    add(
        "--max-pixels",
        type=int,
        default=25_000_000,
        metavar="N",
        help="largest uploaded image, in pixels (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(argv)
    if not 0 < given.port < 65536:
        raise UserError(f"--port must be a number from 1 to 65535, not {given.port}")
    if not 0 < given.max_megabytes < math.inf or min(given.max_pixels, given.max_sessions) < 1:
        raise UserError("--max-megabytes, --max-pixels and --max-sessions must be positive")

    from ..predictor import web  # first, as it says so at once if Gradio is not installed

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # visitors' files are deleted then too
    from ..pose.skeleton import PERSON
    from ..predictor import web_session
    from ..predictor.predictor import Predictor
    from ..predictor.web_guard import Guard
    from ..runtime import log

    needs("matplotlib", extra="explain")
    log.start()
    predictor = Predictor.from_pretrained(
        given.model,
        given.cfg,
        device=given.device,
        max_instances=web_session.MAX_PERSONS,
    )
    predictor.detector = web_session.detector_on_demand(given.device, predictor.skeleton.category)
    session = web_session.WebSession(predictor)
    annotations = SAMPLE / "annotations/person_keypoints_val2017.json"
    of_persons = annotations.exists() and predictor.skeleton.category == PERSON
    samples = web_session.samples(annotations, SAMPLE / "images/val2017") if of_persons else []
    with web.private_folder():
        # Visitors must not see where the file is on this machine.
        weights = Path(given.model).name if Path(given.model).is_absolute() else given.model
        guard = Guard(
            given.host,
            given.name,
            round(given.max_megabytes * 1e6),
            sessions=web.SESSIONS,
            of_address=given.max_sessions,
            idle=web.FORGOTTEN_AFTER,
        )
        page = web.Page(session, samples, f"Weights: {weights}", guard, given.max_pixels)
        log.logger.info("http://%s:%d – Ctrl+C ends it", given.host, given.port)
        page.serve(given.port)
