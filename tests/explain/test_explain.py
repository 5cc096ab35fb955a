"""Attention maps equal those of whole attention matrices, without holding one; also places, figures, tools."""

import copy
import csv
import io
import math
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.goldens import IMAGES, ROOT, fill_from_names, sample_instances
from helpers.networks import BOTH, images, small_h, small_r
from helpers.persons import BOXES, IMAGE
from helpers.places import Run, sentence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transpose.commands import visualize
from transpose.core.predict import TestOptions
from transpose.dataset.images import ImageReader
from transpose.dataset.topdown import TopDownDataset
from transpose.errors import UserError
from transpose.explain import attention, figures, maps, stats
from transpose.explain.attention import Attention
from transpose.explain.maps import Explanation
from transpose.models.transpose import TransPose
from transpose.pose import geometry
from transpose.pose.skeleton import COCO
from transpose.predictor.export import Exported

QUERIES = torch.tensor([[0, 5, 17], [3, 40, 17]])  # of two crops
KEYPOINTS = [4, 0, 16]
PAGE = (ROOT / "docs/explain.md").read_text()


# Rows, columns and products


class Whole:
    """The same by whole attention matrices (L, B, M, N, N) of a float64 copy, written out and given to autograd."""

    def __init__(self, network: TransPose, batch: torch.Tensor):
        exact = copy.deepcopy(network).double().eval()
        x = exact.tokens(batch.double())
        self.matrices = []
        for i, layer in enumerate(exact.global_encoder.layers):
            own = layer.self_attn
            positions = exact.global_encoder.positions_of(i, exact.positions())
            asking = x if positions is None else x + positions
            weight, bias = own.in_proj_weight.chunk(3), own.in_proj_bias.chunk(3)

            def projected(y, j, heads=own.heads, weight=weight, bias=bias):
                return (y @ weight[j].T + bias[j]).unflatten(-1, (heads, -1)).transpose(1, 2)

            q, k, v = projected(asking, 0), projected(asking, 1), projected(x, 2)
            matrix = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
            self.matrices.append(matrix)
            x = layer.norm1(x + own.out_proj((matrix @ v).transpose(1, 2).flatten(2)))
            x = layer.norm2(x + layer.linear2(layer.activation(layer.linear1(x))))
        self.heatmaps = exact.head(x.mT.unflatten(2, exact.grid))

    def rows(self, matrices: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """(L, B, …, N, N) -> (L, B, …, Q, N)"""
        return torch.stack([matrices[:, b][..., queries[b], :] for b in range(len(queries))], 1)

    def products(self, factors: torch.Tensor) -> torch.Tensor:
        """Of factors (L, B, N, N), the first applied first: those up to each layer."""
        product, upto = torch.eye(factors.shape[-1]).double(), []
        for factor in factors:
            product = factor @ product
            upto.append(product)
        return torch.stack(upto)

    def weighted(self, keypoint: int) -> torch.Tensor:
        """Chefer, Gur and Wolf's matrices (L, B, N, N)."""
        value = self.heatmaps[:, keypoint].flatten(1).max(1).values.sum()
        gradients = torch.autograd.grad(value, self.matrices, retain_graph=True)
        pairs = zip(self.matrices, gradients, strict=True)
        return torch.stack([(matrix * gradient).clamp_min(0).mean(1) for matrix, gradient in pairs])


@pytest.mark.parametrize(
    "make, options",
    [
        (small_r, {}),
        (small_r, {"positions": "none"}),
        (small_r, {"positions_at_first_layer_only": True}),
        (small_h, {}),
    ],
    ids=["R", "none", "first", "H"],
)
def test_maps_are_those_of_whole_matrices(make, options, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK_BYTES", 1 << 16)  # some dozen blocks
    torch.manual_seed(0)
    network = make(**options)
    fill_from_names(network)
    batch = images(2)
    found, whole = Attention(network, batch), Whole(network, batch)
    assert len(list(found.layer(0).slices())) > 5
    height, width = network.grid
    everything = torch.stack(whole.matrices)
    eye = torch.eye(height * width).double()

    def equal(maps, wanted):
        assert maps.shape[-2:] == (height, width)
        torch.testing.assert_close(maps.flatten(-2), wanted, rtol=1e-7, atol=1e-10)

    equal(found.dependency(QUERIES), whole.rows(everything, QUERIES))
    equal(found.affect(QUERIES), whole.rows(everything.mT, QUERIES))
    equal(found.rollout(QUERIES), whole.rows(whole.products((everything.mean(2) + eye) / 2), QUERIES))
    wanted = [
        whole.rows(whole.products(whole.weighted(keypoint) + eye) - eye, QUERIES[:, [i]])
        for i, keypoint in enumerate(KEYPOINTS)
    ]
    assert torch.cat(wanted, 2).amax() > 1e-6
    equal(found.gradient(QUERIES, KEYPOINTS), torch.cat(wanted, 2))
    torch.testing.assert_close(found.heatmaps, whole.heatmaps, rtol=1e-9, atol=1e-9)


@BOTH
def test_rows_and_rollouts_sum_to_one_and_the_network_stays_as_it_was(make):
    network = make()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = Attention(network, images(2))
    for values in (found.dependency(QUERIES), found.rollout(QUERIES)):
        assert (values >= 0).all() and (values.sum((-1, -2)) - 1).abs().max() < 1e-12
    found.gradient(QUERIES, KEYPOINTS)
    after = network.state_dict()
    assert all(after[key].dtype == value.dtype and torch.equal(after[key], value) for key, value in before.items())
    assert all(parameter.grad is None for parameter in network.parameters())
    with torch.no_grad():
        torch.testing.assert_close(found.heatmaps.float(), network(images(2)), rtol=1e-4, atol=1e-5)


def test_each_crop_of_a_batch_has_its_own():
    network = small_h()
    together, alone = Attention(network, images(2)), Attention(network, images(2)[1:])
    for name in ("dependency", "affect", "rollout"):
        both, one = getattr(together, name)(QUERIES)[:, 1:], getattr(alone, name)(QUERIES[1:])
        torch.testing.assert_close(both, one, rtol=1e-9, atol=1e-12)
    both, one = together.gradient(QUERIES, KEYPOINTS)[:, 1:], alone.gradient(QUERIES[1:], KEYPOINTS)
    torch.testing.assert_close(both, one, rtol=1e-9, atol=1e-12)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives, in elements, its views aside."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.size = max(
            [self.size, *(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in tensors)]
        )
        return out


def test_no_attention_matrix_is_ever_whole(monkeypatch):
    monkeypatch.setattr(attention, "BLOCK_BYTES", 1 << 19)
    network = small_h(image_size=(96, 128))
    tokens = network.grid[0] * network.grid[1]
    with Largest() as largest:
        found = Attention(network, images(1, (96, 128)))
        for maps_of in (found.affect, found.rollout, found.dependency):
            maps_of(QUERIES[:1])
        found.gradient(QUERIES[:1], KEYPOINTS)
    # Of the backbone's maps the largest has 256 channels in a quarter of the input's size, a block 2^19 / 8 weights.
    assert largest.size <= 256 * tokens < tokens**2 / 2


MEASURE = """
import re
from pathlib import Path
import numpy as np, torch
from helpers.goldens import ROOT, fill_from_names, state_dicts
from transpose.build.model import build_model
from transpose.config.load import load_config
from transpose.explain.attention import Attention
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
network = build_model(load_config(ROOT / "experiments/coco" / state_dicts()["tp_h_a6"]["config"])).eval()
fill_from_names(network)
x = torch.from_numpy(np.random.RandomState(0).standard_normal((1, 3, 256, 192)).astype(np.float32))
before = peak()
found = Attention(network, x)
queries = torch.arange(17)[None] * 180
found.dependency(queries), found.affect(queries), found.rollout(queries)
found.gradient(queries[:, :2], [0, 9])
print(peak() - before)
"""


@pytest.mark.slow
def test_the_maps_of_h_a6_take_less_than_200_mb():
    path = {"PYTHONPATH": f"{ROOT / 'tools'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEASURE], env=path, capture_output=True, text=True, check=True)
    assert 20 < float(done.stdout) < 200, done.stdout


# Places


@pytest.mark.parametrize("grid, factor", [((32, 24), 2), ((64, 48), 1)], ids=["R", "H"])
def test_a_heatmap_pixel_belongs_to_the_cell_at_its_position(grid, factor):
    peaks = np.array([[0, 0], [47, 63], [1, 0], [2, 0], [0, 3], [23, 41]])
    wanted = peaks // factor
    tokens = maps.tokens_of_peaks(peaks, (48, 64), grid)
    assert tokens.tolist() == (wanted[:, 1] * grid[1] + wanted[:, 0]).tolist()


def test_of_all_cells_that_one_moves_the_heatmaps_pixel_most():
    """TransPose-R's head with a bilinear kernel: a pixel is made of two cells an axis, of the nearer one most."""
    network = small_r(num_joints=1)
    layer, norm, final = network.deconv_layers[0], network.deconv_layers[1], network.final_layer
    with torch.no_grad():
        bilinear = torch.tensor([0.25, 0.75, 0.75, 0.25])
        layer.weight.copy_((bilinear[:, None] * bilinear).expand_as(layer.weight) / 1024)
        norm.bias.fill_(1)  # so that nothing is cut off
        final.weight.fill_(1)
    x = torch.zeros(1, 32, *network.grid, requires_grad=True)
    heatmaps = network.head(x)
    height, width = heatmaps.shape[-2:]
    for u, v in ((0, 0), (1, 0), (6, 9), (7, 9), (7, 10), (width - 1, height - 1)):
        (gradient,) = torch.autograd.grad(heatmaps[0, 0, v, u], x, retain_graph=True)
        (token,) = maps.tokens_of_peaks(np.array([[u, v]]), (width, height), network.grid)
        assert gradient.sum(1).flatten().argmax() == token


@pytest.mark.parametrize(
    "point, token", [((-0.5, -0.5), 0), ((7.4, 0), 0), ((7.5, 0), 1), ((0, 7.5), 8), ((63.4, 95.4), 95)]
)
def test_a_point_belongs_to_the_cell_of_its_pixel(point, token):
    assert maps.token_at(*point, (12, 8), 8) == token


@pytest.mark.parametrize("point", [(-0.6, 0), (0, -0.6), (63.5, 0), (0, 95.5)])
def test_a_point_outside_of_the_crop_is_refused(point):
    with pytest.raises(UserError, match="outside the crop, which is 64 x 96 pixels"):
        maps.token_at(*point, (12, 8), 8)


# One person


@pytest.fixture(scope="module")
def person(predictor) -> Explanation:
    return next(predictor.explain(IMAGE, BOXES, oriented=False))


def test_a_person_is_what_the_predictor_finds_without_flip_test(predictor, person):
    found = type(predictor)(predictor.trained, flip_test=False, device="cpu")(IMAGE, BOXES, oriented=False)
    np.testing.assert_allclose(person.scores, found.scores[0], rtol=1e-4, atol=1e-6)
    own = [person.in_crop(point) for point in BOXES[0][:2] + np.array([[60.0, 80.0], [20, 30]])]
    assert all(0 <= x < 64 and 0 <= y < 96 for x, y in own)
    sure = np.abs(person.keypoints - geometry.apply(person.to_crop, found.keypoints[0])).max(1) < 0.1
    # The heatmap's map and the input's are not the same affine map to the last digit.
    assert sure.mean() > 0.8


def test_the_picture_shows_what_the_network_sees_where_it_sees_it():
    (person,) = sample(named_network(), [5])
    factor = person.picture.shape[0] // 96
    assert person.picture.shape == (96 * factor, 64 * factor, 3) and factor > 1
    crop = small_crops()[5]["image"].astype(float)
    shrunk = cv2.resize(person.picture, (64, 96), interpolation=cv2.INTER_AREA).astype(float)
    shifts = ((0, 0), (0, 1), (1, 0), (-1, 0), (0, -1))
    errors = [np.abs(np.roll(shrunk, shift, (0, 1)) - crop).mean() for shift in shifts]
    assert errors[0] < 0.6 * min(errors[1:])


def test_maps_of_names_and_points(person):
    maps = person.maps(["nose", (12.0, 44.0)])
    assert maps.values.shape == (2, 2, 12, 8) and maps.rows == ("layer 0", "layer 1")
    nose, point = maps.queries
    assert nose.keypoint == 0 and point.keypoint is None and point.token == 5 * 8 + 1
    tokens = torch.tensor([[nose.token, point.token]])
    np.testing.assert_array_equal(maps.values, person.attention.dependency(tokens)[:, 0].mean(1).numpy())
    np.testing.assert_allclose(maps.values.sum((2, 3)), 1)
    affected = person.maps(["nose"], "affect", layers=[1])
    np.testing.assert_array_equal(affected.values[0], person.attention.affect(tokens[:, :1])[1, 0].mean(0).numpy())


def test_a_row_for_each_head(person):
    maps = person.maps(["nose"], layers=[1, 0], heads=[3, 0])
    assert maps.rows == ("layer 1\nhead 3", "layer 1\nhead 0", "layer 0\nhead 3", "layer 0\nhead 0")
    mean = np.stack([person.maps(["nose"], layers=[1], heads=[i]).values[0] for i in range(4)]).mean(0)
    np.testing.assert_allclose(person.maps(["nose"], layers=[1]).values[0], mean)
    assert not np.allclose(maps.values[0], maps.values[1])
    np.testing.assert_array_equal(maps.values[2], person.maps(["nose"], layers=[0], heads=[3]).values[0])


def test_rollout_and_gradient_join_the_layers(person):
    rollout = person.maps(["nose"], "rollout")
    assert rollout.rows == ("layer 0", "layers 0–1")
    np.testing.assert_allclose(rollout.values.sum((2, 3)), 1)
    gradient = person.maps(["left_wrist", "nose"], "gradient", layers=[1])
    assert gradient.values.shape == (1, 2, 12, 8) and (gradient.values >= 0).all() and gradient.values.max() > 0


def test_all_found_keypoints_are_asked_by_default(person):
    unsure = replace(person, scores=np.linspace(0, 1, 17).astype(np.float32))
    assert [query.label for query in unsure.maps().queries] == list(COCO.names[4:])


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"places": ["left_writs"]}, ["left_writs", "'left_wrist'"]),
        ({"places": ["nose"], "layers": [0, 2]}, ["no layer 2", "has 2, counted from 0"]),
        ({"places": ["nose"], "layers": [-1]}, ["no layer -1"]),
        ({"places": ["nose"], "heads": [4]}, ["no head 4", "has 4"]),
        ({"places": [(64.0, 3.0)]}, ["(64.0, 3.0)", "outside the crop"]),
        ({"places": [(4.0, 3.0)], "mode": "gradient"}, [") is a point"]),
        ({"places": ["nose"], "mode": "rollout", "heads": [0]}, ["rollout combines all heads"]),
        ({"places": ["nose"], "mode": "influence"}, ["'influence'", "dependency, affect, rollout, gradient"]),
        ({"places": []}, ["no keypoint was found"]),
    ],
)
def test_unknown_names_are_refused_in_one_message(person, asked, said):
    with pytest.raises(UserError) as error:
        person.maps(**asked)
    assert all(text in str(error.value) for text in said), error.value


