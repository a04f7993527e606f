"""Check and measure on a GPU what the tests, which have none, cannot: `make gpu-check`.

Needs PyTorch and NumPy alone, on random data, and ends after about --minutes: what is not done by
then is said to be left out. Checks come first, then the default recipe as users run it, the
evaluation of Human3.6M's test set in size, and where the time of a step goes. Ends with status 1
if a check fails.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.throughput import (
    KEPT,
    SEQUENCE_LENGTH,
    NoCompilerError,
    Training,
    describe_machine,
    free_memory,
    random_sequences,
    seconds_on_gpu,
)
from common.evaluation import evaluate, predict_on_device
from common.files.console import ArgumentParser, InputError, run_script
from common.files.output import atomic_output
from common.files.tables import format_markdown
from common.loss import MetricSums
from common.model_poseformer import MAX_SEQUENCES, PoseFormerConfig, PoseFormerV2
from common.training.cuda_graph import CapturedStep
from common.training.device import resolve_precision
from common.training.optimizer import load_optimizer_state, set_learning_rate
from common.training.processes import World, start_world
from common.training.recipe import RECIPES

TRAIN_FRAMES, TEST_FRAMES = 1_559_752, 543_344  # of Human3.6M, over four cameras
CONFIG = PoseFormerConfig()
RANDOM = replace(CONFIG, drop_rate=0.1, drop_path_rate=0.1)
DEFAULT = RECIPES["default"]
SIZES = (DEFAULT.batch_size, 1024, 4096)  # of batches, the first as users run it
SMALL = replace(DEFAULT, batch_size=64)  # of the checks
STEPS, LAST_BATCH = 4, 40  # of the checks; the last batch is not full
TOLERANCE = {"fp32": 0.02, "bf16": 0.2}  # of what rounding in another order explains
KERNELS = {
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "formula": SDPBackend.MATH,
}


def main() -> None:
    """Check, measure, print the table, and write it where --json says."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-g", "--gpu", default="0", metavar="N", help="which GPU")
    limit = "begin nothing new after this time"
    parser.add_argument("--minutes", type=float, default=8.0, metavar="M", help=limit)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here too")
    one = "be one process of a training under torchrun, which this script starts itself"
    parser.add_argument("--process", action="store_true", help=one)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise InputError("there is no GPU that PyTorch can use")
    world = start_world(arguments.gpu)
    if arguments.process:
        train_as_one_of_several(world)
        return
    table = Table(time.perf_counter() + 60 * arguments.minutes)
    for name, value in describe_machine(world.device).items():
        print(f"{name}: {value}")
    check(table, world)
    measure(table, world)
    print("\n" + format_markdown([("what", "result"), *table.rows]))
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

    def add(self, name: str, work: Callable[..., str], *arguments: object) -> None:
        """Do some work, which returns its result or raises an exception, and note it."""
        if time.perf_counter() > self.deadline:
            result = "left out: no time"
        else:
            try:
                result = work(*arguments)
            except torch.OutOfMemoryError:
                result = "left out: no memory"
            except NoCompilerError:
                result = "left out: no compiler"
            except Exception as error:  # one failure must not hide the other results
                first = (str(error).splitlines() or [""])[0]
                result = f"FAILED: {type(error).__name__} {first}"
                if "No available kernel" in first:  # of attention, for heads of this size
                    result = f"left out: {first}"
        free_memory()
        self.rows.append((name, result))
        print(f"{name:56} {result}", flush=True)


# Checks ------------------------------------------------------------------------------------------


def check(table: Table, world: World) -> None:
    """Add the checks."""
    for precision in ("fp32", "bf16"):
        name = f"equals eager steps, {precision}"
        table.add(f"graph {name}", equals_eager, RANDOM, precision, world, "graph")
        table.add(f"compiled {name}", equals_eager, CONFIG, precision, world, "ours")
    table.add("filling up the last batch changes nothing", filling_up_changes_nothing, world)
    table.add("a resumed training with a graph goes on", resumed_goes_on, world)
    table.add("each replay draws other random numbers", replays_differ, world)
    table.add("a capture that breaks is one line", broken_capture, world)
    table.add(f"attention of over {MAX_SEQUENCES:,} sequences", past_the_grid, world)
    table.add("metrics on the GPU are those on the CPU", metrics_agree, world)
    table.add("two processes under torchrun", two_processes)


