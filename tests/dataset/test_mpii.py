"""MPII: its annotations, its conventions, and PCKh, on five records made in its format."""

import json
import re
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.goldens import ROOT
from helpers.mpii import HEIGHT, MPII, PERSONS, SHORT_NAMES, WIDTH, ground_truth, joints, records, write_json, write_set
from helpers.places import Run, sentence
from scipy.io import loadmat, savemat
from torch.utils.data import DataLoader

from transpose.build.data import build_training_data, data_report, data_sums
from transpose.build.evaluation import build_evaluation
from transpose.build.model import build_model, load_start_weights
from transpose.commands.check_data import contact_sheet
from transpose.config.load import load_config
from transpose.core.predict import Predictions, TestOptions, predict
from transpose.dataset import mpii
from transpose.dataset.check.report import TEST, TRAIN, Report
from transpose.dataset.findings import ERROR
from transpose.dataset.images import ImageReader
from transpose.dataset.samplers import EvalSampler
from transpose.dataset.topdown import TopDownDataset
from transpose.errors import UserError
from transpose.evaluation.pckh import MEANS, NO_JOINT, PCKH_COLUMNS, PckhEvaluation, PckhTruth, pckh, read_truth
from transpose.models.backends import Backend
from transpose.pose import geometry, heatmap, skeleton
from transpose.runtime.files import checksum

