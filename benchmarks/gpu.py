"""Check and measure on a GPU what the tests, which have none, cannot: `make gpu-check`.

Needs PyTorch and NumPy alone, on random data. Checks come first, then the default recipe as users
run it, where the time of a step goes, and the evaluation of Human3.6M's test set in size; what is
not begun within --minutes is left out. Ends with status 1 if a check fails.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.throughput import (
    SEQUENCE_LENGTH,
    Training,
    describe_machine,
    random_sequences,
    result_of,
    seconds_of,
)
from common.evaluation import evaluate, predict_on_device
from common.files.console import ArgumentParser, InputError, run_script
from common.loss import MetricSums
from common.model_poseformer import MAX_SEQUENCES, PoseFormerConfig, PoseFormerV2
from common.training.cuda_graph import CapturedStep
from common.training.device import resolve_precision
from common.training.optimizer import load_optimizer_state, set_learning_rate
from common.training.processes import World, start_world
from common.training.recipe import RECIPES

TRAIN_FRAMES, TEST_FRAMES = 1_559_752, 543_344  # of Human3.6M, over four cameras
CONFIG = PoseFormerConfig()
CHECKED = replace(CONFIG, depth=1)  # compiled in a quarter of the time
RANDOM = replace(CHECKED, drop_rate=0.1, drop_path_rate=0.1)
DEFAULT = RECIPES["default"]
SIZES = (DEFAULT.batch_size, 1024, 4096)  # of batches, the first as users run it
SMALL = replace(DEFAULT, batch_size=64)  # of the checks
STEPS, LAST_BATCH = 4, 40  # of the checks; the last batch is not full
TOLERANCE = {"fp32": 0.02, "bf16": 0.2, "fp16": 0.2}  # of what rounding in another order explains
Row = tuple[str, Callable[[], str]]  # what is checked or measured, and the work that says how it is


def main() -> None:
    """Check and measure, and print a line for each."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing new after these")
    deadline = time.perf_counter() + 60 * parser.parse_args().minutes
    if not torch.cuda.is_available():
        raise InputError("there is no GPU that PyTorch can use")
    world = start_world("0")
    if world.size > 1:  # started by `two_processes`
        train_as_one_of_several(world)
        return
    describe_machine(world.device)
    failed = False
    for name, work in (*checks(world), *measurements(world)):
        result = result_of(work) if time.perf_counter() < deadline else "left out: no time"
        failed |= "FAILED" in result
        print(f"{name:56} {result}", flush=True)
    sys.exit(failed)


# Checks ------------------------------------------------------------------------------------------


def checks(world: World) -> Iterator[Row]:
    """Yield the checks."""
    for precision in dict.fromkeys(("fp32", resolve_precision("auto", world.device))):
        for way, config in (("graph", RANDOM), ("ours", CHECKED)):
            name = f"{way} equals eager steps, {precision}"
            yield name, partial(equals_eager, way, config, precision, world)
    last = partial(equals_eager, "graph", CHECKED, "fp32", world, fill_up=False)
    yield "filling up the last batch changes nothing", last
    yield "a resumed training with a graph goes on", partial(resumed_goes_on, world)
    yield "a capture that breaks is one line", partial(broken_capture, world)
    yield f"attention of over {MAX_SEQUENCES:,} sequences", partial(past_the_grid, world)
    yield "metrics on the GPU are those on the CPU", partial(metrics_agree, world)
    yield "two processes under torchrun", two_processes


def train(training: Training, first: int = 0, fill_up: bool = True) -> Sequence[Tensor]:
    """Take some steps at falling rates; return losses, and weights and moments, flat."""
    losses = []
    torch.manual_seed(first)
    for number in range(first, first + STEPS):
        set_learning_rate(training.optimizer, 1e-3 * 0.5**number)
        count = LAST_BATCH if number == first + STEPS - 1 else SMALL.batch_size
        batch, weights = training.batch(number * SMALL.batch_size, count)
        losses.append(training.step(*(batch, weights) if fill_up else (batch[:count], None)))
    state = training.optimizer.state
    moved = [*state, *(value for entry in state.values() for value in entry.values())]
    return torch.stack(losses), torch.cat([value.detach().flatten() for value in moved])


def difference(ours: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> str:
    """Say how far tensors are apart; fail if it is more than rounding explains."""
    apart = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, expected))
    assert apart < tolerance, f"differ by {apart:.2g} of their size"
    return f"differ by {apart:.1g} of their size"


def equals_eager(
    way: str, config: PoseFormerConfig, precision: str, world: World, fill_up: bool = True
) -> str:
    """Compare training in one way with eager steps, whose last batch may stay as it is."""
    ours, eager = (Training(SMALL, config, precision, world, w) for w in (way, "eager"))
    return difference(train(ours), train(eager, fill_up=fill_up), TOLERANCE[precision])


def resumed_goes_on(world: World) -> str:
    """Compare a training that goes on with one that takes over its weights and moments."""
    whole, resumed = (Training(SMALL, RANDOM, "fp32", world, "graph") for _ in range(2))
    train(whole)
    resumed.model.load_state_dict(whole.model.state_dict())
    load_optimizer_state(resumed.optimizer, whole.optimizer.state_dict())
    return difference(train(resumed, STEPS), train(whole, STEPS), TOLERANCE["fp32"])