def test_points_of_the_image(person):
    x, y = 100.0, 150.0
    assert person.in_crop((x, y)) == pytest.approx(tuple(geometry.apply(person.to_crop, np.array([x, y]))))
    assert person.in_image(person.in_crop((x, y))) == pytest.approx((x, y))
    (query,) = person.maps([person.in_crop((x, y + 0.23))]).queries
    assert query.label == "(100, 150.2)"  # the place that was named, not where it lies in the crop
    with pytest.raises(UserError, match=r"the point \(490, 10\) is outside the person's crop, which shows"):
        person.in_crop((490, 10))


def test_a_keypoint_without_a_maximum_has_no_query(person):
    lost = replace(person, scores=np.zeros(17, np.float32))
    with pytest.raises(UserError, match="nose is not positive anywhere"):
        lost.maps(["nose"])


def test_an_exported_file_has_no_attention_to_show(predictor):
    other = copy.copy(predictor)
    other.trained = object.__new__(Exported)
    object.__setattr__(other.trained, "path", Path("demo.onnx"))
    with pytest.raises(UserError, match=r"demo\.onnx: an exported file gives no attention"):
        other.explain(IMAGE, BOXES)


def test_broken_weights_are_refused(predictor):
    network = copy.deepcopy(predictor.trained.network)
    with torch.no_grad():
        network.final_layer.bias.fill_(float("nan"))
    broken = type(predictor)(replace(predictor.trained, network=network), device="cpu")
    with pytest.raises(UserError, match="NaN or infinite"):
        next(broken.explain(IMAGE, BOXES))