RECIPES = ROOT / "experiments" / "mpii" / "transpose_r"
R_A4 = RECIPES / "TP_R_256x256_d256_h1024_enc4_mh8.yaml"
FROM_COCO = RECIPES / "TP_R_256x256_d256_h1024_enc4_mh8_from_coco.yaml"
SMALL = (
    "MODEL.IMAGE_SIZE [64,64] MODEL.HEATMAP_SIZE [16,16] MODEL.DIM_MODEL 16 MODEL.DIM_FEEDFORWARD 16 MODEL.N_HEAD 2 "
    "MODEL.ENCODER_LAYERS 1 MODEL.EXTRA.NUM_LAYERS 18 MODEL.EXTRA.NUM_DECONV_FILTERS [16] MODEL.PRETRAINED '' "
    "MODEL.INIT_WEIGHTS False WORKERS 0 TRAIN.BATCH_SIZE_PER_GPU 2 TRAIN.END_EPOCH 2 TRAIN.LR 0.001 PRINT_FREQ 1"
)
SMALL = [word.strip("'") for word in SMALL.split()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(tmp_path / "data")


def people(path: Path, **options):
    return mpii.annotated_instances(mpii.read_annotations(path, 16), **options)


def predictions(keypoints: np.ndarray) -> Predictions:
    """Of all persons, 0-based, scored one half."""
    count = len(keypoints)
    sides = np.ones((count, 2), np.float32)
    scores = np.full(keypoints.shape[:2], 0.5, np.float32)
    return Predictions(np.arange(count), keypoints.astype(np.float32), scores, sides, sides)


# PCKh


def test_pckh_of_five_persons_counted_by_hand(root: Path, tmp_path: Path):
    """Heads are 0.6 x 50 = 30 pixels and 60 for the last person: half a head is 15 and 30 pixels."""
    off = {  # person, joint: pixels that the prediction is off
        (0, "head_top"): (15, 0),  # exactly half a head: right
        (1, "head_top"): (15.01, 0),
        (2, "left_wrist"): (0, -14.99),
        (2, "right_wrist"): (0, 15.01),
        (3, "left_ankle"): (-12, 9),  # exactly half a head
        (3, "right_ankle"): (-12, 9.1),
        (4, "left_knee"): (29.9, 0),  # the larger head
        (4, "right_knee"): (30.1, 0),
        (0, "right_elbow"): (500, 0),  # missing: not counted
        (1, "right_elbow"): (100, 0),
        (1, "pelvis"): (1000, 0),  # in no column and in no mean
        (0, "left_shoulder"): (3.2, 0),  # beyond 0.1 of a head (3), within 0.11 (3.3)
        (4, "right_shoulder"): (0, 6.5),  # beyond 6, within 6.6
    }
    predicted = joints() - 1.0
    for (person, name), pixels in off.items():
        predicted[person, MPII.names.index(name)] += pixels
    path = root / "annot" / "gt_valid.mat"
    savemat(path, ground_truth(missing=((0, "right_elbow"), (3, "left_hip"))))
    evaluation = judging(root, read_truth(path, MPII.names, PERSONS))
    metrics = evaluation.evaluate(predictions(predicted), tmp_path, "by hand")
    # 14 joints of 5 persons less 2 missing are 68; wrong are 1 head, 1 elbow, 1 wrist, 1 knee, 1 ankle.
    assert metrics == pytest.approx(
        {
            "Head": 80,
            "Shoulder": 100,
            "Elbow": (100 + 75) / 2,
            "Wrist": (100 + 80) / 2,
            "Hip": 100,
            "Knee": (100 + 80) / 2,
            "Ankle": (100 + 80) / 2,
            "Mean": 100 * 63 / 68,
            "Mean@0.1": 100 * 57 / 68,
            "Mean@0.11": 100 * 59 / 68,
        }
    )
    assert list(metrics) == [*PCKH_COLUMNS, *MEANS]

    found = json.loads((tmp_path / "results" / "keypoints_valid_results_0.json").read_bytes())
    assert [person["image"] for person in found] == [record["image"] for record in records()]
    zero_based = np.array([person["keypoints"] for person in found]).reshape(PERSONS, 16, 3)
    np.testing.assert_allclose(zero_based[..., :2], predicted, atol=1e-4)
    assert (zero_based[..., 2] == 0.5).all() and found[0]["score"] == 0.5
    matrix = loadmat(tmp_path / "results" / "pred_valid_0.mat")["preds"]
    np.testing.assert_allclose(matrix, predicted + 1, atol=1e-4)
    summary = json.loads((tmp_path / "results" / "metrics_valid_0.json").read_bytes())
    assert summary["metrics"] == metrics and summary["weights"] == "by hand"
    assert summary["measured"] == evaluation.describe()


def judging(root: Path, truth: PckhTruth | None) -> PckhEvaluation:
    crops = TopDownDataset(
        people(root / "annot" / "valid.json"), ImageReader(root / "images"), MPII, (64, 64), (16, 16)
    )
    return PckhEvaluation(
        name="valid",
        crops=crops,
        loader=DataLoader(crops, batch_sampler=EvalSampler(crops.instances.image, 2)),
        options=TestOptions(flip_test=False),
        number=0,
        device=torch.device("cpu"),
        backend=Backend(),
        truth=truth,
    )


def test_predictions_count_from_0_and_the_truth_from_1(root: Path):
    truth = read_truth(root / "annot" / "gt_valid.mat", MPII.names, PERSONS)
    assert set(pckh(joints() - 1, truth, MPII.names).values()) == {100}
    # Half a head less and more than the pixel between the two ways of counting.
    for size, mean in ((2.1, 100), (1.9, 0)):
        small = PckhTruth(truth.joints, truth.annotated, np.full(PERSONS, size))
        off = joints() - 1 + np.array([1, 0])
        assert pckh(off, small, MPII.names)["Mean"] == mean


def test_joints_without_annotations_are_left_out(root: Path):
    missing = [(person, name) for person in range(PERSONS) for name in ("head_top", "left_knee")]
    savemat(root / "gt.mat", ground_truth(tuple(missing)))
    metrics = pckh(joints() - 1, read_truth(root / "gt.mat", MPII.names, PERSONS), MPII.names)
    assert metrics["Head"] == NO_JOINT and metrics["Knee"] == metrics["Mean"] == 100


# Annotations and crops


def test_joints_count_from_0_and_lie_on_their_pixels(root: Path):
    found = people(root / "annot" / "valid.json")
    np.testing.assert_array_equal(found.keypoints, joints() - 1)
    for person, places in enumerate(found.keypoints.astype(int)):
        image = ImageReader(root / "images").read(records()[person]["image"], "a test")
        assert (image[places[:, 1], places[:, 0]] > 200).all() and (image > 200).all(-1).sum() == 16


@pytest.mark.parametrize("flip_test", [False, True], ids=["plain", "flip test"])
def test_perfect_heatmaps_come_back_to_the_annotated_pixels(root: Path, flip_test: torch.Tensor | None):
    """From the image through the crop and back, with a model that knows the answer."""
    persons = people(root / "annot" / "valid.json")
    crops = TopDownDataset(persons, ImageReader(root / "images"), MPII, (256, 256), (64, 64))
    loader = DataLoader(crops, batch_sampler=EvalSampler(crops.instances.image, 2))
    flip_order = torch.from_numpy(MPII.flip_order)
    answers = []
    for batch in loader:
        maps, weight = heatmap.encode(batch["keypoints"], batch["visible"], (64, 64), 2.0)
        assert weight.all(), "a joint lies outside of its crop"
        answers += [maps, heatmap.flip(maps, flip_order)] if flip_test else [maps]
    answer = iter(answers)
    found = predict(lambda images: next(answer), loader, TestOptions(flip_test), flip_order)
    np.testing.assert_allclose(found.keypoints, joints() - 1, atol=0.01)
    truth = read_truth(root / "annot" / "gt_valid.mat", MPII.names, PERSONS)
    assert set(pckh(found.keypoints, truth, MPII.names).values()) == {100}


@pytest.mark.parametrize("aspect", [1.0, 0.75])
def test_crops_are_the_lineages(aspect: float):
    draw = np.random.default_rng(0)
    center, scale = draw.uniform(1, 1900, (500, 2)), draw.uniform(0.1, 9, 500)
    center[7] = -1  # not annotated: neither moved down nor padded
    found, scales = geometry.boxes_to_crops(mpii.boxes(center, scale), aspect)
    for i in range(len(center)):
        c, s = center[i].copy(), scale[i]
        if c[0] != -1:
            c[1] = c[1] + 15 * s
            s = s * 1.25
        np.testing.assert_allclose(found[i], c - 1, rtol=1e-7, atol=1e-6)
        np.testing.assert_allclose(scales[i], [s, s / aspect], rtol=2e-7)


def test_persons_of_one_image_and_invisible_joints(tmp_path: Path):
    content = records()
    content[3]["image"] = content[1]["image"]
    content[0]["joints_vis"][9] = 0
    content[0]["joints"][9] = [-1, -1]
    write_json(tmp_path / "valid.json", content)
    found = people(tmp_path / "valid.json")
    assert found.image.tolist() == [0, 1, 2, 1, 3] and len(found.images.ids) == 4
    assert found.visible[0, 9] == 0 and found.visible.sum() == 16 * PERSONS - 1


# The skeleton and weights of another


def test_the_skeleton_is_the_lineages():
    assert MPII.num_joints == 16
    pairs = [[0, 5], [1, 4], [2, 3], [10, 15], [11, 14], [12, 13]]
    assert sorted(sorted(pair) for pair in MPII.pairs) == pairs
    order = MPII.flip_order.tolist()
    assert order == [5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10]
    assert sorted(MPII.upper_body) == list(range(7, 16)) and sorted(MPII.lower_body) == list(range(7))
    assert len(MPII.limbs) == 15 and {joint for limb in MPII.limbs for joint in limb} == set(range(16))
    shared = [name for name in MPII.names if name in skeleton.COCO.names]
    assert len(shared) == 12
    for values, of_coco in ((MPII.sigmas, skeleton.COCO.sigmas), (MPII.joint_weights, skeleton.COCO.joint_weights)):
        for name in shared:
            assert values[MPII.names.index(name)] == of_coco[skeleton.COCO.names.index(name)]


def test_weights_of_coco_give_their_rows_to_the_joints_of_the_same_name(tmp_path: Path):
    trained = build_model(load_config(R_A4, [*SMALL, "MODEL.NUM_JOINTS", "17"]))
    torch.save(trained.state_dict(), tmp_path / "coco.pth")
    cfg = load_config(FROM_COCO, [*SMALL, "MODEL.INIT_FROM", str(tmp_path / "coco.pth")])
    model = build_model(cfg)
    drawn = model.final_layer.weight.clone()
    load_start_weights(cfg, model, MPII)
    for place, name in enumerate(MPII.names):
        row = drawn[place]
        if name in skeleton.COCO.names:
            row = trained.final_layer.weight[skeleton.COCO.names.index(name)]
        assert torch.equal(model.final_layer.weight[place], row), name
    assert torch.equal(model.conv1.weight, trained.conv1.weight)


# Whole runs


def arguments(root: Path, *overrides: str) -> list[str]:
    folders = ["--modelDir", str(root.parent / "output"), "--logDir", str(root.parent / "log")]
    return ["--cfg", str(R_A4), *folders, *SMALL, "DATASET.ROOT", str(root), *overrides]


def test_a_run_trains_is_tested_and_drawn(root: Path, tmp_path: Path, run_preloaded: Run):
    def run(tool: str, *more: str) -> str:
        done = run_preloaded(tool, [*arguments(root), *more], tmp_path, {})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    folder = tmp_path / "output" / "mpii" / "transpose_r" / R_A4.stem
    output = run("train")
    heads = "| Arch | Head | Shoulder | Elbow | Wrist | Hip | Knee | Ankle | Mean | Mean@0.1 | Mean@0.11 |"
    assert output.count(heads) == 2, output
    assert "valid: 5 persons in 5 images; boxes: annotated centre and scale; flip test: on" in output
    means = [float(re.split(r" \| ", row)[8]) for row in re.findall(rf"^\| {R_A4.stem} .*$", output, re.M)]
    best = torch.load(folder / "checkpoint.pth", weights_only=True)["best"]
    assert best.keys() == {"Mean", "epoch"} and best["Mean"] == pytest.approx(max(means), abs=1e-3)
    assert f"best Mean {best['Mean']:.4f}" in output
    assert f"2 epochs, best Mean {best['Mean']:.4f}" in run("train"), "a finished run says so"

    output = run("test")
    assert f"weights: {folder / 'final_state.pth'}" in output and heads in output
    row = re.findall(rf"^\| {R_A4.stem} .*$", output, re.M)[0]
    assert float(row.split(" | ")[8]) == means[-1], "the final weights are those of the last epoch"
    results = folder / "results" / "keypoints_valid_results_0.json"
    found = json.loads(results.read_bytes())
    zero_based = np.array([person["keypoints"] for person in found]).reshape(PERSONS, 16, 3)[..., :2]
    np.testing.assert_allclose(loadmat(results.with_name("pred_valid_0.mat"))["preds"], zero_based + 1)

    output = run("draw_results", "--results", str(results), "--out", str(tmp_path / "sheet.png"), "--score", "-1")
    assert "5 person(s) on 5 of 5 images" in output
    output = run("test", "DATASET.TEST_SET", "test", "RANK", "3")
    assert "test has no ground truth here: MPII's organisers evaluate pred_test_3.mat" in output
    assert {path.name for path in results.parent.glob("*_3.*")} == {"keypoints_test_results_3.json", "pred_test_3.mat"}


def test_images_may_be_a_zip(root: Path):
    with zipfile.ZipFile(root / "images.zip", "w") as file:
        for path in (root / "images").iterdir():
            file.write(path, path.name)
    cfg = load_config(R_A4, [*SMALL, "DATASET.ROOT", str(root), "DATASET.DATA_FORMAT", "zip"])
    evaluation = build_evaluation(cfg, torch.device("cpu"))
    # A run is not gone on with if this changes.
    assert data_sums(cfg)["DATASET.TEST_SET's truth"] == checksum(root / "annot" / "gt_valid.mat")
    assert evaluation.crops.reader.source == root / "images.zip" and evaluation.crops[4]["image"].any()


# Bad input


def without(key: str) -> Callable[[list], None]:
    return lambda content: content[2].pop(key)


def change(key: str, value: Any) -> Callable[[list], None]:
    return lambda content: content[2].update({key: value})


RECORDS = {
    "image": (without("image"), "record number 3 has no 'image'"),
    "image-kind": (change("image", 7), "'image' of record number 3 must be the name of a file, not 7"),
    "center": (without("center"), "record number 3 has no 'center'"),
    "center-length": (change("center", [1, 2, 3]), "'center' of record number 3 must list 2 numbers, not 3"),
    "scale": (without("scale"), "record number 3 has no 'scale'"),
    "scale-kind": (change("scale", "big"), "'scale' of record number 3 must be a number, not 'big'"),
    "scale-sign": (change("scale", -1), "'scale' of record number 3 must be positive, not -1"),
    "joints": (without("joints"), "record number 3 has no 'joints'"),
    "joints-length": (change("joints", [[1, 2]] * 15), "'joints' of record number 3 must list 16 pairs x, y, not 15"),
    "joints-flat": (change("joints", [1, 2] * 16), "'joints' of record number 3 must list 16 pairs x, y, not [1, 2,"),
    "joints-kind": (
        change("joints", [[1, "x"]] * 16),
        "'joints' of record number 3 has a value that is not a number",
    ),
    "joints_vis": (without("joints_vis"), "record number 3 has no 'joints_vis'"),
    "joints_vis-length": (change("joints_vis", [1] * 17), "'joints_vis' of record number 3 must list 16 numbers, not"),
    "no-record": (
        lambda content: content.__setitem__(2, "person"),
        "expected `object`, got `str` - at `$[2]`, counted from 0",
    ),
    "nobody": (list.clear, "its list of persons is empty"),
}


@pytest.mark.parametrize("spoil, words", RECORDS.values(), ids=RECORDS.keys())
def test_bad_records_are_named(root: Path, spoil: Callable, words: str):
    path = root / "annot" / "train.json"
    content = records()
    spoil(content)
    write_json(path, content)
    with pytest.raises(UserError) as error:
        build_training_data(load_config(R_A4, [*SMALL, "DATASET.ROOT", str(root)]))
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)


