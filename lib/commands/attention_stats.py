"""Measure attention over a data set: python tools/attention_stats.py --cfg experiments/….yaml [KEY VALUE …]"""

from collections.abc import Sequence
from pathlib import Path

from .. import cli
from ..errors import UserError, needs


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(
        "Measure the attention of trained weights on the persons of DATASET.TEST_SET; write tables and plots."
    )
    parser.add_argument(
        "--persons", type=int, metavar="N", help="measure only N persons, evenly spread over the set (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the results (default: attention, in the run's folder)"
    )
    arguments = parser.parse_args(argv)
    if arguments.persons is not None and arguments.persons < 1:
        raise UserError("--persons must be 1 or more")
    cfg = cli.configuration(arguments)

    import numpy as np

    from ..build.evaluation import build_evaluation
    from ..build.model import read_tested_model, refuse_other_order
    from ..build.run import run_folder
    from ..explain import figures, stats
    from ..explain.maps import explain_sample
    from ..runtime import distributed, log
    from ..runtime.files import write_text

    needs("matplotlib", extra="explain")
    device = distributed.start(cfg.GPUS)
    folder = run_folder(cfg, Path(arguments.cfg).stem)
    trained = read_tested_model(cfg, folder)
    network = trained.network.to(device).eval()
    crops = build_evaluation(cfg, device).crops
    refuse_other_order(trained.weights, crops.skeleton, cfg.DATASET.TEST_SET)
    number = min(arguments.persons or len(crops), len(crops))
    chosen = np.linspace(0, len(crops) - 1, number).round().astype(int).tolist()
    log.logger.info("weights: %s; %s: %d of %d persons", trained.weights, cfg.DATASET.TEST_SET, number, len(crops))
    with log.Progress(number, "attention") as progress:
        persons = (explain_sample(network, crops, i, trained.options) for i in progress.follow(chosen))
        statistics = stats.statistics(persons)

    out = arguments.out or folder / "attention"
    texts = {
        "attention.csv": statistics.to_csv(),
        "attention.md": statistics.to_markdown(),
        "pairs.csv": statistics.pairs_to_csv(),
    }
    for name, text in texts.items():
        write_text(out / name, text)
    figures.save(figures.measures(statistics), out / "attention.png")
    figures.save(figures.pairs(statistics), out / "pairs.png")
    log.logger.info("%s", statistics.to_markdown())
    log.logger.info("%s: attention.csv, attention.md, attention.png, pairs.csv, pairs.png", out)
