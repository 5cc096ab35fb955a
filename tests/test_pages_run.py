"""The commands and programs of README and the pages of docs/ run, from a copy of the clone, without a network.

Those whose block has no comment run in `make test`. A comment on the line above, as in <!-- needs COCO -->, leaves a
block to `make test-slow`, which prepares what it needs (`PREPARED`). What differs there from what a user sees:

- Few images stand for COCO and MPII, and random weights for the released ones and ImageNet's. A proxy of this machine
  answers for the hosts of weights, a server of it for the Hugging Face Hub. torch.hub has a copy of the repository
  already: this clone. The pages' photo is an image of the sample.
  ImageNet's random weights have not the checksum in their name, and random weights do not reach the published AP:
  `helpers.clone.OTHERWISE` says how these commands end then.
- `helpers.clone.QUICKER` lists options with which commands take fewer instances, epochs or minutes. torchrun starts
  two processes in place of eight. The benchmark measures one model in place of five, and does not --write that.
- What make and pip would install is there already; pip asks no index.
- pytest, and `make attack`, only collect the tests that they name: `make test-slow` runs them.

Not run: SLURM's scripts, which are blocks of bash with gaps to fill in; Docker's and TensorBoard's commands; and those
in the middle of a sentence. Of these the tools parse their options, pytest collects, and make says what it would start.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import pytest
from helpers.clone import QUICKER, Clone
from helpers.goldens import ROOT
from helpers.hosts import Hosts, hosts
from helpers.hub_server import hub
from helpers.kites import draw_kites
from helpers.mpii import write_set
from helpers.pages import PAGES, Block, name, runnable, sentences
from helpers.stand_ins import SKIER, annotated_again, few_of_coco, random_weights

from transpose.models import zoo
from transpose.predictor.video import Recording

CUSTOM = ROOT / "docs/custom-dataset.md"
KITES_RUN = "output/kite/transpose_r/kites"
SHORT_TRAINING = ["GPUS", "(0,)", "TRAIN.BATCH_SIZE_PER_GPU", "4", "TRAIN.END_EPOCH", "1"]
# Of the kites on images that were not trained on. It was 0.821; with another number of threads or other seeds 0.834 to
# 0.836.
LOWEST_AP = 0.75


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Iterator[Clone]:
    made = Clone(tmp_path_factory.mktemp("pages"), run)
    yield made
    made.close()


def run_page(clone: Clone, page: Path, reason: str) -> str:
    return "".join(clone.block(block) for block in runnable(page) if block.reason == reason)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not block.reason for block in runnable(page))], ids=name
)
def test_the_commands_run(page: Path, clone: Clone):
    clone.reset()
    run_page(clone, page, "")


def test_output_that_a_page_shows_and_a_command_lacks_is_found(clone: Clone):
    block = Block(CUSTOM, "", "python", "print('read', 'it: 3 kites in /tmp/a.png')", "…\n4 kites in\n…/b.d/a.png\n…\n")
    clone.block(block)
    for wrong in ("4 cats in …/a.png\n", "4 kites in …/b.png\n"):
        with pytest.raises(AssertionError, match="shows"):
            clone.block(replace(block, printed=wrong))


# What other blocks need


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, clone: Clone) -> Path:
    """The demo's run, trained by the command of docs/training.md."""
    clone.reset()
    shutil.rmtree(clone.folder / "output")
    run_page(clone, ROOT / "docs/training.md", "takes minutes")
    return Path(shutil.copytree(clone.folder / "output/coco/transpose_r/demo", tmp_path_factory.mktemp("demo") / "run"))


@pytest.fixture(scope="module")
def kites(tmp_path_factory: pytest.TempPathFactory, clone: Clone) -> Path:
    """What the commands of docs/custom-dataset.md leave: their images and their trained run."""
    clone.reset()
    run_page(clone, CUSTOM, "takes minutes")
    folder = tmp_path_factory.mktemp("kites")
    for part in ("data/kites", KITES_RUN):
        shutil.copytree(clone.folder / part, folder / part)
    return folder