def errors(report: Report) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(f.check, f.says, f.examples) for section in report.sections for f in section.findings if f.level == ERROR]


def test_check_data_reports_every_problem(root: Path):
    cfg = load_config(R_A4, [*SMALL, "DATASET.ROOT", str(root)])
    report = data_report(cfg, None)
    assert not report.stops and {check for check, *_ in errors(report)} == {"contrast"}  # the images are black
    assert contact_sheet(report, 1.0, number=2) is not None
    content = records()
    content[1]["joints_vis"] = content[4]["image"] = None
    content[2]["scale"], content[3]["scale"] = -1, 0
    write_json(root / "annot" / "train.json", content)
    put("pos_gt_src", np.nan, wrong := ground_truth())
    savemat(root / "annot" / "gt_valid.mat", wrong)
    (root / "images" / "000000002.jpg").write_bytes(b"no image")
    report = data_report(cfg, None)
    told = [finding for finding in errors(report) if finding[0] != "contrast"]
    assert told[:3] == [
        ("format", "1 record of 5 must have 'image', the name of a file", ("None in record number 5",)),
        ("format", "1 record of 5 must have 'joints_vis', 16 numbers", ("None in record number 2",)),
        ("scale", "'scale' of 2 records of 5 is not positive", ("-1 in record number 3", "0 in record number 4")),
    ]
    assert [check for check, *_ in told[3:]] == ["readable", "file", "readable"] and "pos_gt_src" in told[4][1]
    with pytest.raises(UserError) as error:
        build_training_data(cfg)
    assert report.stops[TRAIN] == str(error.value) and "'image' of record number 5" in str(error.value)
    assert "'pos_gt_src' holds a number that is NaN" in report.stops[TEST]


