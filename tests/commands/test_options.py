"""What the commands' options have in common, and sentences that name the way out."""

import pytest
from helpers.goldens import ROOT
from helpers.people import DEMO

from transpose import cli
from transpose.build.data import data_report
from transpose.build.model import load_trained
from transpose.build.run import _build_monitor
from transpose.commands import predict
from transpose.config.load import load_config
from transpose.errors import UserError
from transpose.models import zoo
from transpose.pose.skeleton import COCO


def test_options_stand_before_between_and_after_key_value_pairs():
    given = cli.parser("").parse_args(
        ["GPUS", "(0,)", "--cfg", "a.yaml", "WORKERS", "1", "--model-dir", "m", "TRAIN.LR", "1e-4", "--logDir", "l"]
    )
    assert given.opts == ["GPUS", "(0,)", "WORKERS", "1", "TRAIN.LR", "1e-4"]
    assert (given.cfg, given.model_dir, given.log_dir, given.data_dir) == ("a.yaml", "m", "l", "")


@pytest.mark.parametrize("original", ["--modelDir", "--logDir", "--dataDir", "--prevModelDir"])
def test_the_originals_spellings_are_taken(original):
    own = "--" + "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in original[2:])
    texts = [cli.parser("").parse_args(["--cfg", "a", name, "DIR"]) for name in (original, own)]
    assert texts[0] == texts[1] and "DIR" in vars(texts[0]).values()


@pytest.mark.parametrize("spelling", ["--max-instances", "--most-persons"])
def test_predict_takes_the_older_spelling_of_its_limit(spelling):
    assert predict.arguments(["one.jpg", "--model", "m", spelling, "3"]).max_instances == 3


@pytest.mark.parametrize("name", ["tp_r_a4", "tp_h_a6"])
def test_missing_released_weights_name_the_command_that_gets_them(name, tmp_path):
    cfg = load_config(DEMO, ["TEST.MODEL_FILE", str(tmp_path / zoo.RELEASED[name].file)])
    with pytest.raises(UserError, match=rf"weights are not there; python tools/download\.py {name} gets them"):
        load_trained(cfg, None, tmp_path)


def test_images_that_were_not_read_are_not_called_readable():
    said = "\n".join(data_report(load_config(DEMO), 0).lines())
    assert "not checked: no image was read" in said and "each of the stated size" not in said


def test_debug_alone_wants_pictures_of_all_kinds(tmp_path):
    yaml = tmp_path / "small.yaml"
    yaml.write_text(f"DATASET: {{ROOT: {ROOT / 'data/coco_sample'}}}\n")
    wanted = _build_monitor(load_config(yaml, ["DEBUG.DEBUG", "True"]), COCO, None, tmp_path).wanted
    assert wanted.images_gt and wanted.images_pred and wanted.heatmaps_gt and wanted.heatmaps_pred
    assert not _build_monitor(load_config(yaml), COCO, None, tmp_path).wanted.images_gt
