"""From an image in any form to its result: equal to testing, and one message for input that cannot be used."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from helpers.goldens import IMAGES, ROOT
from helpers.persons import BOXES, DEMO, IMAGE
from torch import nn

from transpose.build.evaluation import build_evaluation, build_sample_evaluation
from transpose.build.model import TrainedModel, build_model, load_trained
from transpose.config.load import load_config
from transpose.core.predict import TestOptions
from transpose.errors import UserError
from transpose.evaluation.evaluate import CocoEvaluation, results
from transpose.models import zoo
from transpose.pose import skeleton
from transpose.predictor import export
from transpose.predictor.image import InputImage
from transpose.predictor.predictor import Predictor
from transpose.predictor.result import CSV_COLUMNS, PoseResult
from transpose.runtime import checkpoint


class Smooth(nn.Module):
    """A network with smooth heatmaps, whose peaks rounding does not move: blurred colours of the crop."""

    stride, grid = 8, (12, 8)

    def __init__(self):
        super().__init__()
        self.blur = nn.Conv2d(3, 17, 25, stride=4, padding=12)
        steps = torch.arange(25) - 12.0
        bell = torch.exp(-(steps**2) / 72)
        colours = torch.randn(17, 3, generator=torch.Generator().manual_seed(3))
        self.blur.weight.data = colours[..., None, None] * bell[:, None] * bell / bell.sum() ** 2
        self.blur.bias.data.fill_(3)

    def forward(self, images):
        return self.blur(images)


@pytest.fixture(scope="module")
def smooth() -> Predictor:
    return Predictor(TrainedModel(Smooth(), skeleton.COCO, Path()), device="cpu")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """The image, RGB."""
    return cv2.imread(str(IMAGE))[..., ::-1].copy()


def largest_difference(one: PoseResult, other: PoseResult) -> float:
    """In pixels; the scores are compared by the way."""
    assert one.keypoints.shape == other.keypoints.shape
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)
    return float(np.abs(one.keypoints - other.keypoints).max())


# Equal to testing


@pytest.mark.parametrize("annotated, persons", [(True, 105), (False, 86)])
def test_the_same_boxes_give_the_keypoints_scores_and_results_of_the_test(annotated, persons, run, predictor):
    weights = str(run / "final_state.pth")
    options = ["TEST.USE_GT_BBOX", str(annotated), "TEST.IMAGE_THRE", "0.99", "TEST.MODEL_FILE", weights]
    given = load_config(DEMO, options)
    evaluation = build_evaluation(given, torch.device("cpu"))
    assert isinstance(evaluation, CocoEvaluation)
    network = build_model(given)
    load_trained(given, network, run)
    tested = evaluation.predict(network)
    table = evaluation.crops.instances
    assert len(tested.keypoints) == persons

    of_image = [np.flatnonzero(table.image == i) for i in range(len(table.images.ids))]
    found = predictor(
        [IMAGES / name for name in table.images.names],
        [table.boxes[own] for own in of_image],
        [table.scores[own] for own in of_image],
        oriented=False,
    )
    order = np.concatenate(of_image)
    np.testing.assert_allclose(
        np.concatenate([result.keypoints for result in found]), tested.keypoints[order], rtol=0, atol=1e-3
    )
    np.testing.assert_allclose(np.concatenate([result.scores for result in found]), tested.scores[order], rtol=1e-5)

    how = {"sigmas": skeleton.COCO.sigmas, "score_threshold": evaluation.options.score_threshold, "oks_threshold": 2.0}
    written = results(table, tested, category_id=1, **how)  # no OKS is above 1, so all of them
    ids = table.images.ids.tolist()
    own = [entry for result, number in zip(found, ids, strict=True) for entry in result.to_coco(number)]
    assert len(own) == len(written)
    for entry in own:
        of_image = [other for other in written if other["image_id"] == entry["image_id"]]
        same = min(of_image, key=lambda other: np.abs(np.subtract(other["keypoints"], entry["keypoints"])).max())
        assert entry["score"] == pytest.approx(same["score"], rel=1e-5) and entry["category_id"] == 1


def test_a_box_moved_by_a_pixel_is_seen(predictor):
    here, there = predictor([IMAGE] * 2, [BOXES, np.add(BOXES, [1, 0, 0, 0])])
    assert np.abs(here.keypoints - there.keypoints).max() > 0.1


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_persons_of_several_images_share_batches_and_stay_theirs(batch_size, smooth):
    shared = Predictor(TrainedModel(Smooth(), skeleton.COCO, Path(), batch_size=batch_size), device="cpu")
    images, boxes = [IMAGE, IMAGES / "000000000785.jpg", IMAGE], [BOXES, [], BOXES[:1]]
    found = shared(images, boxes)
    assert [len(result) for result in found] == [3, 0, 1]
    for image, own, result in zip(images, boxes, found, strict=True):
        if own:
            wanted = smooth(image, own)
            assert largest_difference(result, wanted) < 1e-3 and np.ptp(wanted.keypoints[0, :, 0]) > 20


def test_a_stream_holds_few_images(run, pixels):
    read = 0

    def images():
        nonlocal read
        for _ in range(50):
            read += 1
            yield pixels

    few = Predictor.from_pretrained(run, device="cpu", batch_size=2)
    for number, result in enumerate(few.stream(images(), ([BOXES[0]] if i == 0 else [] for i in range(50)))):
        assert len(result) == (number == 0) and read <= number + 4
    assert number == 49


def test_the_program_of_the_page_runs(run, tmp_path):
    program, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs/predict.md").read_text(), re.DOTALL)
    for name, here in (
        ("output/coco/transpose_r/demo", run),
        ("data", ROOT / "data"),
        ("skier.png", tmp_path / "skier.png"),
    ):
        assert f'"{name}' in program
        program = program.replace(f'"{name}', f'"{here}')
    exec(program, {})
    assert cv2.imread(str(tmp_path / "skier.png")).shape == (425, 640, 3)


# What holds the image


def test_every_kind_of_image_gives_the_same(smooth, pixels, tmp_path):
    png = tmp_path / "image.png"
    cv2.imwrite(str(png), pixels[..., ::-1])
    wanted = smooth(str(png), BOXES)
    assert wanted.size == (500, 332)
    kinds = [png, pixels, PIL.Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)]
    for result in smooth(kinds, [BOXES] * 4):
        assert largest_difference(result, wanted) < 1e-3
    assert largest_difference(smooth(pixels[..., ::-1], BOXES, color="BGR"), wanted) < 1e-3
    bgr = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)
    assert largest_difference(smooth(bgr, BOXES, color="BGR"), wanted) < 1e-3
    assert np.abs(smooth(pixels, BOXES, color="BGR").keypoints - wanted.keypoints).max() > 0.1
    grey = pixels[..., 1]
    assert largest_difference(smooth(grey, BOXES), smooth(np.dstack([grey] * 3), BOXES)) < 1e-3


def test_users_images_are_rotated_as_exif_says(smooth, pixels, tmp_path):
    path, exif = tmp_path / "turned.jpg", PIL.Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    PIL.Image.fromarray(pixels).save(path, exif=exif, quality=95)
    stored = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
    box = [[40.0, 30.0, 150.0, 250.0]]
    upright, lying = smooth(np.rot90(stored, -1), box), smooth(stored, box)
    assert np.abs(upright.keypoints - lying.keypoints).max() > 1
    assert smooth(path, box).size == (332, 500) and smooth(path, box, oriented=False).size == (500, 332)
    assert largest_difference(smooth(path, box), upright) < 1e-3
    assert largest_difference(smooth(path, box, oriented=False), lying) < 1e-3
    with PIL.Image.open(path) as image:  # decoded by another library, which differs by a grey level or two
        assert smooth(image, box).size == (332, 500) and smooth(image, box, oriented=False).size == (500, 332)
    assert smooth(path, box).draw().shape == (500, 332, 3)


@pytest.mark.parametrize(
    "image, sentence",
    [
        (np.zeros((4, 4, 3), np.float32), r"must be uint8, 0 to 255, not float32; of values from 0 to 1 make \(array"),
        (np.zeros((4, 4, 3), np.int64), "must be uint8, 0 to 255, not int64$"),
        (np.zeros((3, 5, 4), np.uint8), r"not \(3, 5, 4\); array.transpose\(1, 2, 0\) puts the channels last"),
        (np.zeros((4, 5, 4), np.uint8), r"not \(4, 5, 4\); array\[..., :3\] leaves out the transparency"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"not \(2, 4, 5, 3\); several images are a list"),
        (np.zeros((0, 5, 3), np.uint8), r"must be \(H, W, 3\), or \(H, W\) in grey, not \(0, 5, 3\)$"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), r"a tensor must be uint8 \(3, H, W\), .* not uint8 \(4, 5, 3\)"),
        (torch.zeros(3, 4, 5), r"a tensor must be uint8 \(3, H, W\), 0 to 255, not float32 \(3, 4, 5\)"),
        (PIL.Image.new("F", (4, 4)), "pixels of mode F are not 8-bit colours; convert it to RGB"),
        (7, "an image is a path, a NumPy array, a PIL image or a tensor, not a int"),
        ("nowhere.jpg", r"^nowhere.jpg: cannot read the image \(No such file"),
        (str(ROOT / "README.md"), "README.md.*not an image that can be decoded"),
        (str(ROOT), r"cannot read the image \(Is a directory\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_malformed_images_are_refused(image, sentence, predictor):
    with pytest.raises(UserError, match=sentence):
        predictor(image, [[0, 0, 2, 2]])


def test_a_truncated_image_is_reported(predictor, tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(IMAGE.read_bytes()[:20_000])
    with pytest.raises(UserError, match=r"cut.jpg: the JPEG is truncated"):
        predictor(path, BOXES)
    with PIL.Image.open(path) as image, pytest.raises(UserError, match=r"^the image: not an image that can be decoded"):
        predictor(image, BOXES)


# Boxes


@pytest.mark.parametrize(
    "boxes, scores, sentence",
    [
        ([[0, 0, 0, 3]], None, r"box 0 .* must have a positive width and height"),
        ([*BOXES, [5, 5, 3, -3]], None, r"box 3 \(counted from 0\), \[5.0, 5.0, 3.0, -3.0\], .* positive width"),
        ([[0, float("nan"), 3, 3]], None, "box 0 .* has a value that is NaN, infinite or too large"),
        ([[0, 0, float("inf"), 3]], None, "box 0 .* has a value that is NaN, infinite or too large"),
        ([[0, 0, 1e300, 3]], None, "box 0 .* has a value that is NaN, infinite or too large"),
        (BOXES, [1, float("nan"), 1], "box 1 .* has a value that is NaN, infinite or too large"),
        ([[500, 0, 30, 30]], None, "box 0 .* lies outside of the image, which is 500 x 332 pixels"),
        ([[-30, 0, 30, 30]], None, "box 0 .* lies outside of the image"),
        ([[9, 9, 0.8, 0.1]], None, "is too small or too far from the image to be cropped"),
        ([0, 0, 3, 3], None, r"boxes must have the shape \(N, 4\), .*, not \(4,\)"),
        ([[0, 0, 3]], None, r"boxes must have the shape \(N, 4\), .*, not \(1, 3\)"),
        ([[0, 0, 3, 3], [1]], None, "boxes and scores must be numbers"),
        ("all", None, "boxes and scores must be numbers"),
        (BOXES, [1, 1], r"3 boxes need 3 scores, not scores of the shape \(2,\)"),
        (None, [1], "scores need boxes"),
        (np.tile(BOXES[0], (101, 1)), None, r"101 boxes, more than max_instances 100 \(--max-instances\)"),
    ],
)
def test_malformed_boxes_are_refused(boxes, scores, sentence, predictor):
    with pytest.raises(UserError, match=rf"^{re.escape(str(IMAGE))}: .*{sentence}"):
        predictor(IMAGE, boxes, scores)


def test_an_error_calls_an_image_by_its_path_or_its_number_among_several(predictor, pixels):
    outside = [[9000, 0, 3, 3]]
    for images, boxes, name in (
        (pixels, outside, "the image"),
        ([pixels, pixels], [BOXES, outside], "image 1"),
        ([pixels, IMAGE], [BOXES, outside], str(IMAGE)),
        (InputImage(pixels, "film.mp4 frame 3"), outside, "film.mp4 frame 3"),
    ):
        with pytest.raises(UserError, match=rf"^{re.escape(name)}: box 0 .* lies outside of the image"):
            predictor(images, boxes)
    with pytest.raises(UserError, match=r"^the image: box 0 .* lies outside of the image"):
        predictor.explain(pixels, outside)


def test_an_image_states_its_channel_order(run, predictor, pixels):
    turned = InputImage(np.ascontiguousarray(pixels[..., ::-1]), "the turned one", "BGR")
    assert np.array_equal(predictor(turned, BOXES).keypoints, predictor(pixels, BOXES).keypoints)
    assert len(list(predictor.explain(turned, BOXES[:1]))) == 1
    with pytest.raises(UserError, match=r"^color must be RGB or BGR, the order of an array's channels, not 'bgr'$"):
        InputImage(pixels, "the image", "bgr")
    with pytest.raises(UserError, match="color must be RGB or BGR"):
        predictor.explain(pixels, BOXES, color="bgr")
    few = Predictor.from_pretrained(run, device="cpu", max_pixels=9)
    with pytest.raises(UserError, match=r"^mine: .* 9 pixels that"):
        few(InputImage(IMAGE, "mine"), BOXES)
    assert len(few(InputImage(IMAGE, "mine", max_pixels=500 * 332), BOXES)) == 3


def test_lists_must_be_of_one_length(predictor):
    for arguments in ([[IMAGE], []], [[], [BOXES]], [[IMAGE], [BOXES], []]):
        with pytest.raises(UserError, match="image 0: images, boxes and scores differ in number"):
            predictor(*arguments)
    with pytest.raises(UserError, match="scores need boxes"):
        predictor([IMAGE], None, [[1]])
    assert predictor([]) == [] and predictor([], []) == []


def test_the_limit_of_persons_can_be_moved(run):
    with pytest.raises(UserError, match="3 boxes, more than max_instances 2"):
        Predictor.from_pretrained(run, device="cpu", max_instances=2)(IMAGE, BOXES)
    many = Predictor.from_pretrained(run, device="cpu", max_instances=101)
    assert len(many(IMAGE, np.tile(BOXES[0], (101, 1)))) == 101


def test_the_limit_of_pixels_can_be_moved_and_is_named(run, pixels, tmp_path):
    for most in (500 * 332, None):
        assert len(Predictor.from_pretrained(run, device="cpu", max_pixels=most)(IMAGE, BOXES)) == 3
    few = Predictor.from_pretrained(run, device="cpu", max_pixels=500 * 332 - 1)
    says = r"it is 500 x 332, but --max-pixels \(in Python max_pixels\) allows 165,999 pixels$"
    for ask in (few, few.explain):
        with pytest.raises(UserError, match=says):
            ask(IMAGE, BOXES)
    assert len(few(pixels, BOXES)) == 3  # decoded already
    with pytest.raises(UserError, match=r"bytes, more than any image of the 9 pixels that --max-pixels \(in Python"):
        Predictor.from_pretrained(run, device="cpu", max_pixels=9)(IMAGE, BOXES)
    with pytest.raises(UserError, match="max_pixels must be 1 or more, not 0"):
        Predictor.from_pretrained(run, device="cpu", max_pixels=0)


def test_any_function_is_a_detector(run, pixels):
    seen = []

    def detector(image):
        seen.append(image)
        return BOXES[:2], [0.9, 0.5]

    own = Predictor.from_pretrained(run, device="cpu", detector=detector)
    found = own([pixels, pixels], [None, BOXES])
    assert [len(result) for result in found] == [2, 3]
    (image,) = seen
    assert np.array_equal(image, pixels) and image.flags.writeable  # RGB
    assert found[0].box_scores.tolist() == [0.9, 0.5] and found[0].boxes.tolist() == BOXES[:2]
    assert found[0].person_scores[0] == pytest.approx(0.9 * found[1].person_scores[0], rel=1e-5)
    assert len(own(IMAGE)) == 2 and len(seen) == 2


def test_what_a_detector_gives_is_checked(run):
    for answer, sentence in (
        (([[0, 0, float("nan"), 1]], [1]), "box 0 .* has a value that is NaN, infinite or too large"),
        (([[0, 0, 3, 3]], []), "1 boxes need 1 scores"),
    ):
        with pytest.raises(UserError, match=sentence):
            Predictor.from_pretrained(run, device="cpu", detector=lambda image, answer=answer: answer)(IMAGE)


# What comes out


def test_no_persons_are_a_result_too(predictor, pixels):
    none = predictor(pixels, [])
    assert len(none) == 0 and none.keypoints.shape == (0, 17, 2) and none.scores.shape == (0, 17)
    assert none.boxes.shape == (0, 4) and none.person_scores.shape == none.box_scores.shape == (0,)
    assert np.array_equal(none.draw(), pixels)
    assert none.to_coco(1) == [] and json.loads(none.to_json())["persons"] == []
    assert none.to_csv().splitlines() == [",".join(CSV_COLUMNS)]


def test_the_forms_tell_the_same(predictor, pixels):
    result = predictor(IMAGE, BOXES, [1, 0.5, 0.25])
    assert result.names == skeleton.COCO.names and result.skeleton == skeleton.COCO
    told = json.loads(result.to_json())
    assert (told["image"], told["width"], told["height"]) == (str(IMAGE), 500, 332)
    assert told["category"] == "person" and told["names"] == list(result.names) and len(told["limbs"]) == 19
    for i, person in enumerate(told["persons"]):
        assert person["box"] == BOXES[i] and person["box_score"] == [1, 0.5, 0.25][i]
        points = np.array(person["keypoints"])
        np.testing.assert_allclose(points[:, :2], result.keypoints[i], rtol=0, atol=0.00501)
        np.testing.assert_allclose(points[:, 2], result.scores[i], rtol=0, atol=0.0000501)
    assert max(len(digits) for digits in re.findall(r"\.(\d+)", result.to_json())) <= 4
    head, *lines = result.to_csv().splitlines()
    assert head.split(",") == list(CSV_COLUMNS) and len(lines) == 3 * 17
    row = dict(zip(CSV_COLUMNS, lines[17 + 3].split(","), strict=True))
    place = {"image": str(IMAGE), "frame": "", "time": "", "person": "1", "track": "", "keypoint": "left_ear"}
    assert {name: row[name] for name in place} == place
    assert [float(row[f"box_{side}"]) for side in "xywh"] == BOXES[1] and float(row["box_score"]) == 0.5
    assert [float(row["x"]), float(row["y"]), float(row["score"])] == told["persons"][1]["keypoints"][3]
    assert float(row["person_score"]) == told["persons"][1]["score"]
    (first, *_) = result.to_coco(388056, category_id=3)
    assert (first["image_id"], first["category_id"]) == (388056, 3) and len(first["keypoints"]) == 51


def test_persons_and_keypoints_are_indexed_by_number_and_name(predictor):
    result = predictor(IMAGE, BOXES, [1, 0.5, 0.25])
    wrist = result[1]["left_wrist"]
    assert wrist == pytest.approx((*result.keypoints[1, 9].tolist(), result.scores[1, 9]), abs=0.00501)
    assert wrist.x == wrist[0] and wrist == tuple(result.to_dict()["persons"][1]["keypoints"][9])
    assert [person.box.tolist() for person in result] == BOXES and result[-1].box_score == 0.25
    assert result[0].id is None and replace(result, ids=np.array([7, 8, 9]))[1].id == 8
    assert [person.box_score for person in result[:2]] == [1, 0.5] and result[3:] == []
    with pytest.raises(UserError, match="there is no keypoint 'left_wirst'; the nearest is 'left_wrist'"):
        result[0]["left_wirst"]
    with pytest.raises(UserError, match=r"keypoints are named, as in \['nose'\], not numbered \(9\)"):
        result[0][9]
    named = dict(result[1])
    assert list(named) == list(result[1]) == list(result.names) and named["left_wrist"] == wrist
    assert "left_wrist" in result[0] and "left_wirst" not in result[0]
    with pytest.raises(IndexError):
        result[3]


def test_a_result_is_short_as_text_and_a_picture_in_a_notebook(predictor, pixels):
    result = predictor(IMAGE, BOXES)
    assert repr(result) == f"<PoseResult: {IMAGE.name}, 500 x 332 pixels, 3 person(s)>"
    assert repr(result[0]).startswith("<Pose: score ") and repr(result[0]).endswith(
        ", box 80,69,148,245, 17 keypoints>"
    )
    shown = cv2.imdecode(np.frombuffer(result._repr_jpeg_(), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(shown[..., ::-1].astype(int) - result.draw()).mean() < 8  # a JPEG


def test_other_objects_are_called_instances(predictor):
    kites = replace(predictor(IMAGE, BOXES), skeleton=replace(skeleton.COCO, category="kite"))
    assert repr(kites).endswith("3 instance(s)>") and len(kites.to_dict()["instances"]) == 3
    assert "person" not in kites.to_csv() + kites.to_json() and kites.to_dict()["category"] == "kite"


def test_a_data_frame_or_how_to_get_it(predictor, monkeypatch):
    result = predictor(IMAGE, BOXES)
    monkeypatch.setitem(importlib.sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"pip install 'transpose-pose\[pandas\]'"):
        result.to_dataframe()
    monkeypatch.undo()
    pytest.importorskip("pandas")
    table = result.to_dataframe()
    assert list(table.columns) == list(CSV_COLUMNS) and len(table) == 3 * 17
    assert table[table.keypoint == "nose"].x.tolist() == pytest.approx(result.keypoints[:, 0, 0].tolist(), abs=0.005)
    assert list(predictor(IMAGE, []).to_dataframe().columns) == list(CSV_COLUMNS)


def test_drawings_have_the_channels_of_the_image(predictor, pixels, tmp_path):
    rgb = predictor(pixels, BOXES).draw(threshold=0)
    assert np.array_equal(predictor(pixels[..., ::-1], BOXES, color="BGR").draw(threshold=0), rgb[..., ::-1])
    assert not np.array_equal(rgb, pixels) and rgb.shape == pixels.shape
    assert np.array_equal(predictor(pixels, BOXES).draw(threshold=1e9), pixels)
    one, several = (predictor(pixels, BOXES).draw(1e9, parts) for parts in ("boxes", ["boxes"]))
    assert np.array_equal(one, several) and not np.array_equal(one, pixels)
    result = predictor(PIL.Image.fromarray(pixels), BOXES)
    result.save(tmp_path / "new" / "drawn.png", threshold=0)
    assert np.array_equal(cv2.imread(str(tmp_path / "new" / "drawn.png"))[..., ::-1], rgb)
    with pytest.raises(UserError, match="no image format has this ending"):
        result.save(tmp_path / "drawn.txt")


def test_supervisions_keypoints_or_how_to_get_it(predictor, monkeypatch):
    result = predictor(IMAGE, BOXES)
    monkeypatch.setitem(importlib.sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        result.to_supervision()
    monkeypatch.undo()
    pytest.importorskip("supervision")
    converted = result.to_supervision()
    assert np.array_equal(converted.xy, result.keypoints) and len(converted) == 3
    assert np.array_equal(converted.keypoint_confidence, result.scores)
    assert converted.detection_confidence == pytest.approx(result.person_scores)
    assert len(predictor(IMAGE, []).to_supervision()) == 0


def test_nan_never_reaches_the_results(run, tmp_path):
    state = checkpoint.read(run / "final_state.pth")
    state["final_layer.weight"][4] = 3e38
    for file in run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    checkpoint.save(tmp_path / "final_state.pth", state)
    with pytest.raises(
        UserError, match=rf"^{re.escape(str(IMAGE))}: .*person 0 .* are NaN or infinite: the weights are broken"
    ):
        Predictor.from_pretrained(tmp_path, device="cpu")([IMAGE] * 2, [[], BOXES])


# Where the network comes from


def test_a_run_is_named_by_its_folder_or_by_one_of_its_checkpoints(run, predictor):
    wanted = predictor(IMAGE, BOXES)
    for source, given in ((str(run), None), (run / "final_state.pth", None), (run / "final_state.pth", DEMO)):
        named = Predictor.from_pretrained(source, given, device="cpu")
        assert named.trained.weights == run / "final_state.pth"
        assert largest_difference(named(IMAGE, BOXES), wanted) < 1e-3
    assert (predictor.options.blur_kernel, predictor.batch_size, predictor.input_size) == (5, 32, (64, 96))


def test_a_single_checkpoint_is_recognised_by_its_shapes_or_needs_a_yaml(run, tmp_path):
    released = tmp_path / "renamed.pth"
    checkpoint.save(released, {f"module.{key}": value for key, value in zoo.model("tp_r_a3").state_dict().items()})
    known = Predictor.from_pretrained(released, device="cpu")
    assert known.input_size == (192, 256) and known.options == TestOptions()
    assert len(known.trained.network.global_encoder.layers) == 3

    alone = tmp_path / "alone.pth"
    alone.write_bytes((run / "final_state.pth").read_bytes())
    with pytest.raises(UserError, match=r"alone.pth: this checkpoint fits no released model, .*name the yaml"):
        Predictor.from_pretrained(alone)
    assert Predictor.from_pretrained(alone, DEMO, device="cpu").input_size == (64, 96)
    with pytest.raises(UserError, match=r"alone.pth: not a checkpoint of this model"):
        Predictor.from_pretrained(alone, ROOT / "experiments/coco/transpose_r/TP_R_256x192_d256_h1024_enc3_mh8.yaml")


def test_a_name_of_the_zoo(monkeypatch, tmp_path):
    checkpoint.save(tmp_path / zoo.released("tp_r_a3").file, zoo.model("tp_r_a3").state_dict())
    monkeypatch.setattr(zoo, "place", lambda folder, in_clone, file: tmp_path / file)
    named = Predictor.from_pretrained("tp_r_a3", device="cpu")
    assert named.trained.weights == tmp_path / zoo.released("tp_r_a3").file and named.options.blur_kernel == 11
    with pytest.raises(UserError, match="tp_r_a3: a released model needs no configuration"):
        Predictor.from_pretrained("tp_r_a3", DEMO)


@pytest.mark.parametrize("decodes", [False, True])
def test_exported_files_run_too(decodes, smooth, tmp_path):
    path = tmp_path / "smooth.torchscript"
    export.export(smooth.trained, path, build_sample_evaluation((64, 96)), decodes=decodes)
    exported = Predictor.from_pretrained(path)
    assert exported.input_size == (64, 96) and exported.skeleton == skeleton.COCO
    found, wanted = exported(IMAGE, BOXES), smooth(IMAGE, BOXES)
    assert np.abs(found.keypoints - wanted.keypoints).max() < 0.01
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4)
    with pytest.raises(UserError, match=r"an exported file runs on the CPU, as it was exported"):
        Predictor.from_pretrained(path, precision="bfloat16")
    with pytest.raises(UserError, match="an exported network needs no configuration"):
        Predictor.from_pretrained(path, DEMO)
    if decodes:
        with pytest.raises(UserError, match="flip test and kernel_size are fixed in this file"):
            Predictor.from_pretrained(path, flip_test=False)


def test_malformed_sources_are_reported(run, tmp_path):
    with pytest.raises(UserError, match="tp_r_a9: there is no such file or folder, and no released model of"):
        Predictor.from_pretrained("tp_r_a9")
    with pytest.raises(UserError, match=r"not a run's folder: there is no config.yaml in it"):
        Predictor.from_pretrained(tmp_path)
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    with pytest.raises(
        UserError, match=r"this run is not finished; name one of its checkpoints, for example .*model_best.pth"
    ):
        Predictor.from_pretrained(tmp_path)
    (tmp_path / "final_state.pth").write_bytes((run / "final_state.pth").read_bytes())
    assert Predictor.from_pretrained(tmp_path, device="cpu").trained.skeleton == skeleton.COCO
    (tmp_path / "skeleton.yaml").write_text("{names: [a, b], sigmas: [0.1, 0.1]}")
    with pytest.raises(UserError, match=r"finds 17 keypoints, but the skeleton of .*skeleton.yaml has 2"):
        Predictor.from_pretrained(tmp_path)


def test_the_arguments_act(run, predictor):
    wanted = predictor(IMAGE, BOXES)
    for options, least in (({"flip_test": True}, 0.5), ({"kernel_size": 11}, 0.01), ({"precision": "bfloat16"}, 1e-4)):
        found = Predictor.from_pretrained(run, device="cpu", **options)(IMAGE, BOXES)
        assert np.abs(found.keypoints - wanted.keypoints).max() > least, options


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"precision": "float8"}, "there is no precision 'float8'; choose from float32, bfloat16, float16"),
        ({"backend": "tensorrt"}, "there is no backend 'tensorrt'; choose from pytorch, openvino, onnxruntime"),
        ({"backend": "onnxruntime", "precision": "bfloat16"}, "onnxruntime computes in float32, not in bfloat16"),
        ({"backend": "openvino", "compiled": True}, "only the backend pytorch can be compiled, not openvino"),
        ({"device": "cuda:99"}, "device cuda:99: PyTorch cannot use it"),
        ({"device": "gpu"}, "device gpu: PyTorch cannot use it"),
        ({"batch_size": 0}, "batch_size must be 1 or more, not 0"),
        ({"kernel_size": 4}, "kernel_size must be odd and positive, not 4"),
        ({"max_instances": 0}, "max_instances must be 1 or more, not 0"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(options, sentence, run):
    with pytest.raises(UserError, match=sentence):
        Predictor.from_pretrained(run, **options)


def test_the_order_of_channels_is_one_of_two(predictor, pixels):
    with pytest.raises(UserError, match="color must be RGB or BGR, the order of an array's channels, not 'rgb'"):
        predictor(pixels, BOXES, color="rgb")
