"""Configuration: shipped and original yaml files load, and what they mean."""

from pathlib import Path

import pytest
from helpers.goldens import ROOT
from yacs.config import CfgNode

from transpose.build.model import SKELETON_FILE
from transpose.config.changes import as_dict, config_changes
from transpose.config.check import REMOVED
from transpose.config.load import load_config
from transpose.errors import UserError

RECIPES = sorted(path for path in (ROOT / "experiments").rglob("*.yaml") if path.name != SKELETON_FILE)
R_A4 = ROOT / "experiments" / "coco" / "transpose_r" / "TP_R_256x192_d256_h1024_enc4_mh8.yaml"
# Written as the original's files are, with keys that have no effect.
ORIGINAL_STYLE = """
GPUS: (0,1)
DATASET: {DATASET: 'coco', ROOT: 'data/coco/', ROT_FACTOR: 45, DATA_FORMAT: jpg}
MODEL:
  NAME: transpose_h
  IMAGE_SIZE: [192, 256]
  HEATMAP_SIZE: [48, 64]
  SIGMA: 2
  DIM_MODEL: 64
  N_HEAD: 1
  EXTRA:
    PRETRAINED_LAYERS: ['conv1', 'stage2']
    STAGE2: {NUM_MODULES: 1, NUM_BLOCKS: [4, 4], NUM_CHANNELS: [32, 64], FUSE_METHOD: SUM}
    STAGE3: {NUM_MODULES: 4, NUM_BLOCKS: [4, 4, 4], NUM_CHANNELS: [32, 64, 128], BLOCK: BASIC, FUSE_METHOD: SUM}
TRAIN: {LR: 1e-4, LR_STEP: [100, 150], WD: 0.1, GAMMA1: 0.99, END_EPOCH: 240}
TEST: {SHIFT_HEATMAP: true, POST_PROCESS: true, NMS_THRE: 1.0, USE_GT_BBOX: true}
"""


def load(tmp_path: Path, text: str, *overrides: str) -> CfgNode:
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    return load_config(path, overrides)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_yaml_loads_and_the_runs_own_copy_says_the_same(path, tmp_path):
    cfg = load_config(path)
    copy = tmp_path / "config.yaml"
    copy.write_text(cfg.dump())
    assert as_dict(cfg) == as_dict(load_config(copy))


def test_the_originals_yaml_loads_and_its_keys_without_effect_are_listed_in_one_line(tmp_path, caplog):
    with caplog.at_level("INFO", "transpose"):
        cfg = load(tmp_path, ORIGINAL_STYLE)
    assert cfg.GPUS == (0, 1) and cfg.TRAIN.LR == 1e-4 and cfg.MODEL.EXTRA.STAGE2.NUM_CHANNELS == [32, 64]
    (line,) = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
    for key in ("TEST.SHIFT_HEATMAP", "TEST.POST_PROCESS", "TRAIN.GAMMA1", "TRAIN.WD", "TRAIN.LR_STEP", "FUSE_METHOD"):
        assert key in line
    assert "TRAIN.END_EPOCH" not in line


def test_keys_that_another_key_gives_an_effect_are_not_listed(tmp_path, caplog):
    wake = ["TRAIN.SCHEDULE", "multistep", "TRAIN.OPTIMIZER", "sgd"]
    with caplog.at_level("INFO", "transpose"):
        load(tmp_path, ORIGINAL_STYLE, *wake)
    told = caplog.text
    assert "LR_STEP" not in told and "TRAIN.WD" not in told and "GAMMA1" in told


