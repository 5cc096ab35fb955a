"""The network alone: python -m benchmarks.forward [--write] [--weights FILE], with PYTHONPATH=tools.

The forward pass in every backend that is installed, peak memory and the training step, ours beside
`benchmarks.plain_model` on the same weights and input, and what lower precisions do to trained keypoints. One thread;
the versions take turns, and seconds are medians of processor time, which others' load does not lengthen.
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import report
from benchmarks.plain_model import PlainTransPose, plain_loss
from transpose import build, config, heatmap
from transpose.core.evaluate import Evaluation
from transpose.core.loss import mse
from transpose.core.predict import heatmaps_of, normalise
from transpose.inference import Forward, Inference
from transpose.models.transpose import TransPose

REPOSITORY = Path(__file__).resolve().parents[1]
COCO = REPOSITORY / "experiments/coco"
DEMO = REPOSITORY / "experiments/coco_sample/demo.yaml"
RECIPES = {
    "tp_r_a4": COCO / "transpose_r/TP_R_256x192_d256_h1024_enc4_mh8.yaml",
    "tp_h_s": COCO / "transpose_h/TP_H_w32_256x192_stage3_1_4_d64_h128_relu_enc4_mh1.yaml",
    "tp_h_a6": COCO / "transpose_h/TP_H_w48_256x192_stage3_1_4_d96_h192_relu_enc6_mh1.yaml",
}
FORWARDS = (("tp_r_a4", 1), ("tp_r_a4", 8), ("tp_h_s", 1), ("tp_h_a6", 1))
TRAINING = (("tp_r_a4", 4), ("tp_h_s", 1))
MEMORY = ("tp_h_a6", 8)


def model_of(name: str, *overrides: str) -> TransPose:
    """A model with drawn weights and batch norms that are not fresh, the same ones each time."""
    torch.manual_seed(0)
    model = build.model(config.load(RECIPES[name], overrides))
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
    found: dict[str, Callable[[TransPose], Forward]] = {"plain": plain_forward, "PyTorch": Inference()}
    for title, backend in (("OpenVINO", "openvino"), ("ONNX Runtime", "onnxruntime")):
        if importlib.util.find_spec(backend):
            found[title] = Inference(backend=backend)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        found["PyTorch, bfloat16"] = Inference("bfloat16")
        if importlib.util.find_spec("openvino"):
            found["OpenVINO, bfloat16"] = Inference("bfloat16", "openvino")
    return found


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one call that warms it up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return {name: median(values) for name, values in seconds.items()}


@torch.inference_mode()
def one_forward(forwards: dict[str, Forward], images: Tensor, rounds: int) -> dict[str, str]:
    """A cell for each way: seconds, ratio, difference."""
    outputs = {name: forward(images) for name, forward in forwards.items()}
    seconds = in_turns({name: lambda f=forward: f(images) for name, forward in forwards.items()}, rounds)
    truth, cells = outputs["plain"], {"plain": f"{seconds['plain']:.3f} s"}
    for name in list(forwards)[1:]:
        difference = float((outputs[name] - truth).abs().max() / truth.abs().max())
        moved = int((outputs[name].flatten(2).argmax(2) != truth.flatten(2).argmax(2)).sum())
        peaks = "" if moved == 0 else f", {moved} of {truth.shape[0] * truth.shape[1]} arg-max moved"
        cells[name] = f"{seconds['plain'] / seconds[name]:.2f}× ({seconds[name]:.3f} s; {difference:.0e}{peaks})"
    return cells


def forward_table(rounds: int) -> str:
    rows, made = [], {}
    for name, batch in FORWARDS:
        if name not in made:
            model = model_of(name)
            made = {name: {way: make(model) for way, make in ways().items()}}
        rows.append([f"{name}, batch {batch}", *one_forward(made[name], images_of(batch), rounds).values()])
    return report.table(["forward", *ways()], rows)


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


def training_table(rounds: int) -> str:
    dtypes = {"": torch.float32}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes[", bfloat16"] = torch.bfloat16
    rows, heads = [], []
    for name, batch in TRAINING:
        ours = {"ours": (), "without attention dropout": ("MODEL.ATTENTION_DROPOUT", "False")}
        steps = {"plain": step_of(PlainTransPose(model_of(name)), plain_loss, batch, torch.float32)}
        for title, keys in ours.items():
            for suffix, dtype in dtypes.items():
                steps[title + suffix] = step_of(model_of(name, *keys), mse, batch, dtype)
        seconds = in_turns(steps, rounds)
        heads = list(steps)[1:]
        cells = [f"{seconds['plain'] / seconds[head]:.2f}× ({seconds[head]:.2f} s)" for head in heads]

        still = model_of(name, "MODEL.DROPOUT", "0")
        losses = [
            float(step_of(network, criterion, batch, torch.float32)())
            for network, criterion in ((PlainTransPose(still), plain_loss), (still, mse))
        ]
        difference = f"{abs(losses[0] - losses[1]) / losses[0]:.0e}"
        rows.append([f"{name}, batch {batch}", f"{seconds['plain']:.2f} s", *cells, difference])
    return report.table(["training step", "plain", *heads, "loss with dropout 0, relative difference"], rows)


def peak_memory(which: str) -> float:
    """GB that a process of its own takes for the forward pass, its libraries included."""
    command = [sys.executable, "-m", "benchmarks.forward", "--memory", which]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def print_memory(which: str) -> None:
    name, batch = MEMORY
    model = model_of(name)
    forward = plain_forward(model) if which == "plain" else Inference()(model)
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
    found = []
    for batch in evaluation.loader:
        maps = heatmaps_of(forward, normalise(batch["image"], evaluation.device), evaluation.flip_order)
        found.append(heatmap.decode(maps, evaluation.kernel_size)[0].numpy())
    return np.concatenate(found)


def precision_table(weights: Path) -> str:
    """What lower precisions do to the keypoints of trained weights, on the bundled sample."""
    rows, truth = [], None
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "bfloat16"):
            options = ["TEST.MODEL_FILE", str(weights.absolute()), "TEST.PRECISION", precision]
            cfg = config.load(DEMO, options, output_dir=folder)
            model = build.model(cfg)
            build.load_trained(cfg, model, Path(folder))
            evaluation = build.evaluation(cfg, torch.device("cpu"))
            with contextlib.redirect_stdout(io.StringIO()):
                metrics = evaluation.judge(evaluation.predict(model), Path(folder) / "run", "demo")
            assert metrics is not None
            keypoints = keypoints_of(evaluation, evaluation.forward_of(model))
            truth = keypoints if truth is None else truth
            moved = np.linalg.norm(keypoints - truth, axis=-1)
            percentiles = [f"{np.percentile(moved, q):.3f}" for q in (50, 95, 100)]
            rows.append([f"PyTorch, {precision}", *percentiles, f"{metrics['AP']:.4f}"])
    head = ["demo.yaml's weights", "keypoints moved, heatmap px: median", "95th percentile", "most", "AP"]
    return report.table(head, rows)


def describe(rounds: int, weights: Path) -> str:
    parts = [report.surroundings(), forward_table(rounds)]
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        parts.append(
            "This processor has no bfloat16 arithmetic (AVX-512 BF16 or AMX), so that bfloat16 brings no speed on it, "
            "in any backend; its rows are left out."
        )
    plain, ours = peak_memory("plain"), peak_memory("ours")
    parts.append(
        f"Peak memory of the process for {MEMORY[0]}, batch {MEMORY[1]}: plain {plain:.2f} GB, ours {ours:.2f} GB."
    )
    parts.append(training_table(rounds))
    if weights.exists():
        parts.append(precision_table(weights))
    else:
        parts.append(f"Precision on trained weights: not measured, {weights.name} is missing (`make demo` trains it).")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the network: forward pass, memory, training step.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each timing (%(default)s)")
    parser.add_argument(
        "--weights",
        type=Path,
        default=REPOSITORY / "output/coco/transpose_r/demo/final_state.pth",
        metavar="FILE",
        help="trained weights of demo.yaml, for the effect of lower precisions",
    )
    parser.add_argument("--write", action="store_true", help="put the result into docs/benchmarks.md")
    parser.add_argument("--memory", choices=("plain", "ours"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.memory:
        print_memory(arguments.memory)
        return
    text = describe(arguments.rounds, arguments.weights)
    print(text)
    if arguments.write:
        report.write_section("forward", text)


if __name__ == "__main__":
    main()
