"""The network alone: stages of the forward pass in every backend that is installed, and of the training step.

Ours beside `benchmarks.plain_model` on the same weights and input. And by itself, with PYTHONPATH=tools:
python -m benchmarks.forward [--write] tells the peak memory.
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import report
from benchmarks.plain_model import PlainTransPose, plain_loss
from benchmarks.stages import Maker, Size, Stage
from transpose.build.evaluation import build_evaluation
from transpose.build.model import build_model, load_trained
from transpose.config.load import load_config
from transpose.core.loss import mse
from transpose.core.predict import heatmaps_of, normalise
from transpose.evaluation.evaluate import Evaluation
from transpose.models.backends import Backend, Forward, computes_bfloat16
from transpose.models.transpose import TransPose
from transpose.pose import heatmap

REPOSITORY = Path(__file__).resolve().parents[1]
COCO = REPOSITORY / "experiments/coco"
DEMO = REPOSITORY / "experiments/coco_sample/demo.yaml"
RECIPES = {
    "tp_r_a4": COCO / "transpose_r/TP_R_256x192_d256_h1024_enc4_mh8.yaml",
    "tp_h_s": COCO / "transpose_h/TP_H_w32_256x192_stage3_1_4_d64_h128_relu_enc4_mh1.yaml",
    "tp_h_a6": COCO / "transpose_h/TP_H_w48_256x192_stage3_1_4_d96_h192_relu_enc6_mh1.yaml",
}
TRAINING = (("tp_r_a4", 4), ("tp_h_s", 1))
MEMORY = ("tp_h_a6", 8)
WEIGHTS = REPOSITORY / "output/coco/transpose_r/demo/final_state.pth"


def model_of(name: str, *overrides: str) -> TransPose:
    """A model with drawn weights and batch norms that are not fresh, the same ones each time."""
    torch.manual_seed(0)
    model = build_model(load_config(RECIPES[name], overrides))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return model.eval()


def images_of(batch: int) -> Tensor:
    return torch.randn(batch, 3, 256, 192, generator=torch.Generator().manual_seed(1))


def plain_forward(model: TransPose) -> Forward:
    network = PlainTransPose(model)

    @torch.no_grad()
    def forward(images: Tensor) -> Tensor:
        return network(images)

    return forward


def ways() -> dict[str, Callable[[TransPose], Forward]]:
    """The baseline first, then what can run here."""
    found: dict[str, Callable[[TransPose], Forward]] = {"plain": plain_forward, "PyTorch": Backend()}
    for title, backend in (("OpenVINO", "openvino"), ("ONNX Runtime", "onnxruntime")):
        if importlib.util.find_spec(backend):
            found[title] = Backend(backend=backend)
    if computes_bfloat16(torch.device("cpu")):
        found["PyTorch, bfloat16"] = Backend("bfloat16")
        if importlib.util.find_spec("openvino"):
            found["OpenVINO, bfloat16"] = Backend("bfloat16", "openvino")
    return found


def relative(truth: Tensor, other: Tensor) -> float:
    """Largest difference as a share of the largest value; infinite where a map's maximum lies elsewhere."""
    if (other.flatten(2).argmax(2) != truth.flatten(2).argmax(2)).any():
        return float("inf")
    return float((other - truth).abs().max() / truth.abs().max())


def forward_stage(recipe: str, batch: int, way: str, original: str, wanted: str) -> Maker:
    """One recipe's forward pass in one of the `ways`."""

    def make(size: Size, folder: Path) -> Stage:
        model, images = model_of(recipe), images_of(min(batch, size.batch))
        plain, ours = plain_forward(model), torch.inference_mode()(ways()[way](model))
        return Stage(
            title=f"forward pass of {recipe}, batch {len(images)}, {way}",
            original=original,
            wanted=wanted,
            plain=lambda: plain(images),
            ours=lambda: ours(images),
            difference=relative,
            tolerance=1e-4 if recipe.startswith("tp_r") else 5e-4,
            unit="of the largest value",
        )

    return make


