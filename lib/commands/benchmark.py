"""Measure speed: python tools/benchmark.py --stages [--stage NAME …] [--profile] | --models [--model NAME …]

Both take --smallest, --write and --json FILE. The stages are measured in a clone only.
"""

import argparse
import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure each stage beside a plain version of it, or the five models.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--stages", action="store_true", help="the stages, from JPEG to AP")
    what.add_argument(
        "--models", action="store_true", help="the five models: parameters, GFLOPs, speed in each backend"
    )
    parser.add_argument("--stage", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument(
        "--smallest", action="store_true", help="run once at the smallest size and check that the results are equal"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md (the stages run three times)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of the last run to this file")
    parser.add_argument("--profile", action="store_true", help="also print the time spent in each of our functions")
    arguments = parser.parse_args(argv)
    apart = {"--stage": "models", "--profile": "models", "--model": "stages"}
    for option, other in apart.items():
        if getattr(arguments, other) and getattr(arguments, option.strip("-")):
            raise UserError(f"{option} cannot be used with --{other}")

    logging.disable(logging.WARNING)
    if arguments.stages:
        clone("stages").main(arguments)
        return

    from . import model_speed

    page = clone("report") if arguments.write else None
    text = model_speed.main(arguments)
    if page is not None:
        page.write_section("models", text)


def clone(module: str) -> Any:
    """A module of the folder `benchmarks`, which the installed package does not contain."""
    try:
        return importlib.import_module(f"benchmarks.{module}")
    except ModuleNotFoundError as error:
        if error.name != "benchmarks":
            raise
        raise UserError(
            "--stages and --write need a clone of the repository: python tools/benchmark.py; "
            "only --models runs without one"
        ) from None