def broken_capture(world: World) -> str:
    """Read a number in the step, which no capture allows."""
    training = Training(SMALL, CHECKED, "fp32", world, "eager")
    step, size = training.eager_step, SMALL.batch_size
    try:
        CapturedStep(lambda *b: step(*b).cpu(), training.optimizer, size, world.device, False)
    except InputError as error:
        assert "--no-cuda-graph" in str(error), str(error)
        return "yes"
    raise AssertionError("it was captured")


def past_the_grid(world: World) -> str:
    """Take a step, and evaluate, with more sequences at a time than a GPU's grid holds."""
    size = MAX_SEQUENCES // CONFIG.number_of_kept_frames + 1
    training = Training(replace(DEFAULT, batch_size=size), CONFIG, "bf16", world, "graph")
    batch, weights = training.batch()
    with torch.no_grad():
        small = torch.stack([training.loss(part, None) for part in batch.chunk(32)]).mean()
    difference([training.step(batch, weights)], [small], 0.01)
    model = PoseFormerV2(CONFIG).to(world.device).eval()
    keypoints = [s.keypoints for s in random_sequences(MAX_SEQUENCES // SEQUENCE_LENGTH + 2)]
    predict = partial(predict_on_device, model, device=world.device, precision="bf16")
    return difference(predict(keypoints, batch_size=MAX_SEQUENCES), predict(keypoints[:1]), 0.02)


def metrics_agree(world: World) -> str:
    """Compare the sums of all metrics, with poses that are hardly, and almost, aligned."""
    target = torch.from_numpy(random_sequences(1)[0].poses)
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    predicted = target + torch.logspace(-3, 0, len(target))[:, None, None] * noise
    ours, expected = MetricSums(), MetricSums()
    ours.add("S9", "Walking", predicted.to(world.device), target)
    expected.add("S9", "Walking", predicted, target)
    return difference(ours.state.unbind(-2), expected.state.unbind(-2), 1e-6)


def two_processes() -> str:
    """Let torchrun train with two processes, which end with the same weights."""
    if torch.cuda.device_count() < 2:
        return "left out: one GPU"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", __file__]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, (result.stderr.strip().splitlines() or ["no message"])[-1]
    return "the same weights"


def train_as_one_of_several(world: World) -> None:
    """Train with a graph; fail if the processes' weights differ."""
    try:
        _, moved = train(Training(SMALL, CHECKED, "fp32", world, "graph"))
        highest = moved.clone()
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        assert torch.equal(moved, highest), "the processes have other weights"
    finally:
        world.finish()


# Measurements ------------------------------------------------------------------------------------


def measurements(world: World) -> Iterator[Row]:
    """Yield the measurements, the most wanted first."""
    best = resolve_precision("auto", world.device)

    sizes = [replace(DEFAULT, batch_size=size) for size in SIZES]
    ways = [(recipe, "ours") for recipe in (*sizes, RECIPES["published"])]
    for recipe, way in (*ways, *((recipe, "graph") for recipe in sizes)):
        name = f"{recipe.recipe} recipe, {way}, batch {recipe.batch_size:,}"
        yield name, partial(training_speed, recipe, CONFIG, best, world, way)
    yield f"a step of {SIZES[0]}, on the GPU alone", partial(operators_of_a_step, world, best)
    for precision in (best, "fp32"):
        name = f"{TEST_FRAMES:,} frames with flip, {precision}"
        yield name, partial(evaluation_time, world, precision)


def training_speed(*arguments: object) -> str:
    """Measure a `Training` of these arguments: its rate, an epoch of Human3.6M, start, memory."""
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    training = Training(*arguments)
    start_s = time.perf_counter() - began
    rate = training.samples_per_s()
    memory = torch.cuda.max_memory_allocated() / 2**30
    epoch = f"{TRAIN_FRAMES / rate:.0f} s an epoch"
    return f"{rate:,.0f} samples/s, {epoch}, {start_s:.0f} s to start, {memory:.1f} GiB"


def evaluation_time(world: World, precision: str) -> str:
    """Evaluate random sequences of the test set's size: network alone, with MPJPE, with all."""
    model = PoseFormerV2(CONFIG).to(world.device).eval()
    sequences = random_sequences(TEST_FRAMES // SEQUENCE_LENGTH)
    keypoints = [s.keypoints for s in sequences]
    network = partial(predict_on_device, model, device=world.device, precision=precision)
    whole = partial(evaluate, model, sequences, world, precision)
    works = {
        "the network": partial(network, keypoints),
        "with MPJPE": partial(whole, all_metrics=False),
        "with all metrics": whole,
    }
    evaluate(model, sequences[:3], world, precision)  # warms up
    return ", ".join(f"{seconds_of(w, world.device):.2f} s {name}" for name, w in works.items())


def operators_of_a_step(world: World, precision: str) -> str:
    """Print the longest operators of an eager step, and of a step as users run it."""
    for way in ("eager", "ours"):
        training = Training(DEFAULT, CONFIG, precision, world, way)
        batch = training.batch()
        training.step(*batch)
        with torch.profiler.profile() as profile:
            training.step(*batch)
            torch.cuda.synchronize()
        print(profile.key_averages().table("self_device_time_total", 12), flush=True)
    return "above, eager and as users run it"


if __name__ == "__main__":
    run_script(main)
