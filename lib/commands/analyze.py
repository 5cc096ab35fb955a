"""Report what costs AP: python tools/analyze.py --cfg experiments/….yaml --results FILE.json [KEY VALUE …]"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli
from ..errors import UserError, needs

if TYPE_CHECKING:
    from ..analysis.page import Shown
    from ..analysis.report import Analysis
    from ..build.model import TrainedModel
    from ..dataset.images import ImageReader
    from ..evaluation.calibration import Calibration

NAMES = ("report.html", "report.json", "report.md")


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(
        "Report what costs AP on DATASET.TEST_SET: errors by kind, keypoint and slice, with intervals and pictures."
    )
    add = parser.add_argument
    add("--results", required=True, type=Path, metavar="FILE", help="COCO keypoint results, JSON")
    add("--compare", type=Path, metavar="FILE", help="other results for the same images, to compare with the first")
    add(
        "--model",
        metavar="MODEL",
        help="the network that made the results: adds its attention and its calibration",
    )
    add(
        "--out", type=Path, metavar="DIR", help="folder of the report (default: <results>_analysis, beside the results)"
    )
    add(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="bootstrap resamples of the images (default: %(default)s; 0: none)",
    )
    add(
        "--worst",
        type=int,
        default=6,
        metavar="N",
        help="pictures of each kind of error (default: %(default)s; 0: none)",
    )
    add("--overwrite", action="store_true", help="replace an existing report")
    arguments = parser.parse_args(argv)
    for name in ("bootstrap", "worst"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name} must be 0 or more, not {getattr(arguments, name)}")
    if arguments.model and not arguments.worst:
        raise UserError(
            "--model adds attention to the pictures of the worst cases, which --worst 0 turns off; leave out one"
        )
    out = arguments.out or arguments.results.with_name(f"{arguments.results.stem}_analysis")
    for name in NAMES:
        if (out / name).exists() and not arguments.overwrite:
            raise UserError(
                f"{out / name}: exists already; pass --overwrite to replace it, or choose another folder with --out"
            )
    cfg = cli.configuration(arguments)
    needs("matplotlib", extra="explain")

    import msgspec

    from ..analysis import estimates, report
    from ..analysis.page import page
    from ..analysis.plots import plots
    from ..analysis.tables import markdown
    from ..build.data import annotated_test_set, skeleton_of
    from ..evaluation.results import read_results
    from ..runtime import log
    from ..runtime.files import write_text

    annotations, reader = annotated_test_set(cfg, with_images=arguments.worst > 0)
    skeleton = skeleton_of(cfg, annotations)
    columns = [
        read_results(path, annotations, skeleton.num_joints)
        for path in (arguments.results, arguments.compare)
        if path is not None
    ]
    trained = _trained(arguments.model, skeleton.names) if arguments.model else None
    first, *others = (
        report.analyse(path, column, annotations, skeleton)
        for path, column in zip((arguments.results, arguments.compare), columns, strict=False)
    )
    weights = estimates.resamples(len(first.images), arguments.bootstrap)
    draws = report.draws_of(first, weights, log.follow("bootstrap"))
    content = report.measure(first, draws, _calibration(trained))
    for other in others:
        both = draws, report.draws_of(other, weights, log.follow("bootstrap"))
        content["comparison"] = report.compare(first, other, both, max(arguments.worst, 10))
    failures = cli.Failures()
    shown = _pictures(first, others, content, reader, trained, arguments.worst, failures) if reader is not None else []
    texts = (
        page(content, plots(first, content), shown, skeleton),
        msgspec.json.format(msgspec.json.encode(content), indent=1).decode(),
        markdown(content),
    )
    for name, text in zip(NAMES, texts, strict=True):
        write_text(out / name, text)
    log.logger.info("%s", texts[-1])
    log.logger.info("%s: %s", out, ", ".join(NAMES))
    failures.end(done=len(NAMES))


def _trained(source: str, names: tuple[str, ...]) -> "TrainedModel":
    from ..predictor.export import Exported
    from ..predictor.predictor import trained_network

    trained = trained_network(source)
    if isinstance(trained, Exported):
        raise UserError(f"{source}: an exported file gives no attention; pass the checkpoint that it was made from")
    if trained.skeleton.names != names:
        raise UserError(
            f"{source}: this network finds {', '.join(trained.skeleton.names)}, but the annotations have "
            f"{', '.join(names)}"
        )
    trained.network.eval()
    return trained


def _calibration(trained: "TrainedModel | None") -> "Calibration | None":
    """The calibration beside the network's weights, if it was fitted with the same test options."""
    from ..evaluation import calibration

    if trained is None:
        return None
    found = calibration.read(trained.weights)
    return found if found is not None and found.holds_for(trained.options) else None


def _pictures(
    first: "Analysis",
    others: "Sequence[Analysis]",
    content: dict[str, Any],
    reader: "ImageReader",
    trained: "TrainedModel | None",
    number: int,
    failures: cli.Failures,
) -> "list[Shown]":
    """The worst cases of the results, and the images whose OKS changed most; an unreadable image is skipped."""
    from ..analysis import cases
    from ..analysis.page import Shown, describe

    images = first.annotations.images
    names = dict(zip(images.ids.tolist(), images.names.tolist(), strict=True))

    def read(image_id: int) -> Any:
        return reader.read(names[image_id], owner=f"image {image_id}")

    shown = []
    for other in others:
        for moved in content["comparison"]["moved"][:number]:
            image_id = moved["image_id"]
            text = f"{names[image_id]}: OKS {moved['OKS']:+.2f}; left: the first results, right: the second"
            with failures.passing_over():
                shown.append(Shown("moved", cases.side_by_side(first, other, image_id, read(image_id)), text))
    for case in cases.worst(first, number):
        with failures.passing_over():
            image = read(case.image_id)
            attention = []
            if trained is not None and case.kind in ("inversion", "swap"):
                attention = cases.attended(case, first, image, trained)
            text = describe(case, names[case.image_id], first.skeleton)
            shown.append(Shown(case.kind, cases.picture(case, first, image), text, attention))
    return shown
