"""The jobs of `benchmarks.jobs` as one process each does them: python -m benchmarks.job_parts NAME …, with
PYTHONPATH=tools. Each prints its figures as JSON in its last line.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import forward, scale, synthetic
from benchmarks.forward import RECIPES, REPOSITORY
from benchmarks.job_process import BATCH, Figures, consume, each_crop, main, since_start, wait_for
from transpose.build import evaluation
from transpose.build.data import build_training_data
from transpose.build.run import build_trainer
from transpose.commands import predict, test
from transpose.config.load import load_config
from transpose.core.loss import mse
from transpose.core.train import train_epoch
from transpose.evaluation.evaluate import CocoEvaluation
from transpose.models.backends import Backend

# PyTorch's operations that bfloat16 makes faster.
KERNELS = re.compile(r"conv|scaled_dot_product|aten::(add|b|badd)?(mm|bmm)_?$")


def feed(root: str, workers: str, samples: str, *overrides: str) -> Figures:
    """The training set's loader against a step that waits."""
    own = ["WORKERS", workers, "GPUS", "(0,)", "TRAIN.BATCH_SIZE_PER_GPU", str(BATCH)]
    start = time.perf_counter()
    loader, _ = build_training_data(scale.settings(Path(root), *own, *overrides))
    return consume(loader, int(samples), lambda batch: len(batch["index"]), start, time.perf_counter())


def test_command(root: str, how: str, *overrides: str) -> Figures:
    """tools/test.py on detected boxes with the "network", or with so many milliseconds of a wait in its place. Without
    either the predictions are made up, so that what is left is reading, OKS-NMS, the results file and AP."""
    folder, seconds, done = Path(root), Figures(), list[tuple[float, int]]()
    whole = CocoEvaluation.predict

    def watched(self: CocoEvaluation, model: Any) -> Any:
        return whole(self, model, lambda batch, *_: done.append((time.perf_counter(), len(batch["index"]))))

    def made_up(self: CocoEvaluation, *_: Any) -> Any:
        return synthetic.predictions(self.crops.instances, self.crops.center, self.crops.scale)

    CocoEvaluation.predict = watched if how else made_up  # type: ignore[assignment,method-assign]
    if how not in ("", "network"):
        waiting = wait_for(float(how))
        Backend.__call__ = lambda *_: waiting  # type: ignore[method-assign]
    for method in ("predict", "evaluate"):
        setattr(CocoEvaluation, method, timed(getattr(CocoEvaluation, method), f"{method}, s", seconds))
    evaluation.build_evaluation = timed(evaluation.build_evaluation, "read, s", seconds)
    options = ["TEST.USE_GT_BBOX", "False", "TEST.FLIP_TEST", "False", "TEST.MODEL_FILE", str(folder / "weights.pth")]
    sets = ["DATASET.ROOT", root, "TEST.COCO_BBOX_FILE", str(folder / "boxes.json"), *overrides]
    test.main(["--cfg", str(RECIPES["tp_r_a4"]), "--modelDir", str(folder / "output"), *options, *sets])
    return seconds | ({"a crop, ms": each_crop(done)} if done else {})


def predict_command(images: str, *arguments: str) -> Figures:
    """tools/predict.py, until the network is loaded, and from there for so many images or frames."""
    seconds = Figures()
    made = predict.make_predictor

    def loaded(given: Any) -> Any:
        predictor = made(given)
        seconds["start, s"] = since_start()
        return predictor

    predict.make_predictor = loaded
    predict.main(arguments)
    return seconds | {"an image, ms": 1e3 * (since_start() - seconds["start, s"]) / int(images)}


def timed(call: Callable, name: str, seconds: dict[str, float]) -> Callable:
    """The same function; how long it takes is added to `seconds`."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            seconds[name] = seconds.get(name, 0) + time.perf_counter() - start

    return wrapped


def train(root: str, recipe: str, micro_batch: str, steps: str, *overrides: str) -> Figures:
    """Training steps of a recipe on the bundled sample, as the trainer takes them."""
    sample = [
        *("DATASET.ROOT", str(REPOSITORY / "data/coco_sample"), "DATASET.TRAIN_SET", "val2017", "GPUS", "(0,)"),
        *("TRAIN.BATCH_SIZE_PER_GPU", micro_batch, "MODEL.INIT_WEIGHTS", "False", "WORKERS", "1"),
        *overrides,
    ]
    cfg = load_config(RECIPES[recipe], sample, output_dir=root)
    trainer = build_trainer(cfg, recipe, Path(root), torch.device("cpu"))
    fixed = trainer.model, trainer.loader, trainer.plan, trainer.targets, trainer.criterion
    taken = train_epoch(*fixed, trainer.optimizer, trainer.scaler, trainer.options, 0)
    next(taken)
    start = time.perf_counter()
    for _ in range(int(steps)):
        next(taken)
    seconds = (time.perf_counter() - start) / int(steps)
    return {"step, s": seconds, "steps/s": 1 / seconds, "crops/s": int(micro_batch) / seconds}


def work(recipe: str, what: str, precision: str, batch: int) -> Callable[[], Tensor]:
    """A forward pass as in a test, or a training step, of a recipe's network with random weights."""
    network = forward.model_of(recipe)
    if what == "training step":
        return forward.step_of(network, mse, batch, torch.float32)
    images, how = forward.images_of(batch), Backend(precision)(network)
    return torch.inference_mode()(lambda: how(images))


def once(recipe: str, precision: str, batch: str) -> Figures:
    """A forward pass after a first one."""
    call = work(recipe, "forward pass", precision, int(batch))
    call()
    start = time.perf_counter()
    call()
    return {"s": time.perf_counter() - start}


def kernels(recipe: str, what: str, batch: str) -> Figures:
    """The share of float32's time in operations that bfloat16 makes faster."""
    call = work(recipe, what, "float32", int(batch))
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        call()
    spent = {entry.key: entry.self_cpu_time_total for entry in profiler.key_averages()}
    return {"share": sum(spent[name] for name in spent if KERNELS.search(name)) / sum(spent.values())}


PARTS: dict[str, Callable[..., Figures]] = {
    "feed": feed,
    "test": test_command,
    "predict": predict_command,
    "train": train,
    "once": once,
    "kernels": kernels,
}

if __name__ == "__main__":
    main(PARTS)
