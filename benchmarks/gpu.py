"""Check and measure on a GPU what the tests, which have none, cannot: `make gpu-check`.

Needs PyTorch and NumPy alone, on random data. Checks come first, then the default recipe as users
run it, the evaluation of Human3.6M's test set in size, and where the time of a step goes; what is
not begun within --minutes is left out. Ends with status 1 if a check fails.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

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
from common.model_poseformer import (
    MAX_SEQUENCES,
    NUM_HEADS,
    PoseFormerConfig,
    PoseFormerV2,
    attend_by_sums,
)
from common.training.cuda_graph import CapturedStep
from common.training.device import DTYPES, resolve_precision
from common.training.optimizer import load_optimizer_state, set_learning_rate
from common.training.processes import World, start_world
from common.training.recipe import RECIPES, Recipe

# Human3.6M's over four cameras; in training each frame is seen mirrored, too.
TRAIN_SAMPLES, TEST_FRAMES = 2 * 1_559_752, 543_344
CONFIG = PoseFormerConfig()
CHECKED = replace(CONFIG, depth=1)  # compiled in a quarter of the time
RANDOM = replace(CHECKED, drop_rate=0.1, drop_path_rate=0.1)
DEFAULT = RECIPES["default"]
SIZES = (DEFAULT.batch_size, 1024, 4096)  # of batches, the first as users run it
SMALL = replace(DEFAULT, batch_size=64)  # of the checks
STEPS, LAST_BATCH = 4, 41  # of the checks; the last batch is not full
TOLERANCE = {"fp32": 0.02, "bf16": 0.2, "fp16": 0.2}  # of what rounding in another order explains
KERNELS = (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)
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
    print(describe_machine(world.device))
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
    assert abs(float(training.step(batch, weights) / small) - 1) < 0.01, "another loss"
    model = PoseFormerV2(CONFIG).to(world.device).eval()
    keypoints = [s.keypoints for s in random_sequences(MAX_SEQUENCES // SEQUENCE_LENGTH + 2)]
    predict = partial(predict_on_device, model, device=world.device, precision="bf16")
    poses, expected = predict(keypoints, batch_size=MAX_SEQUENCES)[0], predict(keypoints[:1])[0]
    assert (poses - expected).norm() < 0.02 * expected.norm(), "other poses"
    return f"a step of {size:,} samples, {MAX_SEQUENCES:,} windows evaluated at a time"


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

    def rate(recipe: Recipe, way: str, frames: int = 27) -> Row:
        what = f"{recipe.recipe} recipe, {way}, batch {recipe.batch_size:,}, {frames} frames"
        config = PoseFormerConfig(frames, frames // 9, frames // 9)
        return what, partial(training_speed, recipe, config, best, world, way)

    sizes = [replace(DEFAULT, batch_size=size) for size in SIZES]
    yield from (rate(recipe, "ours") for recipe in sizes)
    frames = f"{TEST_FRAMES:,} frames with flip"
    yield f"{frames}, {best}", partial(evaluation_time, world, best)
    yield f"a step of {SIZES[0]}, on the GPU alone", partial(parts_of_a_step, world, best)
    heads = {"joints": (3, 17, 4), "frames": (1, 6, 68)}  # sequences a sample, tokens, channels
    for size, (tokens, head) in itertools.product(SIZES, heads.items()):
        name = f"attention among {tokens}, batch {size:,}, on the GPU alone"
        yield name, partial(attention_times, size, *head, world, best)
    yield rate(RECIPES["published"], "ours")
    yield from (rate(recipe, way) for way in ("graph", "plain") for recipe in sizes)
    yield from (rate(sizes[1], "ours", field) for field in (81, 243))
    yield f"{frames}, fp32", partial(evaluation_time, world, "fp32")


def training_speed(*arguments: object) -> str:
    """Measure a `Training` of these arguments: its rate, an epoch of Human3.6M, start, memory."""
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    training = Training(*arguments)
    start_s = time.perf_counter() - began
    rate = training.samples_per_s()
    memory = torch.cuda.max_memory_allocated() / 2**30
    epoch = f"{TRAIN_SAMPLES / rate:.0f} s an epoch"
    return f"{rate:,.0f} samples/s, {epoch}, {start_s:.0f} s to start, {memory:.1f} GiB"


def evaluation_time(world: World, precision: str) -> str:
    """Evaluate random sequences of the test set's size: network alone, with MPJPE, with all."""
    model = PoseFormerV2(CONFIG).to(world.device).eval()
    sequences = random_sequences(TEST_FRAMES // SEQUENCE_LENGTH)
    keypoints = [s.keypoints for s in sequences]
    how = {"device": world.device, "precision": precision}
    whole = partial(evaluate, model, sequences, world, precision)
    works = {
        "the network": partial(predict_on_device, model, keypoints, **how),
        "with MPJPE": partial(whole, all_metrics=False),
        "with all metrics": whole,
    }
    evaluate(model, sequences[:3], world, precision)  # warms up
    return ", ".join(f"{seconds_of(w, world.device):.2f} s {name}" for name, w in works.items())


def parts_of_a_step(world: World, precision: str) -> str:
    """Count the kernels of the parts of an eager step, and of a step as users run it; time them.

    Prints the ten longest of the latter.
    """
    training = Training(DEFAULT, CONFIG, precision, world, "eager")
    batch = training.batch()
    works = {
        "scenes": lambda: training.windows.gather(batch[0]),
        "forward": lambda: training.loss(*batch),
        "backward": lambda: training.loss(*batch).backward(),
        "optimizer": lambda: training.step(*batch),
    }
    parts, count, ms = [], 0, 0.0
    for name, work in works.items():  # each does what the one before does, and more
        times = kernel_times(work)
        before, count, ms = (count, ms), len(times), sum(t for t, _ in times)
        parts.append(f"{name} {count - before[0]} kernels {ms - before[1]:.2f} ms")
    ours = Training(DEFAULT, CONFIG, precision, world, "ours")
    times = kernel_times(lambda: ours.step(*batch))
    for kernel_ms, kernel in times[:10]:
        print(f"  {kernel_ms:.3f} ms {kernel[:80]}")
    parts.append(f"as users run it {len(times)} kernels {sum(t for t, _ in times):.2f} ms")
    return ", ".join(parts)


def attention_times(
    batch_size: int, sequences: int, tokens: int, channels: int, world: World, precision: str
) -> str:
    """Time forward and backward of one attention by `attend_by_sums`, and by PyTorch's kernels."""
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # else MATH is in fp32
    shape = batch_size * sequences, NUM_HEADS, tokens, channels
    how = {"device": world.device, "dtype": DTYPES[precision]}
    *qkv, gradient = (torch.randn(shape, requires_grad=True, **how) for _ in range(4))

    def time_of(attention: Callable[..., Tensor]) -> str:
        def work() -> None:
            torch.autograd.grad(attention(*qkv).to(gradient.dtype), qkv, gradient)

        return f"{sum(ms for ms, _ in kernel_times(work)):.3f} ms"

    def by(kernel: SDPBackend) -> str:
        with sdpa_kernel(kernel):
            return time_of(F.scaled_dot_product_attention)

    works = {kernel.name: partial(by, kernel) for kernel in KERNELS}
    works["sums"] = partial(time_of, torch.compile(attend_by_sums, dynamic=False))
    return ", ".join(f"{name} {result_of(work)}" for name, work in works.items())


def kernel_times(work: Callable[[], object]) -> list[tuple[float, str]]:
    """Return how long, ms, each kernel of some work took, and its name; the longest first."""
    work()
    with torch.profiler.profile() as profile:
        work()
        torch.cuda.synchronize()
    kernels = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    times = ((kernel.time_range.elapsed_us() / 1000, kernel.name) for kernel in kernels)
    return sorted(times, reverse=True)


if __name__ == "__main__":
    run_script(main)
