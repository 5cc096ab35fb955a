"""The configuration -> optimiser, learning rate and the options of training."""

import math

import pytest
import torch
from helpers.goldens import ROOT
from helpers.persons import DEMO

from transpose.build.model import build_model
from transpose.build.optim import build_learning_rate, build_optimizer, build_train_options
from transpose.config.load import load_config
from transpose.errors import UserError

R_A4 = ROOT / "experiments/coco/transpose_r/TP_R_256x192_d256_h1024_enc4_mh8.yaml"


def test_published_schedule_is_one_cosine():
    rate = build_learning_rate(load_config(R_A4))
    assert rate(0) == pytest.approx(1e-4)
    assert rate(115) == pytest.approx((1e-4 + 1e-5) / 2)
    assert rate(229) == pytest.approx(1e-5 + 9e-5 * (1 + math.cos(math.pi * 229 / 230)) / 2)


def test_multistep_and_warm_up_act_when_asked_for():
    rate = build_learning_rate(load_config(R_A4, ["TRAIN.SCHEDULE", "multistep"]))
    assert [rate(epoch) for epoch in (0, 99, 100, 150)] == pytest.approx([1e-4, 1e-4, 2.5e-5, 6.25e-6])
    rate = build_learning_rate(load_config(R_A4, ["TRAIN.SCHEDULE", "multistep", "TRAIN.WARMUP_EPOCHS", "3"]))
    assert [rate(epoch) for epoch in range(4)] == pytest.approx([0.25e-4, 0.5e-4, 0.75e-4, 1e-4])


@pytest.mark.parametrize(
    "overrides, decay",
    [
        ([], 0),
        (["TRAIN.OPTIMIZER", "adamw"], 0),
        (["TRAIN.APPLY_WEIGHT_DECAY", "True"], 0.1),
        (["TRAIN.OPTIMIZER", "adamw", "TRAIN.APPLY_WEIGHT_DECAY", "True"], 0.1),
        (["TRAIN.OPTIMIZER", "sgd"], 0.1),
    ],
)
def test_weight_decay_acts_under_sgd_or_when_applied(overrides, decay):
    cfg = load_config(R_A4, ["TRAIN.WD", "0.1", *overrides])
    optimizer = build_optimizer(cfg, torch.nn.Linear(2, 2))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [decay]


def test_backbone_has_a_rate_of_its_own_on_request():
    for factor, scales in (("1", [1.0]), ("0.1", [1.0, 0.1])):
        cfg = load_config(DEMO, ["TRAIN.BACKBONE_LR_FACTOR", factor])
        model = build_model(cfg)
        groups = build_optimizer(cfg, model).param_groups
        assert [group["lr_scale"] for group in groups] == scales
    assert any(p is model.conv1.weight for p in groups[1]["params"])
    assert any(p is model.reduce.weight for p in groups[0]["params"])


def test_float16_on_a_processor_is_refused_for_training():
    cfg = load_config(DEMO, ["TRAIN.PRECISION", "float16"])
    with pytest.raises(UserError, match=r"TRAIN\.PRECISION float16 needs a GPU"):
        build_train_options(cfg, torch.device("cpu"))
