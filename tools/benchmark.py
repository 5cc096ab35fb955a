"""Measure: python tools/benchmark.py --stages [--stage NAME …] [--smallest] [--write] [--json FILE] [--profile]"""

import argparse
import logging
from pathlib import Path

from transpose import cli


def main() -> None:
    parser = argparse.ArgumentParser(description="Run each stage beside its plainest form: times, ratio, difference.")
    parser.add_argument("--stages", action="store_true", required=True, help="the stages, from the JPEG to the AP")
    parser.add_argument("--stage", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--smallest", action="store_true", help="once, at the smallest size: are the results equal?")
    parser.add_argument("--write", action="store_true", help="measure thrice, put the table into docs/benchmarks.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write this run's (the last run's) figures there")
    parser.add_argument("--profile", action="store_true", help="say where the time of ours goes, function by function")
    arguments = parser.parse_args()

    from benchmarks import stages

    logging.disable(logging.WARNING)
    stages.main(arguments)


if __name__ == "__main__":
    cli.run(main)