# Figures of a set


def small_crops() -> TopDownDataset:
    return TopDownDataset(sample_instances(), ImageReader(IMAGES), COCO, (64, 96), (16, 24))


def sample(network: TransPose, indices: list[int]) -> list[Explanation]:
    return [maps.explain_sample(network, small_crops(), i, TestOptions(blur_kernel=5)) for i in indices]


def named_network() -> TransPose:
    network = small_r()
    fill_from_names(network)
    return network


def test_even_attention_has_even_figures():
    network = named_network()
    with torch.no_grad():
        for layer in network.global_encoder.layers:
            layer.self_attn.in_proj_weight.zero_()
            layer.self_attn.in_proj_bias.zero_()
    measured = stats.statistics(sample(network, [0, 9]), min_score=-1.0)
    seen = measured.persons > 0
    assert seen.any()
    for layer in range(2):
        np.testing.assert_allclose(measured.distance[layer, seen], measured.even_distance[seen])
        np.testing.assert_allclose(measured.entropy[layer, seen], math.log2(96))
        np.testing.assert_allclose(measured.inside[layer, seen], measured.even_inside[seen])
        np.testing.assert_allclose(measured.pairs[layer][measured.pair_persons > 0], 1)
    assert 0 < measured.even_inside[seen].min() and measured.even_inside[seen].max() < 1


