"""Losses and the logged accuracy: the original's values, six training steps, and what each term means."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.goldens import fill_from_names, golden
from torch import Tensor

from transpose.core import loss
from transpose.core.predict import heatmaps_of, normalise
from transpose.core.train import gradient_norm
from transpose.models.transpose import R_A4, TransPoseR
from transpose.pose.skeleton import COCO


@pytest.fixture(scope="module")
def original() -> dict[str, Tensor]:
    content = golden("loss") | {"target": golden("crops_gt")["target"]}
    return {name: torch.from_numpy(np.asarray(value)) for name, value in content.items()}


def test_losses_are_the_originals(original):
    output, target, weight = (original[name] for name in ("output", "target", "target_weight"))
    assert float(loss.mse(output, target, weight)) == pytest.approx(float(original["mse"]), rel=1e-5)
    unweighted = loss.mse(output, target, torch.ones_like(weight))
    assert float(unweighted) == pytest.approx(float(original["mse_unweighted"]), rel=1e-5)
    assert float(loss.ohkm(output, target, weight, 8)) == pytest.approx(float(original["ohkm8"]), rel=1e-5)


def test_accuracy_is_the_originals(original):
    average, each = loss.pck_average(*loss.pck(original["output"], original["target"]))
    assert average == pytest.approx(float(original["pck_avg"]))
    np.testing.assert_allclose(each.numpy(), original["pck"][1:].numpy(), atol=1e-6)


def test_flip_average_is_the_originals(original):
    """A few rows of the maps: flipping acts along x."""
    images = torch.randn(1, 3, 8, 8)

    def model(x: Tensor) -> Tensor:
        if torch.equal(x, images):
            return original["output"][:1, :, 20:28]
        assert torch.equal(x, images.flip(-1))
        return original["output_of_flipped"]

    merged = heatmaps_of(model, images, torch.from_numpy(COCO.flip_order))
    np.testing.assert_allclose(merged.numpy(), original["merged"].numpy(), rtol=0, atol=1e-6)
    assert torch.equal(heatmaps_of(model, images, None), original["output"][:1, :, 20:28])


def test_six_steps_of_training_are_the_originals():
    """In float64, where no processor's rounding reaches the sixth step."""
    crops = golden("crops_gt")
    images = normalise(torch.from_numpy(crops["input"]), torch.device("cpu")).double()
    target = torch.from_numpy(crops["target"]).double()
    weight = torch.from_numpy(crops["target_weight"][:4, :, 0]).double()
    model = TransPoseR(encoder=replace(R_A4, dropout=0.0)).train()
    fill_from_names(model)
    model.double()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    losses, norms = [], []
    for _ in range(6):
        optimizer.zero_grad()
        step = loss.mse(model(images), target, weight)
        step.backward()
        losses.append(step.item())
        norms.append(gradient_norm(trained, bound=0).item())
        optimizer.step()
    original = golden("training64")
    np.testing.assert_allclose(losses, original["losses"], rtol=1e-9)
    np.testing.assert_allclose(norms, original["gradient_norms"], rtol=1e-9)


def test_weight_acts_squared_and_the_mean_runs_over_all_joints():
    output, target = torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
    assert loss.mse(output, target, torch.ones(2, 3)).item() == pytest.approx(0.5)
    assert loss.mse(output, target, torch.full((2, 3), 1.5)).item() == pytest.approx(0.5 * 2.25)
    one_joint = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    assert loss.mse(output, target, one_joint).item() == pytest.approx(0.5 / 6)


def test_hard_keypoint_mining_keeps_each_samples_worst_joints():
    offsets = torch.tensor([[1.0, 2, 3, 4], [5, 0, 0, 1]])
    output = offsets[..., None, None].expand(2, 4, 3, 3)
    found = loss.ohkm(output, torch.zeros(2, 4, 3, 3), torch.ones(2, 4), topk=2)
    assert found.item() == pytest.approx(np.mean([(16 + 9) / 4, (25 + 1) / 4]))


@pytest.mark.parametrize(
    "found, correct",
    [((20, 30), 1), ((22, 30), 1), ((23, 30), 0), ((20, 33), 1), ((20, 34), 0), ((0, 0), 0)],
)
def test_joint_is_correct_within_half_a_tenth_of_the_maps_size(found, correct):
    output, target = torch.zeros(1, 1, 64, 48), torch.zeros(1, 1, 64, 48)
    output[0, 0, found[1], found[0]] = target[0, 0, 30, 20] = 1
    counts = loss.pck(output, target)
    assert [int(count) for count in counts] == [correct, 1]


def test_accuracy_leaves_out_joints_that_were_never_counted():
    """A coordinate of 1 or less in the target, as in an empty map, is not counted."""
    target = torch.zeros(1, 3, 64, 48)
    target[0, 0, 30, 20] = target[0, 1, 1, 20] = 1
    average, each = loss.pck_average(*loss.pck(target, target))
    assert average == 1 and each.tolist() == [1, -1, -1]
    average, each = loss.pck_average(torch.tensor([1, 0, 3]), torch.tensor([4, 0, 4]))
    assert average == pytest.approx(0.5) and each.tolist() == [0.25, -1, 0.75]
    assert loss.pck_average(torch.zeros(3), torch.zeros(3))[0] == 0
