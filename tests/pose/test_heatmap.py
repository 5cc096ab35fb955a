"""The codec: targets and DARK decoding as in the original, the borders of a map, and round trips."""

import cv2
import numpy as np
import pytest
import torch
from helpers.goldens import HEATMAP, golden, mapped, sample_instances
from torch import Tensor

from transpose.pose import geometry, heatmap
from transpose.pose.skeleton import COCO

WIDTH, HEIGHT = HEATMAP


def one_map(*peaks: tuple[int, int, float], fill: float = 0.0, size: tuple[int, int] = HEATMAP) -> Tensor:
    """(1, 1, H, W) with values (x, y, value) on a constant."""
    maps = torch.full((1, 1, size[1], size[0]), fill)
    for x, y, value in peaks:
        maps[0, 0, y, x] = value
    return maps


def encoded(x: float, y: float, sigma: float = 2.0) -> tuple[Tensor, Tensor]:
    return heatmap.encode(torch.tensor([[[x, y]]]), torch.ones(1, 1), HEATMAP, sigma)


# Encoding


def test_targets_are_the_originals():
    wanted, people = golden("crops_gt"), sample_instances()
    keypoints = torch.from_numpy(mapped(wanted["center"], wanted["scale"], people.keypoints, HEATMAP)).float()
    maps, weight = heatmap.encode(keypoints, torch.from_numpy(people.visible), HEATMAP, 2.0)
    np.testing.assert_allclose(maps[:4].numpy(), wanted["target"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(maps.sum((2, 3)).numpy(), wanted["target_sum"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(weight.numpy(), wanted["target_weight"][..., 0])


def test_target_is_a_gaussian_whose_centre_is_not_rounded():
    maps, weight = encoded(20.3, 30.6, sigma=3.0)
    distance = (np.arange(WIDTH) - 20.3) ** 2 + (np.arange(HEIGHT)[:, None] - 30.6) ** 2
    np.testing.assert_allclose(maps[0, 0].numpy(), np.exp(-distance / 18), atol=1e-6)
    assert weight.item() == 1


@pytest.mark.parametrize(
    "x, y, counts",
    [
        (-7.99, 30, True),
        (-8, 30, False),
        (WIDTH + 5.99, 30, True),
        (WIDTH + 6, 30, False),
        (20, -7.99, True),
        (20, -8, False),
        (20, HEIGHT + 5.99, True),
        (20, HEIGHT + 6, False),
    ],
)
def test_joint_counts_while_its_three_sigma_square_touches_the_map(x, y, counts):
    maps, weight = encoded(x, y)
    assert weight.item() == counts
    assert bool(maps.any()) == counts


def test_invisible_joint_has_no_weight_and_an_empty_map():
    maps, weight = heatmap.encode(torch.full((1, 2, 2), 20.0), torch.tensor([[0.0, 1.0]]), HEATMAP, 2.0)
    assert weight.tolist() == [[0, 1]]
    assert not maps[0, 0].any() and maps[0, 1, 20, 20] == 1


# Decoding


@pytest.mark.parametrize("kernel", [11, 3])
def test_decoding_is_the_originals(kernel):
    wanted = golden("decode")
    maps = torch.from_numpy(wanted["heatmaps"])[None]
    keypoints, scores = heatmap.decode(maps, kernel)
    np.testing.assert_array_equal(heatmap.peaks(maps)[0][0].numpy(), wanted["argmax"])
    np.testing.assert_array_equal(scores[0].numpy(), wanted["scores"])
    np.testing.assert_allclose(keypoints[0].numpy(), wanted[f"keypoints_heatmap_k{kernel}"], rtol=0, atol=1e-3)
    refined = np.abs(wanted[f"keypoints_heatmap_k{kernel}"] - wanted["argmax"]).max(1) > 0.01
    assert 10 < refined.sum() < len(refined)  # the golden maps hold both kinds
    for person, point, image in zip(
        wanted["person"], keypoints[0].double().numpy(), wanted[f"keypoints_k{kernel}"], strict=True
    ):
        center, scale = wanted["center"][person], wanted["scale"][person]
        back = geometry.crop_to_output(center, scale, 0, HEATMAP, inverse=True)
        np.testing.assert_allclose(geometry.apply(back, point), image, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kernel", [11, 3])
@pytest.mark.parametrize(
    "maps, point, score",
    [
        (one_map(), (0, 0), 0),
        (one_map((9, 9, -0.5), fill=-1.0), (0, 0), -0.5),
        (one_map(fill=0.25), (0, 0), 0.25),
        (one_map((10, 20, 0.5)), (10, 20), 0.5),
        (one_map((30, 20, 0.5), (10, 40, 0.5)), (30, 20), 0.5),
        (one_map((30, 20, 0.5), (10, 20, 0.5)), (10, 20), 0.5),
        (one_map((5, 3, 1e-30)), (5, 3), 1e-30),
    ],
    ids=["zero", "negative", "constant", "single pixel", "tie: first row", "tie: first column", "faint"],
)
def test_decoding_of_odd_maps(maps, point, score, kernel):
    keypoints, scores = heatmap.decode(maps, kernel)
    np.testing.assert_allclose(keypoints[0, 0].numpy(), point, atol=1e-5)
    assert scores.item() == pytest.approx(score)


@pytest.mark.parametrize("x", [0, 1, 2, WIDTH - 3, WIDTH - 2, WIDTH - 1])
@pytest.mark.parametrize("y", [0, 1, 2, HEIGHT - 3, HEIGHT - 2, HEIGHT - 1])
def test_peaks_within_two_pixels_of_the_border_stay_integer(x, y):
    maps, _ = encoded(x + 0.3, y + 0.3)
    keypoints, _ = heatmap.decode(maps, 3)
    inside = 2 <= x <= WIDTH - 3 and 2 <= y <= HEIGHT - 3
    assert bool((keypoints[0, 0] != torch.tensor([x, y])).all()) == inside


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (5, 5)])
def test_small_maps_decode(size):
    keypoints, scores = heatmap.decode(one_map((2, 2, 0.7), size=size), 11)
    assert keypoints[0, 0].round().tolist() == [2, 2] and scores.item() == pytest.approx(0.7)


def test_decoding_keeps_batch_and_joints_apart():
    maps = torch.cat([encoded(x, y)[0] for x, y in [(10.2, 20.4), (30.1, 15.3), (22.7, 50.6), (9.9, 40.5)]])
    keypoints, _ = heatmap.decode(maps.view(2, 2, HEIGHT, WIDTH), 11)
    alone = torch.stack([heatmap.decode(m[None], 11)[0][0, 0] for m in maps])
    assert torch.allclose(keypoints.view(4, 2), alone, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("kernel", [3, 11])
def test_a_gpu_decodes_as_the_processor_does(kernel):
    maps = torch.from_numpy(golden("decode")["heatmaps"])[None]
    for here, there in zip(heatmap.decode(maps, kernel), heatmap.decode(maps.cuda(), kernel), strict=True):
        assert there.is_cuda
        np.testing.assert_allclose(there.cpu().numpy(), here.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3, 11])
def test_decoding_inverts_encoding(kernel):
    margin = 7  # the blurred Gaussian must not lose a flank to the border
    inside = torch.tensor([WIDTH, HEIGHT]) - 2 * margin
    wanted = margin + inside * torch.rand(20, 17, 2, generator=torch.Generator().manual_seed(0))
    maps, weight = heatmap.encode(wanted, torch.ones(20, 17), HEATMAP, 2.0)
    found, _ = heatmap.decode(0.3 * maps, kernel)
    assert weight.all()
    assert (found - wanted).abs().max() < 2e-3


@pytest.mark.parametrize("size", [k for k in range(1, 32, 2) if k != 9])
def test_blur_kernel_is_opencvs(size):
    np.testing.assert_allclose(heatmap.blur_kernel(size).numpy(), cv2.getGaussianKernel(size, 0)[:, 0], atol=1e-12)


def test_blur_kernel_of_nine_is_a_fixed_table():
    """As in the OpenCV 5 that computed the goldens; its version 4 draws a Gaussian for this size."""
    table = np.array([4, 13, 30, 51, 60, 51, 30, 13, 4]) / 256
    np.testing.assert_allclose(heatmap.blur_kernel(9).numpy(), table, atol=1e-12)


# Flipping


def test_flipping_mirrors_exchanges_left_and_right_and_undoes_itself():
    order = torch.from_numpy(COCO.flip_order)
    maps = torch.rand(2, 17, 6, 8)
    flipped = heatmap.flip(maps, order)
    left, right = COCO.names.index("left_wrist"), COCO.names.index("right_wrist")
    assert flipped[1, left, 2, 0] == maps[1, right, 2, 7]
    assert flipped[1, 0, 2, 3] == maps[1, 0, 2, 4]
    assert torch.equal(heatmap.flip(flipped, order), maps)
    assert not torch.equal(flipped, maps.flip(-1))