def test_figures_are_the_means_of_what_each_person_shows():
    explanations = sample(named_network(), [0, 9, 30])
    least = float(np.median([explanation.scores for explanation in explanations]))
    measured = stats.statistics(explanations, least)
    k, j, layer = next((k, j, 1) for k in range(17) for j in range(17) if k != j and measured.pair_persons[k, j] > 1)
    distances, entropies, shares, weights = [], [], [], []
    for one in explanations:
        if one.scores[k] < least:
            continue
        rows = one.attention.dependency(torch.tensor([[one.tokens[k]]]))[layer, 0, :, 0].numpy()
        own_y, own_x = divmod(int(one.tokens[k]), 8)
        y, x = np.mgrid[:12, :8]
        distances.append((rows * np.hypot(8 * (x - own_x), 8 * (y - own_y))).sum((1, 2)).mean())
        entropies.append(np.mean([-sum(w * math.log2(w) for w in row.flat) for row in rows]))
        box = one.box
        corners = geometry.apply(one.to_crop, np.array([box[:2] - 0.5, box[:2] + box[2:] - 0.5]))
        held = (8 * x + 3.5 >= corners[0, 0]) & (8 * x + 3.5 <= corners[1, 0])
        held &= (8 * y + 3.5 >= corners[0, 1]) & (8 * y + 3.5 <= corners[1, 1])
        shares.append((rows * held).sum((1, 2)).mean())
        if one.scores[j] >= least:
            weights.append(rows.reshape(4, -1)[:, one.tokens[j]].mean() * 96)
    assert measured.persons[k] == len(distances) > 1
    assert measured.distance[layer, k] == pytest.approx(np.mean(distances))
    assert measured.entropy[layer, k] == pytest.approx(np.mean(entropies))
    assert measured.inside[layer, k] == pytest.approx(np.mean(shares))
    assert measured.pairs[layer, k, j] == pytest.approx(np.mean(weights)) and len(weights) > 1
    table = list(csv.DictReader(io.StringIO(measured.to_csv())))
    line = next(row for row in table if row["layer"] == "1" and row["keypoint"] == COCO.names[k])
    assert float(line["distance"]) == pytest.approx(np.mean(distances), abs=1e-4)