def train(training: Training, first: int = 0, fill_up: bool = True) -> tuple[Tensor, Tensor]:
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


def difference(
    ours: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], precision: str = "fp32"
) -> str:
    """Say how far two trainings are apart.

    Raises:
        AssertionError: if it is more than rounding in another order explains.
    """
    if all(torch.equal(a, b) for a, b in zip(ours, expected)):
        return "the same bits"
    apart = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, expected))
    assert apart < TOLERANCE[precision], f"differ by {apart:.2g} of their size"
    return f"differ by {apart:.1g} of their size"


def equals_eager(config: PoseFormerConfig, precision: str, world: World, way: str) -> str:
    """Compare training in one way with plain steps."""
    ours, expected = (train(Training(SMALL, config, precision, world, w)) for w in (way, "eager"))
    return difference(ours, expected, precision)


def filling_up_changes_nothing(world: World) -> str:
    """Compare a graph, whose last batch is filled up, with eager steps on the batch as it is."""
    ours = train(Training(SMALL, CONFIG, "fp32", world, "graph"))
    return difference(ours, train(Training(SMALL, CONFIG, "fp32", world, "eager"), fill_up=False))


def resumed_goes_on(world: World) -> str:
    """Compare a training that goes on with one that takes over its weights and moments."""
    whole, resumed = (Training(SMALL, RANDOM, "fp32", world, "graph") for _ in range(2))
    train(whole)
    resumed.model.load_state_dict(whole.model.state_dict())
    load_optimizer_state(resumed.optimizer, whole.optimizer.state_dict())
    return difference(train(resumed, STEPS), train(whole, STEPS))


def replays_differ(world: World) -> str:
    """Replay one batch with a learning rate of almost nothing: dropout alone moves the loss."""
    training = Training(SMALL, RANDOM, "fp32", world, "graph")
    set_learning_rate(training.optimizer, 1e-12)
    losses = torch.stack([training.step(*training.batch()) for _ in range(8)])
    assert len(losses.unique()) == 8, "the same loss twice"
    return "yes"


