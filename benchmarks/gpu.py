"""Check and measure on a GPU what the tests, which have none, cannot: `make gpu-check`.

Needs PyTorch and NumPy alone, on random data, and ends after about --minutes: what is not done by
then is said to be left out. Checks come first, then the evaluation of Human3.6M's test set in
size, then training: by batch size, by receptive field, with attention by the formula. Ends with
status 1 if a check fails.
"""

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.throughput import (
    KEPT,
    NoCompilerError,
    attention,
    describe_machine,
    random_sequences,
    random_windows,
    training_rate,
)
from common.console import ArgumentParser, InputError, run
from common.device import build_network, compile_network
from common.distributed import World, start_world
from common.evaluation import evaluate, predict_on_device
from common.files import atomic_output
from common.h36m_dataset import ACTIONS, Sequence2d3d
from common.loss import MetricSums
from common.model_poseformer import MAX_SEQUENCES, PoseFormerConfig
from common.report import make_report
from common.train_step import TrainStep, build_optimizer, set_learning_rate
from run_poseformer import loss_of

TEST_FRAMES = 543_344  # of Human3.6M, over four cameras
BATCH_SIZES = (16, 64, 256, 1024, 4096, 16_384)
CONFIG = PoseFormerConfig()
RANDOM = replace(CONFIG, drop_rate=0.1, drop_path_rate=0.1)
EPOCHS, BATCH, TAIL = 3, 64, 40  # of the checks


def main() -> None:
    """Check, measure, print the table, and write it where --json says."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-g", "--gpu", default="0", metavar="N", help="which GPU")
    limit = "begin nothing new after this time"
    parser.add_argument("--minutes", type=float, default=8.0, metavar="M", help=limit)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise InputError("there is no GPU that PyTorch can use")
    world = start_world(arguments.gpu)
    table = Table(time.perf_counter() + 60 * arguments.minutes)
    for name, value in describe_machine(world.device).items():
        print(f"{name}: {value}")
    check(table, world.device)
    measure(table, world)
    table.show()
    if arguments.json:
        with atomic_output(arguments.json) as path:
            path.write_text(json.dumps(table.rows, indent=2) + "\n")
    if any(result.startswith("FAILED") for _, result in table.rows):
        sys.exit(1)


class Table:
    """Names of checks and measurements with their results.

    Args:
        deadline: of `time.perf_counter`; what would begin later is left out.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.rows: list[tuple[str, str]] = []

    def add(self, name: str, work: Callable[[], str]) -> None:
        """Do some work, which returns its result or raises an exception, and note it."""
        if time.perf_counter() > self.deadline:
            result = "left out: no time"
        else:
            try:
                result = work()
            except Exception as error:  # one failure must not hide the other results
                first = (str(error).splitlines() or [""])[0]
                result = f"FAILED: {type(error).__name__} {first}"
        self.rows.append((name, result))
        print(f"{name:48} {result}", flush=True)

    def show(self) -> None:
        """Print all rows again, as a table for the README."""
        print("\n| what | result |\n|---|--:|")
        print("\n".join(f"| {name} | {result} |" for name, result in self.rows))


# Checks ------------------------------------------------------------------------------------------


def check(table: Table, device: torch.device) -> None:
    """Add the checks."""
    for precision in ("fp32", "bf16"):
        for resumed in (False, True):
            name = f"graphs equal eager steps, {precision}" + (", from a tail" if resumed else "")
            table.add(name, lambda p=precision, r=resumed: graphs_equal_eager(device, p, r))
    table.add("each replay draws other random numbers", lambda: replays_differ(device))
    table.add("a tail takes no further memory", lambda: tail_takes_no_memory(device))
    table.add("a capture that breaks leaves all as it was", lambda: broken_capture(device))
    table.add("compiled network in a graph", lambda: compiled_training(device))
    table.add(f"attention of over {MAX_SEQUENCES:,} sequences", lambda: past_the_grid(device))
    table.add("metrics on the GPU are those on the CPU", lambda: metrics_agree(device))


def make_step(
    device: torch.device,
    precision: str,
    config: PoseFormerConfig | None = None,
    network: Callable[[nn.Module, Tensor], nn.Module] = lambda model, _: model,
    **options: Any,
) -> TrainStep:
    """Return a training step with noise on random data; `network` may replace the model.

    The network is that of `RANDOM` unless `config` says otherwise.
    """
    config = config or RANDOM
    torch.manual_seed(0)
    windows = random_windows(1, config.number_of_frames, device)
    model = build_network(config, device, precision).train()
    samples = torch.zeros(BATCH, dtype=torch.int64, device=device)
    network = network(model, windows.gather(samples)[0])
    return TrainStep(
        lambda batch: loss_of(network, windows, batch, precision, 0.01),
        build_optimizer(model, 1e-3, name="muon", precision=precision),
        device,
        **options,
    )