def trained_demo(clone: Clone, request: pytest.FixtureRequest) -> None:
    trained = request.getfixturevalue("demo")
    clone.reset()
    shutil.copytree(trained, clone.folder / "output/coco/transpose_r/demo", dirs_exist_ok=True)
    (clone.folder / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != ".installed":
            (clone.folder / ".venv" / path.name).symlink_to(path)
    (clone.folder / ".venv/.installed").touch()  # make has nothing to install


def trained_kites(clone: Clone, request: pytest.FixtureRequest) -> None:
    trained = request.getfixturevalue("kites")
    clone.reset()
    shutil.copytree(trained, clone.folder, dirs_exist_ok=True)


def three_sets_of_kites(clone: Clone, request: pytest.FixtureRequest) -> None:
    """Of another seed than the kites that were trained on."""
    trained_kites(clone, request)
    shutil.rmtree(clone.folder / "data/kites")
    sets = {"train": range(1, 3), "calibrate": range(3, 33), "held_out": range(33, 63)}
    draw_kites(clone.folder / "data/kites", 5, sets)


def two_people(clone: Clone, request: pytest.FixtureRequest) -> None:
    draw_kites(clone.folder / "data/kites", 0, {"both": range(1, 16)})
    for seed, person in enumerate(("anna", "ben")):
        annotated_again(clone.folder / f"{person}.json", clone.folder / "data/kites/both.json", seed)
    shutil.copy(ROOT / "experiments/kites/skeleton.yaml", clone.folder)


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("internet")
    with hosts(folder) as server, hub() as hugging_face:
        server.files = random_weights(folder)
        server.environment |= {"HF_ENDPOINT": hugging_face.url, "HF_TOKEN": "hf_none"}
        yield server


def connected(clone: Clone, request: pytest.FixtureRequest) -> None:
    clone.environment |= request.getfixturevalue("internet").environment
    clone.quicker = QUICKER | {"train": SHORT_TRAINING}


def weights_in_place(clone: Clone, request: pytest.FixtureRequest) -> None:
    """Where the recipes look; ImageNet's are put there by hand, as their checksum is not the one in their name."""
    connected(clone, request)
    clone.command(["python", "tools/download.py", *zoo.RELEASED])
    backbone = zoo.BACKBONES["resnet50"]
    (clone.folder / zoo.IMAGENET_FOLDER).mkdir(parents=True)
    shutil.copy(request.getfixturevalue("internet").files[backbone.url], clone.folder / zoo.IMAGENET_FOLDER)


def few_images_of_coco(clone: Clone, request: pytest.FixtureRequest) -> None:
    few_of_coco(clone.folder)
    weights_in_place(clone, request)


def few_images_of_mpii(clone: Clone, request: pytest.FixtureRequest) -> None:
    write_set(clone.folder / "data/mpii")
    weights_in_place(clone, request)


def downloaded(clone: Clone, request: pytest.FixtureRequest) -> None:
    """Kites, the user's images, and hosts from which weights come."""
    connected(clone, request)
    draw_kites(clone.folder / "data/kites", 0, {"train": range(1, 3), "val": range(3, 4)})
    (clone.folder / "images").mkdir()
    for image in ("photo.jpg", "me.jpg", "images/one.jpg", "images/two.jpg"):
        shutil.copy(SKIER, clone.folder / image)
    shutil.make_archive(str(clone.folder / "images"), "zip", clone.folder / "images")
    with Recording(clone.folder / "film.mp4", Fraction(10)) as film:
        for number in range(3):
            film.add(cv2.imread(str(SKIER)), number / 10)
    hubs = Path(clone.environment["TORCH_HOME"]) / "hub"
    hubs.mkdir(parents=True)
    (hubs / "<owner>_TransPose_main").symlink_to(clone.folder)


def exported(clone: Clone, request: pytest.FixtureRequest) -> None:
    trained_demo(clone, request)  # a random network's maps have no clear peaks: the file would be refused
    clone.command(
        "python tools/export.py --model output/coco/transpose_r/demo --format onnx --with-decode --out "
        "final_state_keypoints.onnx".split()
    )
    shutil.copy(SKIER, clone.folder / "photo.jpg")


def environment(clone: Clone, request: pytest.FixtureRequest) -> None:
    clone.command(["make", "venv"])
    clone.activate(".venv/bin/activate")


def gradio(clone: Clone, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("gradio")
    environment(clone, request)


def two_processes(clone: Clone, request: pytest.FixtureRequest) -> None:
    clone.quicker = QUICKER | {"train": ["TRAIN.END_EPOCH", "3"]}


def nothing(clone: Clone, request: pytest.FixtureRequest) -> None:
    pass


PREPARED: dict[str, Callable[[Clone, pytest.FixtureRequest], None]] = {
    "takes minutes": trained_demo,
    "takes seconds": nothing,
    "takes half an hour": nothing,
    "needs COCO": few_images_of_coco,
    "needs MPII": few_images_of_mpii,
    "needs a download": downloaded,
    "needs the network": nothing,
    "needs Gradio": gradio,
    "needs two processes": two_processes,
    "needs an exported file": exported,
    "needs the trained kites": trained_kites,
    "needs the kites' three sets": three_sets_of_kites,
    "needs two people's annotations": two_people,
}
OTHERS = sorted({(page.stem, block.reason) for page in PAGES for block in runnable(page) if block.reason})


@pytest.mark.slow
@pytest.mark.parametrize(("page", "reason"), [pair for pair in OTHERS if pair != (CUSTOM.stem, "takes minutes")])
def test_the_commands_that_need_preparation_run(page: str, reason: str, clone: Clone, request: pytest.FixtureRequest):
    clone.reset()
    PREPARED[reason](clone, request)
    (path,) = (path for path in PAGES if path.stem == page)
    run_page(clone, path, reason)


@pytest.mark.slow
def test_the_kites_lead_from_images_to_an_ap(kites: Path):
    tested = json.loads((kites / KITES_RUN / "results/metrics_val_0.json").read_text())["metrics"]
    assert tested["AP"] > LOWEST_AP
    assert (kites / KITES_RUN / "results/keypoints_val_results_0.png").exists()


@pytest.mark.slow
def test_the_tests_and_targets_that_sentences_name_can_run(clone: Clone):
    clone.reset()
    for line in (line for page in PAGES for line in sentences(page)):
        if "pytest" in line:
            clone.command(line)
        elif "make" in line:
            clone.command([*line, "--dry-run"])


def test_every_block_of_the_pages_runs_in_a_test():
    assert {reason for _, reason in OTHERS} == PREPARED.keys()
