"""What attention does on a whole set: python tools/attention_stats.py --cfg experiments/….yaml [KEY VALUE …]"""

from pathlib import Path

from transpose import cli
from transpose.errors import UserError


def main() -> None:
    parser = cli.parser(
        "Measure the attention of trained weights on the persons of DATASET.TEST_SET: tables and plots."
    )
    parser.add_argument("--persons", type=int, metavar="N", help="of the set, evenly spread; else all")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the results go; else attention, in the run's folder"
    )
    arguments = parser.parse_args()
    if arguments.persons is not None and arguments.persons < 1:
        raise UserError("--persons must be 1 or more")
    cfg = cli.configuration(arguments)

    import numpy as np

    from transpose import attention_stats, build, checkpoint, distributed, figures, log
    from transpose.explain import explain

    figures.check_package()
    device = distributed.start(cfg.GPUS)
    folder = build.run_folder(cfg, Path(arguments.cfg).stem)
    trained = build.tested(cfg, folder)
    network = trained.network.to(device).eval()
    crops = build.evaluation(cfg, device).crops
    number = min(arguments.persons or len(crops), len(crops))
    chosen = np.linspace(0, len(crops) - 1, number).round().astype(int).tolist()
    log.logger.info("weights: %s; %s: %d of %d persons", trained.weights, cfg.DATASET.TEST_SET, number, len(crops))
    with log.Progress(number, "attention") as progress:
        persons = (explain(network, crops, i, trained.kernel_size) for i in progress.follow(chosen))
        statistics = attention_stats.statistics(persons)

    out = arguments.out or folder / "attention"
    texts = {
        "attention.csv": statistics.to_csv(),
        "attention.md": statistics.to_markdown(),
        "pairs.csv": statistics.pairs_to_csv(),
    }
    for name, text in texts.items():
        checkpoint.write_atomically(out / name, lambda file, text=text: file.write(text.encode()))
    figures.save(figures.measures(statistics), out / "attention.png")
    figures.save(figures.pairs(statistics), out / "pairs.png")
    log.logger.info("%s", statistics.to_markdown())
    log.logger.info("%s: attention.csv, attention.md, attention.png, pairs.csv, pairs.png", out)


if __name__ == "__main__":
    cli.run(main)