def train(step: TrainStep, start: int = 0) -> tuple[Tensor, Tensor]:
    """Take some epochs of 3 batches and a tail; return losses, and weights and moments, flat."""
    losses = []
    torch.manual_seed(1)
    for epoch in range(EPOCHS):
        set_learning_rate(step.optimizer, 1e-3 * 0.5**epoch)
        order = torch.arange(3 * BATCH + TAIL, device=step.device) + epoch
        for batch in order.split(BATCH)[start if epoch == 0 else 0 :]:
            losses.append(step(batch))
    state = step.optimizer.state
    moved = [*state, *(value for entry in state.values() for value in entry.values())]
    return torch.stack(losses), torch.cat([value.detach().flatten() for value in moved])


def difference(ours: tuple[Tensor, Tensor], eager: tuple[Tensor, Tensor]) -> str:
    """Say how far two trainings are apart.

    Raises:
        AssertionError: if it is more than rounding in another order explains.
    """
    if all(torch.equal(a, b) for a, b in zip(ours, eager)):
        return "the same bits"
    apart = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, eager))
    assert apart < 0.02, f"differ by {apart:.2g} of their size"
    return f"differ by {apart:.1g} of their size"


def graphs_equal_eager(device: torch.device, precision: str, resumed: bool) -> str:
    """Compare training with graphs, dropout, noise, a tail and learning rates with eager steps."""
    start = 3 if resumed else 0
    step = make_step(device, precision, batches=[(BATCH, 1.0), (TAIL, 1.0)])
    ours = train(step, start)
    assert len(step._graphs) == 2, f"{len(step._graphs)} graphs were captured"
    return difference(ours, train(make_step(device, precision, capture=False), start))


def replays_differ(device: torch.device) -> str:
    """Replay one batch with a learning rate of almost nothing: dropout alone moves the loss."""
    step = make_step(device, "fp32")
    batch = torch.arange(BATCH, device=device)
    step(batch)
    set_learning_rate(step.optimizer, 1e-12)
    losses = torch.stack([step(batch) for _ in range(8)])
    assert step._graphs and len(losses.unique()) == 8, "the same loss twice"
    return "yes"


def tail_takes_no_memory(device: torch.device) -> str:
    """Compare what is reserved before and after the tails."""
    step = make_step(device, "bf16", batches=[(BATCH, 1.0), (TAIL, 1.0)])
    step(torch.arange(BATCH, device=device))
    before = torch.cuda.memory_reserved(device)
    train(step)
    more = torch.cuda.memory_reserved(device) - before
    assert more <= 2**25, f"{more / 2**20:.0f} MiB more"  # losses and indices, in new blocks
    return f"{before / 2**20:.0f} MiB, then {more / 2**20:.0f} more"


def broken_capture(device: torch.device) -> str:
    """Read a number in the step, which no capture allows, and train on."""
    step = make_step(device, "fp32")
    loss_of_batch = step.loss_of
    read = []

    def reads_back(batch: Tensor) -> Tensor:
        loss = loss_of_batch(batch)
        read.append(loss.item())
        return loss

    step.loss_of = reads_back
    with contextlib.redirect_stderr(io.StringIO()) as said:
        ours = train(step)
    lines = said.getvalue().splitlines()
    assert len(lines) == 1 and "--no-cuda-graph" in lines[0], "; ".join(lines) or "nothing said"
    assert torch.cuda.current_stream(device) == torch.cuda.default_stream(device), "its stream"
    again = make_step(device, "fp32")
    train(again)
    assert again._graphs, "no capture afterwards"
    return difference(ours, train(make_step(device, "fp32", capture=False)))


def compiled_training(device: torch.device) -> str:
    """Compare compiled training in graphs with plain eager steps, nothing but noise random."""

    def compiled(model: nn.Module, inputs: Tensor) -> nn.Module:
        network = compile_network(model, inputs, "fp32")
        if network is model:
            raise NoCompilerError("torch.compile is not to be had; see above")
        return network

    step = make_step(device, "fp32", CONFIG, compiled)
    ours = train(step)
    assert len(step._graphs) == 2, "not captured"
    return difference(ours, train(make_step(device, "fp32", CONFIG, capture=False)))