def test_joints_as_fractions_of_the_image_are_refused(root: Path):
    content = records()
    for record in content:
        record["joints"] = (np.array(record["joints"]) / (WIDTH, HEIGHT)).tolist()
    write_json(root / "annot" / "train.json", content)
    with pytest.raises(UserError, match="the joints of 5 of 5 lie within one pixel, like fractions of the image"):
        people(root / "annot" / "train.json")


def cut(key: str, content: dict) -> None:
    content[key] = content[key][..., :4]


def reorder(content: dict) -> None:
    content["dataset_joints"] = np.array([SHORT_NAMES[::-1]], object)


def flat_head(content: dict) -> None:
    content["headboxes_src"][1, :, 3] = content["headboxes_src"][0, :, 3]


def put(key: str, value: float, content: dict) -> None:
    content[key] = np.full(content[key].shape, value)


TRUTHS = {
    "persons": (
        partial(cut, "pos_gt_src"),
        "'pos_gt_src' has the shape (16, 2, 4), but (16, 2, 5) fits the 5 persons",
    ),
    "heads": (partial(cut, "headboxes_src"), "'headboxes_src' has the shape (2, 2, 4), but (2, 2, 5) fits"),
    "order": (reorder, "'dataset_joints' must have 'head' as number 10, where the skeleton has 'head_top'"),
    "flat-head": (flat_head, "the head box of person number 4 has no size"),
    "nobody": (partial(put, "jnt_missing", 1.0), "'jnt_missing' leaves no joint to measure"),
    "nan": (partial(put, "pos_gt_src", np.nan), "'pos_gt_src' holds a number that is NaN or infinite"),
} | {
    f"no-{key}": (lambda content, key=key: content.pop(key), f"it has no '{key}'")
    for key in ("dataset_joints", "jnt_missing", "pos_gt_src", "headboxes_src")
}


