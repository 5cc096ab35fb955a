"""The configuration -> a run, and the data's report."""

from helpers.goldens import ROOT
from helpers.persons import DEMO

from transpose.build.data import data_report
from transpose.build.run import _build_monitor
from transpose.config.load import load_config
from transpose.pose.skeleton import COCO


def test_debug_alone_wants_pictures_of_all_kinds(tmp_path):
    yaml = tmp_path / "small.yaml"
    yaml.write_text(f"DATASET: {{ROOT: {ROOT / 'data/coco_sample'}}}\n")
    wanted = _build_monitor(load_config(yaml, ["DEBUG.DEBUG", "True"]), COCO, None, tmp_path).wanted
    assert wanted.images_gt and wanted.images_pred and wanted.heatmaps_gt and wanted.heatmaps_pred
    assert not _build_monitor(load_config(yaml), COCO, None, tmp_path).wanted.images_gt


def test_images_that_were_not_read_are_not_called_readable():
    said = "\n".join(data_report(load_config(DEMO), 0).lines())
    assert "not checked: no image was read" in said and "each of the stated size" not in said