def step_of(model: nn.Module, criterion: Callable[..., Tensor], batch: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A training step on fixed input, which returns its loss."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-4)
    draw = torch.Generator().manual_seed(2)
    images, target = images_of(batch), torch.rand(batch, 17, 64, 48, generator=draw)
    weight = (torch.rand(batch, 17, generator=draw) < 0.7).float()
    model.train()

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output = model(images)
        loss = criterion(output.float(), target, weight)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def training_stage(recipe: str, batch: int, attention_dropout: bool, dtype: torch.dtype, wanted: str) -> Maker:
    """A training step; the difference is that of the losses with dropout 0, where both do the same arithmetic."""

    def make(size: Size, folder: Path) -> Stage:
        share = min(batch, size.batch)

        def steps(*keys: str, precision: torch.dtype) -> list[Callable[[], Tensor]]:
            plain = PlainTransPose(model_of(recipe, *(keys if "MODEL.DROPOUT" in keys else ())))
            ours = model_of(recipe, *keys)
            return [step_of(plain, plain_loss, share, torch.float32), step_of(ours, mse, share, precision)]

        plain, ours = steps("MODEL.ATTENTION_DROPOUT", str(attention_dropout), precision=dtype)

        def difference(*_: Tensor) -> float:
            one, other = (float(step()) for step in steps("MODEL.DROPOUT", "0", precision=torch.float32))
            return abs(one - other) / one

        return Stage(
            title=f"training step of {recipe}, batch {share}"
            + ("" if attention_dropout else ", without attention dropout")
            + (", bfloat16" if dtype == torch.bfloat16 else ""),
            original="",
            wanted=wanted,
            plain=plain,
            ours=ours,
            difference=difference,
            tolerance=1e-5,
            unit="of the loss",
        )

    return make


def stages() -> dict[str, Maker]:
    """What this machine and the packages that are installed can run."""
    # recipe, batch, the original's time, and the ratios wanted: PyTorch, other runtimes, both in bfloat16
    forwards = (
        ("tp_r_a4", 8, "2.7 s", ("≥ 1.7×", "≥ 2×", "≥ 2.5×", "≥ 4×")),
        ("tp_h_s", 1, "581 ms", ("≥ 1.9×", "≥ 2.5×", "≥ 2.4×", "≥ 4.3×")),
        ("tp_h_a6", 1, "1.08 s", ("≥ 1.7×", "≥ 2.1×", "≥ 2.2×", "≥ 4×")),
    )
    found: dict[str, Maker] = {}
    for recipe, batch, original, wanted in forwards:
        for way in list(ways())[1:]:
            kind = ("PyTorch" not in way) + 2 * ("bfloat16" in way)
            name = f"{recipe}-{way}".lower().replace("_", "-").replace(", ", "-").replace(" ", "")
            found[name] = forward_stage(recipe, batch, way, original, wanted[kind])
    dtypes = [torch.float32] + [torch.bfloat16] * computes_bfloat16(torch.device("cpu"))
    for recipe, batch in TRAINING:
        for dropout, goals in ((True, ("≥ 1.3×", "≥ 1.7×")), (False, ("≥ 1.8×", "≥ 2.8×"))):
            for dtype, wanted in zip(dtypes, goals, strict=False):
                name = f"train-{recipe}" + ("" if dropout else "-no-attention-dropout")
                name += "-bfloat16" if dtype == torch.bfloat16 else ""
                found[name.replace("_", "-")] = training_stage(recipe, batch, dropout, dtype, wanted)
    return found


STAGES = stages()


def peak_memory(which: str) -> float:
    """GB that a process of its own takes for the forward pass, its libraries included."""
    command = [sys.executable, "-m", "benchmarks.forward", "--memory", which]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def print_memory(which: str) -> None:
    name, batch = MEMORY
    model = model_of(name)
    forward = plain_forward(model) if which == "plain" else Backend()(model)
    del model
    with torch.inference_mode():
        forward(images_of(batch))
    # Not getrusage, whose maximum a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(peak * 1024 / 1e9)


@torch.inference_mode()
def keypoints_of(evaluation: Evaluation, forward: Forward) -> np.ndarray:
    """Decoded keypoints (N, K, 2) in heatmap pixels."""
    order = torch.from_numpy(evaluation.crops.skeleton.flip_order) if evaluation.options.flip_test else None
    found = []
    for batch in evaluation.loader:
        maps = heatmaps_of(forward, normalise(batch["image"], evaluation.device), order)
        found.append(heatmap.decode(maps, evaluation.options.blur_kernel)[0].numpy())
    return np.concatenate(found)


def precision_table(weights: Path) -> str:
    """What lower precisions do to the keypoints of trained weights, on the bundled sample."""
    rows, truth = [], None
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "bfloat16"):
            options = ["TEST.MODEL_FILE", str(weights.absolute()), "TEST.PRECISION", precision]
            cfg = load_config(DEMO, options, output_dir=folder)
            model = build_model(cfg)
            load_trained(cfg, model, Path(folder))
            evaluation = build_evaluation(cfg, torch.device("cpu"))
            with contextlib.redirect_stdout(io.StringIO()):
                metrics = evaluation.evaluate(evaluation.predict(model), Path(folder) / "run", "demo")
            assert metrics is not None
            keypoints = keypoints_of(evaluation, evaluation.backend(model))
            truth = keypoints if truth is None else truth
            moved = np.linalg.norm(keypoints - truth, axis=-1)
            percentiles = [f"{np.percentile(moved, q):.3f}" for q in (50, 95, 100)]
            rows.append([f"PyTorch, {precision}", *percentiles, f"{metrics['AP']:.4f}"])
    head = ["demo.yaml's weights", "keypoints moved, heatmap px: median", "95th percentile", "most", "AP"]
    return report.table(head, rows)


def describe() -> str:
    parts = [report.surroundings()]
    plain, ours = peak_memory("plain"), peak_memory("ours")
    parts.append(
        f"Peak memory of the process for {MEMORY[0]}, batch {MEMORY[1]}: plain {plain:.2f} GB, ours {ours:.2f} GB "
        "(the original: 7.3 GB; target: ≤ 1.5 GB)."
    )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the network's memory.")
    parser.add_argument("--write", action="store_true", help="put the result into docs/benchmarks.md")
    parser.add_argument("--memory", choices=("plain", "ours"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.memory:
        print_memory(arguments.memory)
        return
    text = describe()
    print(text)
    if arguments.write:
        report.write_section("forward", text)


if __name__ == "__main__":
    main()