@pytest.mark.parametrize("spoil, words", TRUTHS.values(), ids=TRUTHS.keys())
def test_bad_truth_is_named(root: Path, spoil: Callable, words: str):
    path = root / "annot" / "gt_valid.mat"
    content = ground_truth()
    spoil(content)
    savemat(path, content)
    with pytest.raises(UserError) as error:
        build_evaluation(load_config(R_A4, [*SMALL, "DATASET.ROOT", str(root)]), torch.device("cpu"))
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("annot/valid.json", None, "cannot read the annotation file"),
        ("annot/valid.json", b'{"images": []}', "expected `array`, got `object`"),
        ("annot/gt_valid.mat", None, "cannot read PCKh's ground truth (No such file or directory)"),
        ("annot/gt_valid.mat", b"no matrix " * 100, "PCKh's ground truth is damaged or not a .mat file"),
        ("images/000000002.jpg", None, "(person 1): cannot read the image"),
    ],
)
def test_bad_files_are_one_sentence(
    root: Path, tmp_path: Path, run_preloaded: Run, name: str, content: bytes | None, words: str
):
    (root / name).unlink()
    if content is not None:
        (root / name).write_bytes(content)
    said = sentence(run_preloaded("train", arguments(root), tmp_path, {}))
    assert said.startswith(str(root / name)) and words in said, said