def test_removed_keys_are_accepted_and_named_in_one_line_with_what_to_do(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(REMOVED, "TRAIN.OLD", "set TRAIN.LR")
    monkeypatch.setitem(REMOVED, "TEST.GONE", "not needed any more")
    with caplog.at_level("INFO", "transpose"):
        cfg = load(tmp_path, "TRAIN: {OLD: [1, 2]}", "TEST.GONE", "x")
    assert "OLD" not in cfg.TRAIN and "GONE" not in cfg.TEST
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "removed keys without effect: TRAIN.OLD (set TRAIN.LR), TEST.GONE (not needed any more)"
    saved = as_dict(cfg)
    saved["TRAIN"]["OLD"] = [1, 2]
    assert config_changes(saved, cfg) == []
    monkeypatch.delitem(REMOVED, "TRAIN.OLD")
    with pytest.raises(UserError, match=r"TRAIN\.OLD is not a configuration key"):
        load(tmp_path, "TRAIN: {OLD: [1, 2]}")


def test_the_scorer_of_version_0_1_is_accepted_and_named(tmp_path, caplog):
    with caplog.at_level("INFO", "transpose"):
        cfg = load(tmp_path, "TEST: {SCORER: faster-coco-eval}")
    assert "SCORER" not in cfg.TEST
    assert "removed keys without effect: TEST.SCORER (pycocotools computes the AP;" in caplog.text
    saved = as_dict(cfg)
    saved["TEST"]["SCORER"] = "faster-coco-eval"
    assert config_changes(saved, cfg) == []


def test_overrides_come_last_and_take_the_keys_type(tmp_path):
    cfg = load(tmp_path, ORIGINAL_STYLE, "TRAIN.LR", "1", "MODEL.SIGMA", "1.5", "DATASET.ROOT", "2017", "GPUS", "[3]")
    assert cfg.TRAIN.LR == 1.0 and isinstance(cfg.TRAIN.LR, float) and cfg.MODEL.SIGMA == 1.5
    assert cfg.DATASET.ROOT.endswith("2017") and cfg.GPUS == (3,)


def test_base_is_overridden_key_by_key(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL: {DIM_MODEL: 64, N_HEAD: 4}\nWORKERS: 1\n")
    cfg = load(tmp_path, "_BASE_: base.yaml\nMODEL: {N_HEAD: 2}\n")
    assert (cfg.MODEL.DIM_MODEL, cfg.MODEL.N_HEAD, cfg.WORKERS) == (64, 2, 1)


def test_a_key_in_one_piece_and_in_its_section_is_refused(tmp_path):
    assert load(tmp_path, "MODEL.N_HEAD: 2\nMODEL: {DIM_MODEL: 64}\n").MODEL.N_HEAD == 2
    with pytest.raises(UserError, match=r"experiment.yaml: MODEL.N_HEAD is set twice, in one piece and inside its"):
        load(tmp_path, "MODEL: {N_HEAD: 4}\nMODEL.N_HEAD: 2\n")


def test_bases_in_a_circle_are_refused(tmp_path):
    (tmp_path / "b.yaml").write_text("_BASE_: experiment.yaml\n")
    with pytest.raises(UserError, match="leads back"):
        load(tmp_path, "_BASE_: b.yaml\n")


def test_paths_of_a_yaml_are_looked_for_under_data_dir_then_under_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "DATASET: {ROOT: data/coco_sample}"
    assert load(tmp_path, text).DATASET.ROOT == str(ROOT / "data/coco_sample")
    (tmp_path / "big" / "data" / "coco_sample").mkdir(parents=True)
    path = tmp_path / "experiment.yaml"
    assert load_config(path, data_dir="big").DATASET.ROOT == str(tmp_path / "big/data/coco_sample")
    assert load_config(path, output_dir="runs").OUTPUT_DIR == str(tmp_path / "runs")
    assert load_config(path).OUTPUT_DIR == str(ROOT / "output")
    (tmp_path / "here.pth").touch()
    assert load_config(path, ["TEST.MODEL_FILE", "here.pth"]).TEST.MODEL_FILE == str(tmp_path / "here.pth")


def test_resume_ignores_paths_and_notices_changes_of_the_training():
    old = as_dict(load_config(R_A4))
    same = load_config(R_A4, ["WORKERS", "2", "GPUS", "(3,)", "PRINT_FREQ", "7", "DEBUG.DEBUG", "True"], log_dir="x")
    assert config_changes(old, same) == []
    other = load_config(R_A4, ["TRAIN.LR", "0.5", "GPUS", "(0,1)"])
    assert config_changes(old, other) == ["GPUS: 1 -> 2", "TRAIN.LR: 0.0001 -> 0.5"]


def test_a_checkpoint_from_before_a_key_was_there_can_be_resumed():
    cfg = load_config(ROOT / "experiments/coco_sample/demo.yaml")
    saved = as_dict(cfg)
    del saved["TRAIN"]["PRECISION"], saved["SEED"]
    assert config_changes(saved, cfg) == []
    saved["TRAIN"]["LR"] = 1.0
    assert config_changes(saved, cfg) == ["TRAIN.LR: 1.0 -> 0.002"]


def test_a_path_that_no_system_takes_is_refused_by_its_key():
    with pytest.raises(
        UserError, match=r"TP_R.*yaml with the command line: DATASET\.ROOT 'xxx.* cannot be a path \(File name too"
    ):
        load_config(R_A4, ["DATASET.ROOT", "x" * 6000])
