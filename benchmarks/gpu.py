"""The network on a GPU: python -m benchmarks.gpu [--write], with PYTHONPATH=tools, or `make bench-gpu`.

Five models at batch 1, 32 and 256 in four precisions, two of them compiled, training steps on synthetic crops, peak
memory, and each beside what the GPU's measured matrix product and copy allow (the roofline). Without a GPU: skipped.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks import report
from transpose.commands.model_speed import operations
from transpose.core.loss import mse
from transpose.models import zoo
from transpose.models.backends import Backend

BATCHES = (1, 32, 256)
PRECISIONS = ("float32", "TF32", "bfloat16", "float16")
COMPILED = ("tp_r_a4", "tp_h_a6")  # in bfloat16, at the first and the last batch
SECONDS = 1.0  # for each figure
PAGE = report.REPOSITORY / "docs/gpu.md"
TRAINED = (("tp_r_a4", 64), ("tp_h_s", 64))


def milliseconds(call: Callable[[], object], seconds: float = SECONDS) -> float:
    """Median time of a call on the GPU."""
    for _ in range(3):
        call()
    times, end = list[float](), time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        call()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after))
    return statistics.median(times)


def precision(name: str) -> str:
    """Set TF32 for a row of the table; returns what `Backend` calls the precision."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "TF32"
    return "float32" if name == "TF32" else name


def ceilings(device: torch.device) -> tuple[dict[str, float], float]:
    """Operations a second of a large matrix product in each precision, and bytes a second of a copy: measured."""
    rates = {}
    for name in PRECISIONS:
        matrix = torch.randn(8192, 8192, device=device, dtype=getattr(torch, precision(name)))
        rates[name] = 2 * 8192**3 / milliseconds(lambda m=matrix: m @ m) * 1e3
    block = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    return rates, 2 * block.numel() / milliseconds(lambda: other.copy_(block)) * 1e3


def forward_row(name: str, how: str, compiled: bool, batch: int, device: torch.device, rate: float) -> list[str]:
    network = zoo.model(name).eval().to(device)
    forward = Backend(precision(how), compiled=compiled)(network)
    images = torch.randn(batch, 3, 256, 192, device=device)
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        spent = milliseconds(lambda: forward(images))
    share = 1e12 * batch * operations(zoo.model(name).eval()) / rate / spent
    memory = torch.cuda.max_memory_allocated() / 1e9
    return [
        *(name, how + (", compiled" if compiled else ""), str(batch), f"{spent:.2f} ms"),
        *(f"{1e3 * batch / spent:,.0f}", f"{share:.0%}", f"{memory:.2f} GB"),
    ]


def training_row(name: str, batch: int, how: str, device: torch.device, rate: float) -> list[str]:
    network = zoo.model(name).train().to(device)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-4, fused=True)
    images, target = torch.randn(batch, 3, 256, 192, device=device), torch.rand(batch, 17, 64, 48, device=device)
    weight, dtype = torch.ones(batch, 17, device=device), getattr(torch, precision(how))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            output = network(images)
        mse(output.float(), target, weight).backward()
        optimizer.step()

    torch.cuda.reset_peak_memory_stats()
    spent, memory = milliseconds(step), torch.cuda.max_memory_allocated() / 1e9
    share = 3e12 * batch * operations(zoo.model(name).eval()) / rate / spent
    return [name, how, str(batch), f"{spent:.1f} ms", f"{1e3 * batch / spent:,.0f}", f"{share:.0%}", f"{memory:.2f} GB"]


def describe(device: torch.device) -> str:
    """The page's section."""
    rates, bandwidth = ceilings(device)
    rows = [
        forward_row(name, how, False, batch, device, rates[how])
        for name in zoo.RELEASED
        for how in PRECISIONS
        for batch in BATCHES
    ]
    for name in COMPILED:
        for batch in (BATCHES[0], BATCHES[-1]):
            rows.append(forward_row(name, "bfloat16", True, batch, device, rates["bfloat16"]))
            torch.compiler.reset()
    steps = [training_row(*each, how, device, rates[how]) for each in TRAINED for how in ("TF32", "bfloat16")]
    head = ["model", "precision", "batch", "time", "crops a second", "of the matrix product's rate", "peak memory"]
    limits = ", ".join(f"{name} {rate / 1e12:,.0f} TFLOPs/s" for name, rate in rates.items())
    return "\n\n".join(
        [
            f"{torch.cuda.get_device_name(device)}; {report.surroundings()}",
            f"Measured ceilings: a product of 8192 x 8192 matrices {limits}; a copy {bandwidth / 1e12:.2f} TB/s.",
            report.table(head, rows),
            "Training steps on synthetic crops:",
            report.table(head, steps),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the five models on a GPU.")
    parser.add_argument("--write", action="store_true", help="put the result into docs/gpu.md")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: there is no GPU")
        return
    text = describe(torch.device("cuda"))
    print(text)
    if arguments.write:
        report.write_section("gpu", text, PAGE)


if __name__ == "__main__":
    main()
