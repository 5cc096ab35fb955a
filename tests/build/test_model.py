"""The configuration -> a network, and the weights that it begins with or is tested with."""

import pytest
from helpers.goldens import ROOT
from helpers.networks import PUBLISHED
from helpers.persons import DEMO

from transpose.build.model import build_model, freeze_parameters, load_trained
from transpose.config.load import load_config
from transpose.errors import UserError
from transpose.models import zoo


def test_the_key_reaches_the_encoder_and_the_default_drops_attention_weights():
    recipe = ROOT / "experiments/coco" / PUBLISHED["tp_r_a4"]["config"]
    for keys, wanted in (((), 0.1), (("MODEL.ATTENTION_DROPOUT", "False"), 0.0)):
        layers = build_model(load_config(recipe, keys)).global_encoder.layers
        assert [layer.self_attn.dropout for layer in layers] == [wanted] * 4
        assert all(layer.dropout.p == 0.1 for layer in layers)


def test_a_pattern_that_matches_nothing_is_named():
    cfg = load_config(DEMO, ["TRAIN.FREEZE", "['layr1*']"])
    with pytest.raises(UserError, match=r"'layr1\*' matches no parameter; the nearest is "):
        freeze_parameters(cfg, build_model(cfg))


@pytest.mark.parametrize("name", ["tp_r_a4", "tp_h_a6"])
def test_missing_released_weights_name_the_command_that_gets_them(name, tmp_path):
    cfg = load_config(DEMO, ["TEST.MODEL_FILE", str(tmp_path / zoo.RELEASED[name].file)])
    with pytest.raises(UserError, match=rf"weights are missing; download them with: python tools/download\.py {name}"):
        load_trained(cfg, None, tmp_path)
