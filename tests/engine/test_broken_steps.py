"""Losses and gradients that are NaN or infinite: the run stops or leaves the step out, and names the samples."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from transpose.core.train import gradient_norm
from transpose.engine.trainer import Trainer
from transpose.errors import UserError
from transpose.runtime import checkpoint

POISONED = 40  # a sample


def poison(run: Trainer, value: float) -> int:
    """Make a sample's target maps this value; returns the step, from 1, that the sample is in."""
    wholesome = run.targets

    def targets(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        maps, weight = wholesome(batch)
        maps[batch["index"] == POISONED] = value
        return maps, torch.ones_like(weight)

    run.targets = targets
    return 1 + next(i for i, batch in enumerate(run.plan) if POISONED in {index for _, index in batch})


def written_down(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "broken_steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nonfinite_loss_stops_the_run(value: float, make_run: Callable, tmp_path: Path) -> None:
    run = make_run("TRAIN.CHECKPOINT_EVERY", "3")
    step = poison(run, value)
    with pytest.raises(UserError, match=rf"epoch 1/1 step {step}: the loss is {value}.*broken_steps\.jsonl.*TRAIN\.LR"):
        run.run()
    (record,) = written_down(tmp_path)
    assert (record["epoch"], record["step"]) == (1, step)
    people = run.loader.dataset.instances
    expected = {"annotation": int(people.ids[POISONED]), "image": str(people.images.names[people.image[POISONED]])}
    (batch,) = record["micro-batches"]
    assert expected in batch["samples"] and len(batch["samples"]) == 4 and batch["loss"] == str(value)
    # The state of before is there, and whole.
    state = checkpoint.read(tmp_path / "checkpoint.pth")
    assert state["step"] == (step - 1) // 3 * 3
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())


def test_a_nonfinite_gradient_stops_the_run_before_it_is_saved(make_run: Callable, tmp_path: Path) -> None:
    run = make_run("TRAIN.CHECKPOINT_EVERY", "2", "PRINT_FREQ", "100")
    gradients = iter([1.0, 1.0, float("inf")])
    run.model.final_layer.weight.register_hook(lambda gradient: gradient * next(gradients))
    with pytest.raises(UserError, match=r"epoch 1/1 step 3: the gradient is (inf|nan)"):
        run.model.final_layer.bias.register_hook(partial(stop_after, run, iter(range(3))))
        run.run()
    state = checkpoint.read(tmp_path / "checkpoint.pth")
    assert state["step"] == 2 and all(tensor.isfinite().all() for tensor in state["state_dict"].values())


def stop_after(run: Trainer, steps, gradient: Tensor) -> Tensor:
    """Ask for a stop, and with it a saved state, in the third step."""
    if next(steps) == 2:
        run.interruption.signal = 15
    return gradient


def test_broken_steps_are_left_out_and_counted_on_request(make_run: Callable, tmp_path: Path, caplog) -> None:
    run = make_run("TRAIN.SKIP_NONFINITE", "True", "TRAIN.END_EPOCH", "2", "PRINT_FREQ", "1")
    step = poison(run, float("nan"))
    run.run()
    assert [record["epoch"] for record in written_down(tmp_path)] == [1, 2]
    warning = next(message for message in caplog.messages if "left out, 1 so far" in message)
    assert warning.startswith(f"epoch 1/2 step {step}: the loss is nan")
    state = checkpoint.read(tmp_path / "checkpoint.pth")
    assert state["skipped"] == 2 and state["step"] == 2 * run.plan.steps
    assert all(tensor.isfinite().all() for tensor in run.model.state_dict().values())
    taken = {int(entry["step"]) for entry in state["optimizer"]["state"].values()}
    assert taken == {2 * run.plan.steps - 2}


def test_a_skipped_step_changes_nothing(make_run: Callable) -> None:
    """Not even batch norm's statistics, which the forward pass has moved already."""
    run = make_run("TRAIN.SKIP_NONFINITE", "True")
    run.targets = lambda batch, wholesome=run.targets: (wholesome(batch)[0] * float("nan"), torch.ones(4, 17))
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    run.plan.samples = 4
    run.options = replace(run.options, epochs=2)
    run._train(run.model)
    assert run.skipped == 1
    assert all(torch.equal(value, before[key]) for key, value in run.model.state_dict().items())


def test_a_gradient_is_bounded_on_request() -> None:
    layer = torch.nn.Linear(3, 4)
    for bound in (0.0, 0.5, 1e6):
        layer.weight.grad, layer.bias.grad = torch.ones(4, 3), torch.full((4,), 2.0)
        norm = gradient_norm(list(layer.parameters()), bound)
        assert float(norm) == pytest.approx((12 + 16) ** 0.5)
        after = torch.cat([layer.weight.grad.flatten(), layer.bias.grad]).norm()
        assert float(after) == pytest.approx(0.5 if bound == 0.5 else 28**0.5, rel=1e-5)


def test_the_moving_average_is_what_is_validated_and_kept(make_run: Callable, tmp_path: Path) -> None:
    run = make_run("TRAIN.EMA", "0.5")
    expected: dict[str, Tensor] = {}
    update = run.averaged.update_parameters

    def watched(model: torch.nn.Module) -> None:
        update(model)
        for name, value in model.state_dict().items():
            value = value.double().clone()
            expected[name] = (expected[name] + value) / 2 if name in expected else value

    run.averaged.update_parameters = watched
    judged, predict = [], run.evaluation.predict
    run.evaluation.predict = lambda model, watch: judged.append(model) or predict(model, watch)
    run.run()
    assert judged == [run.averaged.module]
    kept, state = (checkpoint.read(tmp_path / name) for name in ("final_state.pth", "checkpoint.pth"))
    assert kept.keys() == state["state_dict"].keys()
    for name, value in kept.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-7)
    assert not torch.equal(kept["final_layer.weight"], state["state_dict"]["final_layer.weight"])
    assert torch.equal(state["averaged"]["module.final_layer.weight"], kept["final_layer.weight"])


def test_gradients_that_no_scale_of_float16_makes_finite_stop_the_run(make_run: Callable) -> None:
    run = make_run()
    run.scaler.get_scale = lambda: 0.5
    with pytest.raises(
        UserError,
        match=r"epoch 1/1 step \d+: no loss scale makes float16's gradients finite.*TRAIN\.PRECISION bfloat16",
    ):
        run.run()
