"""The kites of docs/custom-dataset.md, divided by scenes."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from helpers.goldens import ROOT


def draw_kites(folder: Path, seed: int, sets: Mapping[str, range]) -> None:
    """A new set in `folder`; `sets` are the names of annotation files, and the scenes of two images each in them."""
    scenes = str(max(own.stop for own in sets.values()) - 1)
    command = [sys.executable, str(ROOT / "docs/make_kites.py"), str(folder), "--scenes", scenes, "--seed", str(seed)]
    subprocess.run(command, check=True, capture_output=True)
    content = json.loads((folder / "kites.json").read_bytes())
    for name, own in sets.items():
        images = [i for i in content["images"] if int(i["file_name"].split()[1].split("-")[0]) in own]
        ids = {image["id"] for image in images}
        annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
        (folder / f"{name}.json").write_text(json.dumps(content | {"images": images, "annotations": annotations}))
