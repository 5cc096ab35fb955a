"""Measure OKS sigmas: python tools/sigmas.py --skeleton FILE.yaml ANNOTATIONS ANNOTATIONS… [--write]"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Measure the OKS sigmas of keypoints that several people annotated on the same images."
    )
    add = parser.add_argument
    add(
        "annotations", nargs="+", type=Path, metavar="ANNOTATIONS", help="COCO annotation files, one for each annotator"
    )
    add("--skeleton", required=True, type=Path, metavar="YAML", help="the keypoints' skeleton file")
    add("--category", default="", metavar="NAME", help="category to measure (default: person, or the only category)")
    add("--write", action="store_true", help="put the sigmas into the skeleton file")
    add("--overwrite", action="store_true", help="with --write: replace the sigmas in the file")
    arguments = parser.parse_args(argv)
    if len(arguments.annotations) < 2:
        raise UserError("give at least two annotation files, by different annotators of the same images")

    from ..analysis import sigmas
    from ..build.data import check_order
    from ..dataset import coco
    from ..pose import skeleton as skeletons
    from ..runtime import log

    log.start()
    skeleton = skeletons.read(arguments.skeleton)
    wording = coco.Wording("", "pass --category with a name or an id")
    how = skeleton.num_joints, arguments.category
    files = [coco.read_annotations(path, *how, wording=wording) for path in arguments.annotations]
    for file in files:
        check_order(skeleton.names, str(arguments.skeleton), file)
    repeated = sigmas.match(files)
    found = sigmas.estimate(repeated, skeleton.names)
    print("\n".join(sigmas.table(found, repeated, skeleton.names)))
    if arguments.write:
        sigmas.write(arguments.skeleton, skeleton, found.values, arguments.overwrite)
        print(f"{arguments.skeleton}: sigmas written")
