"""What the commands' options have in common, and sentences that name the way out."""

import pytest

from transpose import cli
from transpose.commands import predict


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


def test_a_list_may_hold_spaces_and_an_option_be_repeated():
    given = predict.arguments(["one.jpg", "--model", "m", "--save", "csv", "--save", "json", "--draw", "boxes, scores"])
    assert given.save == ["csv", "json"] and cli.drawing(given).parts == ("boxes", "scores")