def test_no_detections_are_reported():
    with pytest.raises(UserError, match="nothing to measure"):
        stats.statistics(sample(named_network(), [0]), min_score=1e9)


# Pictures


def test_weights_below_the_threshold_leave_the_image_as_it_is(person):
    weights = person.maps(["nose"]).values[0, 0]
    plain = figures.overlay(person, np.zeros_like(weights))
    assert np.ptp(plain.astype(int), axis=2).max() == 0  # grey
    np.testing.assert_array_equal(figures.overlay(person, weights, threshold=2.0), plain)
    everything, some = figures.overlay(person, weights), figures.overlay(person, weights, weights.max() / 3)
    np.testing.assert_array_equal(figures.overlay(person, weights, share=1 / 3), some)
    coloured, fewer = ((np.ptp(picture.astype(int), axis=2) > 8).mean() for picture in (everything, some))
    assert 0 < fewer < coloured


def test_the_brightest_place_is_the_largest_weights(person):
    weights = np.zeros((12, 8))
    weights[2, 6] = 0.3
    picture = figures.overlay(person, weights).astype(int)
    factor = person.picture.shape[0] // 96
    y, x = np.unravel_index(np.ptp(picture, axis=2).argmax(), picture.shape[:2])
    assert (y // (8 * factor), x // (8 * factor)) == (2, 6)


def test_a_picture_has_the_same_bytes_twice(person, tmp_path):
    maps = person.maps(["nose", "left_wrist"], layers=[1])
    measured = stats.statistics([person])
    contents = []
    for turn in ("a", "b"):
        figures.save(figures.grid(person, maps), tmp_path / f"{turn}.png")
        figures.save(figures.single(person, maps.values[0, 0], maps.queries[0]), tmp_path / f"{turn}1.svg")
        figures.save(figures.measures(measured), tmp_path / f"{turn}2.jpg")
        figures.save(figures.pairs(measured), tmp_path / f"{turn}3.png")
        contents.append([path.read_bytes() for path in sorted(tmp_path.glob(f"{turn}*"))])
    assert contents[0] == contents[1] and all(len(content) > 4000 for content in contents[0])


@pytest.mark.parametrize("rows, columns", [(1, 1), (2, 17), (8, 3)])
def test_texts_of_a_grid_stay_inside_and_do_not_overlap(person, rows, columns):
    maps = person.maps([*COCO.names[:columns]] if columns < 17 else list(COCO.names), layers=[0] * rows)
    figure = figures.grid(person, maps)
    assert figures.rendered(figure).shape[1] <= 10.6 * figures.DPI
    renderer = figure.canvas.get_renderer()
    texts = [*figure.texts, *(label for place in figure.axes for label in place.get_yticklabels() if place.axison)]
    boxes = [text.get_window_extent(renderer) for text in texts]
    width, height = figure.get_size_inches() * figure.dpi
    for i, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, texts[i]
        assert not any(box.overlaps(other) for other in boxes[:i]), texts[i]


def test_a_grid_says_what_its_threshold_leaves_out(person):
    def caption(mode: str, threshold: float) -> str:
        texts = figures.grid(person, person.maps(["nose"], mode), threshold).texts
        return " ".join(texts[-1].get_text().split())

    assert "left out" not in caption("dependency", 0.0)
    assert caption("dependency", 0.00075).endswith("; less than 0.075 % is left out")
    assert caption("gradient", 0.001).endswith("; less than 0.001 is left out")


@pytest.mark.filterwarnings("error")
def test_figures_of_a_data_set_with_few_keypoints_and_one_without_persons(person):
    unseen = replace(person, scores=np.where(np.arange(17) == 3, 0, 1).astype(np.float32))
    measured = stats.statistics([unseen])
    assert np.isnan(measured.distance[:, 3]).all()
    pictures = [figures.rendered(make(measured)) for make in (figures.measures, figures.pairs)]
    assert all(picture.min() < 100 for picture in pictures)

    first = {name: getattr(measured, name)[..., :1] for name in ("distance", "entropy", "inside")}
    first |= {name: getattr(measured, name)[:1] for name in ("persons", "even_distance", "even_inside")}
    figure = figures.measures(replace(measured, names=measured.names[:1], **first))
    figures.rendered(figure)
    (legend,) = (legend.get_window_extent() for legend in figure.legends)
    assert not any(legend.overlaps(place.get_window_extent()) for place in figure.axes)


def test_a_star_on_the_border_moves_nothing(person):
    corner = replace(person, peaks=np.full((17, 2), -0.8))
    figure = figures.grid(corner, corner.maps(["nose"]))
    assert all(place.get_xlim() == (-0.5, 63.5) and place.get_ylim() == (95.5, -0.5) for place in figure.axes[:-1])


# The tools and the page


def test_the_program_of_the_page_runs(run, tmp_path, monkeypatch, capsys):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    stage(run, tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    (said,) = re.findall(r"print\(.*\)  # (.*) and 1, up to rounding\n", program)
    printed, total = capsys.readouterr().out.strip().rsplit(" ", 1)
    assert printed == said and float(total) == pytest.approx(1)
    assert cv2.imread("wrist.png") is not None


def test_the_commands_of_the_page_make_its_pictures(run, run_preloaded: Run, tmp_path):
    stage(run, tmp_path)
    blocks = [
        block.replace("\\\n", " ") for _, block in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    ]
    (first,) = [shlex.split(block) for block in blocks if "visualize" in block]
    (keypoints,) = re.findall(r"the command above with `--keypoints (\S+)`", PAGE)
    (tmp_path / "docs").mkdir()
    for name, more in (("dependency", []), ("gradient", ["--keypoints", keypoints, "--mode", "gradient"])):
        made, kept = (folder / "docs" / f"{name}.jpg" for folder in (tmp_path, ROOT))
        assert f"({kept.name})" in PAGE
        made.write_text("an older one")
        assert first[:2] == ["python", "tools/visualize.py"]
        done = run_preloaded("visualize", [*first[2:], *more, "--out", f"docs/{name}.jpg"], tmp_path, {})
        assert done.returncode == 0, done.stderr
        assert cv2.imread(str(made)).shape == cv2.imread(str(kept)).shape


def stage(folder: Path, root: Path) -> None:
    """What the page's commands find in a clone, with this run's folder as the demo's."""
    (root / "output/coco/transpose_r").mkdir(parents=True)
    (root / "output/coco/transpose_r/demo").symlink_to(folder)
    for name in ("data", "experiments"):
        (root / name).symlink_to(ROOT / name)


def arguments(folder: Path, *more: str) -> list[str]:
    box = "79.83,68.64,148.47,244.71"
    return ["--model", str(folder), "--image", str(IMAGE), "--box", box, "--device", "cpu", *more]


def test_maps_of_which_nothing_is_left_are_counted_in_a_sentence(run, run_preloaded: Run, tmp_path):
    for number, (threshold, said) in enumerate((("5", "2 of 2 maps show nothing"), ("90%", ""))):
        folder = tmp_path / str(number)
        folder.mkdir()
        options = ["--keypoints", "nose", "--threshold", threshold]
        done = run_preloaded("visualize", arguments(run, *options), folder, {})
        assert done.returncode == 0, done.stderr
        assert said in done.stdout and ("show nothing" in done.stdout) is bool(said)


def test_visualize_writes_the_grid_and_each_map(run, run_preloaded: Run, tmp_path):
    options = ["--keypoints", "nose,left_wrist", "--point", "100,150", "--layers", "1", "--out", "a/grid.svg"]
    done = run_preloaded("visualize", arguments(run, *options, "--singles", "each"), tmp_path, {})
    assert done.returncode == 0, done.stderr
    assert "dependency of 3 point(s) in 1 row(s)" in done.stdout
    grid = tmp_path / "a" / "grid.svg"
    assert grid.read_text().startswith("<?xml")
    singles = sorted(path.name for path in (tmp_path / "each").iterdir())
    assert singles == [f"{place}_dependency_layer_1.svg" for place in ("100_150", "left_wrist", "nose")]

    grid.write_text("mine")
    again = run_preloaded("visualize", arguments(run, *options), tmp_path, {})
    assert "a/grid.svg: exists already" in sentence(again) and grid.read_text() == "mine"
    options[-1] = "b.svg"
    again = run_preloaded("visualize", arguments(run, *options, "--singles", "each"), tmp_path, {})
    assert "exists already" in sentence(again) and not (tmp_path / "b.svg").exists()


@pytest.mark.parametrize(
    "options, said",
    [
        (["--keypoints", "nose,left_rist"], ["left_rist", "'left_wrist'"]),
        (["--point", "490,10"], ["(490, 10)", "outside the person's crop"]),
        (["--point", "490"], ["--point must be X,Y"]),
        (["--threshold", "nan"], ["--threshold must be a weight, 0 or more, or a percentage such as 50%, not nan"]),
        (["--threshold", "100%"], ["--threshold must be a weight, 0 or more, or a percentage such as 50%, not 100%"]),
        (["--box", "1,2,3"], ["--box must be X,Y,W,H"]),
        (["--box", "1,2,3,a"], ["--box must be X,Y,W,H, four numbers in pixels, not '1,2,3,a'"]),
        (["--detector", "yolox_s"], ["--detector: no detector runs, because --box gives the boxes"]),
        (["--box", "900,10,50,50"], ["900", "outside of the image, which is 500 x 332"]),
        (["--max-pixels", "165999"], ["388056.jpg: refused before decoding: it is 500 x 332, but --max-pixels"]),
        (["--image", "none.jpg"], ["none.jpg", "cannot read the image"]),
        (["--image", str(ROOT / "README.md")], ["README.md", "not an image"]),
        (["--out", "picture.jpeg"], ["picture.jpeg", ".png, .jpg, .svg"]),
        (["--model", "tp_z"], ["tp_z", "tp_r_a4"]),
        (["--cfg", "some.yaml"], ["some.yaml"]),
        (["--model", ""], ["no network is given: pass --model, or --cfg"]),
        (["TEST.FLIP_TEST", "True"], ["TEST.FLIP_TEST", "need --cfg"]),
    ],
    ids=lambda value: " ".join(value)[:30] if value and value[0].startswith("-") else None,
)
def test_bad_input_is_one_sentence(options, said, run, run_preloaded: Run, tmp_path):
    done = run_preloaded("visualize", arguments(run, *options), tmp_path, {})
    assert all(text in sentence(done) for text in said), done.stderr
    assert not list(tmp_path.glob("*.png"))


def test_without_matplotlib_one_sentence_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        visualize.main(arguments(tmp_path))


def test_the_figures_of_a_set_are_the_same_twice(run, run_preloaded: Run, tmp_path):
    yaml = ["--cfg", str(ROOT / "experiments/coco_sample/demo.yaml"), "--modelDir", str(tmp_path), "--persons", "4"]
    weights = ["TEST.MODEL_FILE", str(run / "final_state.pth")]
    for turn in "ab":
        done = run_preloaded("attention_stats", [*yaml, "--out", str(tmp_path / turn), *weights], tmp_path, {})
        assert done.returncode == 0, done.stderr
        assert "4 of 105 persons" in done.stdout and "| keypoint | persons |" in done.stdout
    names = ["attention.csv", "attention.md", "attention.png", "pairs.csv", "pairs.png"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