def broken_capture(world: World) -> str:
    """Read a number in the step, which no capture allows."""
    training = Training(SMALL, CONFIG, "fp32", world, "eager")

    def reads_back(batch: Tensor, weights: Tensor | None) -> Tensor:
        return training.eager_step(batch, weights).cpu()

    try:
        CapturedStep(reads_back, training.optimizer, SMALL.batch_size, world.device, False)
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
    assert abs(float(training.step(batch, weights) / small) - 1) < 0.01, "another loss"
    model = PoseFormerV2(CONFIG).to(world.device).eval()
    keypoints = [s.keypoints for s in random_sequences(MAX_SEQUENCES // SEQUENCE_LENGTH + 2)]
    predicted = partial(predict_on_device, model, device=world.device, precision="bf16")
    poses, expected = predicted(keypoints, batch_size=MAX_SEQUENCES)[0], predicted(keypoints[:1])[0]
    assert (poses - expected).norm() < 0.02 * expected.norm(), "other poses"
    return f"a step of {size:,} samples, {MAX_SEQUENCES:,} windows evaluated at a time"


def metrics_agree(world: World) -> str:
    """Compare the sums of all metrics, with poses that are not at all, and almost, aligned."""
    target = torch.from_numpy(random_sequences(1)[0].poses)
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    states = []
    for device in (world.device, "cpu"):
        sums = MetricSums()
        for scale in (1e-3, 0.05, 1.0):
            sums.add("S9", "Walking", (target + scale * noise).to(device), target)
        states.append(sums.state)
    apart = float(((states[0] - states[1]).abs() / states[1].abs().clamp_min(1)).max())
    assert apart < 1e-6, f"differ by {apart:.2g}"
    return f"differ by {apart:.1g} of their size"


def two_processes() -> str:
    """Let torchrun train with two processes, which end with the same weights."""
    if torch.cuda.device_count() < 2:
        return "left out: one GPU"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", __file__]
    result = subprocess.run([*command, "--process"], capture_output=True, text=True)
    assert result.returncode == 0, (result.stderr.strip().splitlines() or ["no message"])[-1]
    return "the same weights"


def train_as_one_of_several(world: World) -> None:
    """Train with a graph; fail if the processes' weights differ."""
    try:
        _, moved = train(Training(SMALL, CONFIG, "fp32", world, "graph"))
        highest = moved.clone()
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        assert torch.equal(moved, highest), "the processes have other weights"
    finally:
        world.finish()


# Measurements ------------------------------------------------------------------------------------


def measure(table: Table, world: World) -> None:
    """Add the measurements, the most wanted first."""
    best = resolve_precision("auto", world.device)

    def rate(name: str, way: str, size: int, frames: int = 27, kernel: str | None = None) -> None:
        recipe = replace(RECIPES[name], batch_size=size)
        config = PoseFormerConfig(frames, KEPT[frames], KEPT[frames])
        what = f"{name} recipe, {way}, batch {size:,}, {frames} frames"
        what += f", attention by the {kernel}" if kernel else ""
        table.add(what, training_speed, kernel, recipe, config, best, world, way)

    for size in SIZES:
        rate("default", "ours", size)
    table.add(f"{TEST_FRAMES:,} frames with flip, {best}", evaluation_time, world, best)
    rate("published", "ours", RECIPES["published"].batch_size)
    for way in ("graph", "plain"):
        for size in SIZES:
            rate("default", way, size)
    table.add(f"a step of {SIZES[0]}, eager, on the GPU alone", parts_of_a_step, world, best)
    for size in SIZES:
        for kernel in KERNELS:
            rate("default", "graph", size, kernel=kernel)
    for frames in (81, 243):
        rate("default", "ours", 1024, frames)
    table.add(f"{TEST_FRAMES:,} frames with flip, fp32", evaluation_time, world, "fp32")


def training_speed(kernel: str | None, *arguments: object) -> str:
    """Measure a `Training`: its rate, an epoch of Human3.6M, the time to start, memory.

    `kernel` is one of PyTorch's for attention, None for its own choice.
    """
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # else the formula is in fp32
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    with sdpa_kernel(KERNELS[kernel]) if kernel else nullcontext():
        training = Training(*arguments)
        started = time.perf_counter() - began
        rate = training.samples_per_s()
    return (
        f"{rate:,.0f} samples/s, {TRAIN_FRAMES / rate:.0f} s an epoch, {started:.0f} s to start, "
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    )


def evaluation_time(world: World, precision: str) -> str:
    """Evaluate random sequences of the test set's size: network alone, with MPJPE, with all."""
    model = PoseFormerV2(CONFIG).to(world.device).eval()
    sequences = random_sequences(TEST_FRAMES // SEQUENCE_LENGTH)
    keypoints = [s.keypoints for s in sequences]
    works = {
        "the network": lambda: predict_on_device(
            model, keypoints, device=world.device, precision=precision
        ),
        "with MPJPE": lambda: evaluate(model, sequences, world, precision, all_metrics=False),
        "with all metrics": lambda: evaluate(model, sequences, world, precision),
    }
    evaluate(model, sequences[:3], world, precision)  # warms up
    return ", ".join(f"{seconds_on_gpu(work, 1):.2f} s {name}" for name, work in works.items())


def parts_of_a_step(world: World, precision: str) -> str:
    """Count the kernels of each part of a step, with their time; print the ten longest."""
    training = Training(DEFAULT, CONFIG, precision, world, "eager")
    batch = training.batch()
    works = {
        "scenes": lambda: training.windows.gather(batch[0]),
        "forward": lambda: training.loss(*batch),
        "backward": lambda: training.loss(*batch).backward(),
        "optimizer": lambda: training.step(*batch),
    }
    parts, before = [], (0, 0.0)
    for name, work in works.items():  # each does what the one before does, and more
        kernels = kernels_of(work)
        total = len(kernels), sum(ms for _, ms in kernels)
        parts.append(f"{name} {total[0] - before[0]} kernels {total[1] - before[1]:.2f} ms")
        before = total
    for name, ms in sorted(kernels, key=lambda kernel: -kernel[1])[:10]:
        print(f"  {ms:.3f} ms {name[:80]}")
    return ", ".join(parts)


def kernels_of(work: Callable[[], object]) -> list[tuple[str, float]]:
    """Return name and milliseconds of each kernel that some work launches."""
    work()
    with torch.profiler.profile() as profile:
        work()
        torch.cuda.synchronize()
    on_gpu = torch.autograd.DeviceType.CUDA
    events = [event for event in profile.events() if event.device_type == on_gpu]
    return [(event.name, event.time_range.elapsed_us() / 1000) for event in events]


if __name__ == "__main__":
    run_script(main)