def past_the_grid(device: torch.device) -> str:
    """Take a step, and evaluate, with more sequences at a time than a GPU's grid holds."""
    size = MAX_SEQUENCES // CONFIG.number_of_kept_frames + 1
    for precision in ("fp32", "bf16"):
        step = make_step(device, precision, CONFIG)
        batch = torch.arange(size, device=device) % BATCH
        loss = float(step(batch))
        # Every sample is one of 64, each as often as the others but for the last few.
        small = float(make_step(device, precision, CONFIG, capture=False)(batch[:BATCH]))
        assert abs(loss / small - 1) < 0.05, f"loss {loss} instead of {small}"
        assert step._graphs, "not captured"
    model = build_network(CONFIG, device, "bf16").eval()
    keypoints, _ = random_sequences(MAX_SEQUENCES // 2000 + 2)
    (poses, *_) = predict_on_device(
        model, keypoints, device=device, precision="bf16", batch_size=MAX_SEQUENCES
    )
    (expected,) = predict_on_device(model, keypoints[:1], device=device, precision="bf16")
    assert (poses - expected).norm() < 0.02 * expected.norm(), "other poses"
    return f"a step of {size:,} samples, {MAX_SEQUENCES:,} windows evaluated at a time"


def metrics_agree(device: torch.device) -> str:
    """Compare the sums of all metrics, with poses that are not at all, and almost, aligned."""
    _, (target,) = random_sequences(1)
    noise = np.random.default_rng(1).normal(size=target.shape).astype(np.float32)
    sums = {"cpu": MetricSums(), "cuda": MetricSums()}
    for kind, of_kind in sums.items():
        for scale in (1e-3, 0.05, 1.0):
            predicted = torch.from_numpy(target + scale * noise)
            if kind == "cuda":
                predicted = predicted.to(device)
            of_kind.add("S9", "Walking", predicted, target)
    ours, expected = sums["cuda"].state, sums["cpu"].state
    apart = float(((ours - expected).abs() / expected.abs().clamp_min(1)).max())
    assert apart < 1e-6, f"differ by {apart:.2g}"
    return f"differ by {apart:.1g} of their size"


# Measurements ------------------------------------------------------------------------------------


def measure(table: Table, world: World) -> None:
    """Add the measurements, the most wanted first."""
    device = world.device
    for precision in ("bf16", "fp32"):
        name = f"{TEST_FRAMES:,} frames, flip, all metrics, {precision}"
        table.add(name, lambda p=precision: evaluation_time(world, p))

    def rate(way: str, frames: int, batch_size: int, precision: str, kind: str = "fused") -> None:
        name = f"{way}, {frames} frames, batch {batch_size:,}, {precision}"
        if kind != "fused":
            name += f", attention by the {kind}"
        table.add(name, lambda: samples_per_s(device, way, frames, batch_size, precision, kind))

    for batch_size in reversed(BATCH_SIZES):
        for way in ("plain", "graph"):
            rate(way, 27, batch_size, "bf16")
    for batch_size in (4096, 1024, 16_384):
        rate("compiled", 27, batch_size, "bf16")
    for way in ("graph", "compiled"):
        rate(way, 27, 4096, "bf16", "formula")
    for frames in (81, 243):
        for batch_size in (256, 1024):
            for way in ("plain", "graph"):
                rate(way, frames, batch_size, "bf16")
    for way in ("plain", "graph"):
        rate(way, 27, 4096, "fp32")
    for frames, batch_size in ((27, 256), (27, 64), (27, 16), (81, 1024), (243, 256)):
        rate("compiled", frames, batch_size, "bf16")
    for frames in (81, 243):
        for batch_size in (16, 4096, 16_384):
            rate("graph", frames, batch_size, "bf16")


def evaluation_time(world: World, precision: str) -> str:
    """Evaluate random sequences of the test set's size, the second time on the clock."""
    model = build_network(CONFIG, world.device, precision).eval()
    keypoints, poses = random_sequences(TEST_FRAMES // 2000 + 1)
    keypoints[-1], poses[-1] = (part[-1][: TEST_FRAMES % 2000] for part in (keypoints, poses))
    sequences = [
        Sequence2d3d(
            subject="S9",
            action=ACTIONS[i % len(ACTIONS)],
            camera=i % 4,
            keypoints=k,
            poses=p,
            root=p[:, 0],
        )
        for i, (k, p) in enumerate(zip(keypoints, poses))
    ]
    evaluate(model, sequences[:3], world, precision)
    torch.cuda.synchronize(world.device)
    began = time.perf_counter()
    report = make_report(evaluate(model, sequences, world, precision))
    seconds = time.perf_counter() - began
    assert report["frames"] == TEST_FRAMES
    return f"{seconds:.2f} s"


def samples_per_s(
    device: torch.device, way: str, frames: int, batch_size: int, precision: str, kind: str
) -> str:
    """Measure training."""
    generator = random_windows(30, frames, device)
    config = PoseFormerConfig(frames, KEPT[frames], KEPT[frames])
    with attention(kind):
        rate = training_rate(config, precision, generator, batch_size, way)
    return f"{rate:,.0f} samples/s" if rate else "no memory, or no compiler"


if __name__ == "__main__":
    run(main)