def test_a_truncated_truth_is_one_sentence(root: Path):
    path = root / "annot" / "gt_valid.mat"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 200, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=re.escape(str(path))):
            read_truth(path, MPII.names, PERSONS)


def test_another_skeleton_is_refused(root: Path):
    overrides = [*SMALL, "DATASET.ROOT", str(root)]
    with pytest.raises(UserError, match=r"needs DATASET.SKELETON: experiments/mpii/skeleton.yaml"):
        load_config(R_A4, [*overrides, "DATASET.SKELETON", ""])
    with pytest.raises(UserError, match=r"has 16 keypoints, but MODEL.NUM_JOINTS is 17"):
        build_evaluation(load_config(R_A4, [*overrides, "MODEL.NUM_JOINTS", "17"]), torch.device("cpu"))
    other = root / "other.yaml"
    other.write_text(f"names: {['top', *MPII.names[1:]]}\nsigmas: {[0.1] * 16}\n")
    with pytest.raises(UserError, match=r"PCKh needs a keypoint named 'right_ankle'"):
        build_evaluation(load_config(R_A4, [*overrides, "DATASET.SKELETON", str(other)]), torch.device("cpu"))


def test_scipy_is_asked_for_before_anything_is_predicted(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    for name in ("valid", "test"):
        cfg = load_config(R_A4, [*SMALL, "DATASET.ROOT", str(root), "DATASET.TEST_SET", name])
        with pytest.raises(UserError, match=r"the package scipy is not installed: pip install scipy, or "):
            build_evaluation(cfg, torch.device("cpu"))
