"""Measure training, evaluation and live use on this machine, and their share of what it can do.

Training is that of the default recipe as users run it, of the published recipe, of both at other
sizes of batch, and of MotionAGFormer xs by its own recipe, each beside a plain eager loop. All is
the project's own code, data gathering and optimizer included, on random sequences of Human3.6M's
length. A share is that of the best rate of matrix products at PoseFormerV2's own sizes. Every
figure is the median of several runs.
"""

import gc
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # as run_poseformer.py, before PyTorch is loaded

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.evaluation import predict_on_device
from common.files.console import ArgumentParser, InputError, positive_int, run_script
from common.files.tables import format_table
from common.footage.lifting import StreamingLifter
from common.h36m_dataset import ACTIONS, Sequence2d3d
from common.lifters import LifterConfig, build_network
from common.model_motionagformer import MotionAGFormerConfig
from common.model_poseformer import PoseFormerConfig, PoseFormerV2, model_flops
from common.training.cuda_graph import CapturedStep
from common.training.device import DTYPES, backward, compile_loss, keep_freed_memory
from common.training.optimizer import build_optimizer, set_learning_rate
from common.training.processes import World, start_world
from common.training.recipe import RECIPES, Recipe
from common.training_data import training_windows
from run_poseformer import PAIRED, loss_of, velocity_weight

SEQUENCES, SEQUENCE_LENGTH = 30, 2000  # of the training; Human3.6M's have 1,000 to 6,000 frames
PRODUCT_ROWS = {"cpu": 6144, "cuda": 98_304}  # enough for the best rate
RUN_SECONDS = 0.1  # work that takes less is repeated
LIVE_FRAMES = 200
XS_GFLOPS = 2.13  # of a clip forward, MotionAGFormer xs, counted as `model_flops` does


def main() -> None:
    """Measure, and print a table for each network and precision."""
    keep_freed_memory()
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    sizes = "windows a step, besides the recipes' own"
    add("--batch-size", type=positive_int, nargs="+", metavar="N", default=[1024], help=sizes)
    fields = "receptive fields to measure"
    add("--frames", type=int, nargs="+", choices=(27, 81, 243), default=[27], help=fields)
    add("--precision", nargs="+", choices=DTYPES, default=["fp32", "bf16"], help="of products")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no GPU that PyTorch can use")
    world = start_world("0" if arguments.device == "cuda" else "cpu")
    print(describe_machine(world.device), flush=True)
    for frames, precision in itertools.product(arguments.frames, arguments.precision):
        config = PoseFormerConfig(frames, frames // 9, frames // 9)
        measure(config, precision, world, arguments.batch_size)


def describe_machine(device: torch.device) -> str:
    """Name the processor, the software and what training may use of it."""
    compiler = shutil.which("gcc") or shutil.which("cc") or "none"
    lines = [f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, C compiler: {compiler}"]
    if device.type == "cpu":
        info = Path("/proc/cpuinfo")
        name = re.search(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
        lines.append(f"{name[1] if name else 'a CPU'}, {torch.get_num_threads()} threads")
        amx = "AMX" if torch.cpu._is_amx_tile_supported() else "no AMX"
        lines.append(f"{torch.backends.cpu.get_cpu_capability()}, {amx}")
        return "\n".join(lines)
    lines.append(str(torch.cuda.get_device_properties(device)))  # capability and memory, too
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=driver_version,clocks.max.sm,power.limit"
        command = ["nvidia-smi", query, "--format=csv"]
        lines.append(subprocess.run(command, capture_output=True, text=True).stdout.strip())
    return "\n".join(lines)


def measure(config: PoseFormerConfig, precision: str, world: World, sizes: list[int]) -> None:
    """Print the figures of one network in one precision, also at these sizes of batch."""
    gflops, device = model_flops(config) / 1e9, world.device
    peak = best_product_rate(config, DTYPES[precision], device)
    frames_per_s = evaluation_rate(config, precision, device)  # of two views each
    print(
        f"\n{config.number_of_frames} frames, {precision}, {1000 * gflops:.1f} MFLOPs a sample; "
        f"matrix products at best {peak:,.0f} GFLOP/s\n"
        f"evaluation with flip: {frames_per_s:,.0f} frames/s, "
        f"{2 * frames_per_s * gflops / peak:.0%} of that\n"
        f"a live frame: {live_ms(config, precision, device)}\n"
        "training, samples/s, of motionagformer clips/s:\n",
        flush=True,
    )

    def cell(recipe: Recipe, way: str) -> str:
        second = recipe.recipe == "motionagformer"
        network, forward = (MotionAGFormerConfig(), XS_GFLOPS) if second else (config, gflops)
        training = Training(recipe, network, precision, world, way)
        rate = training.samples_per_s()
        # A gradient takes two more products for each of the forward pass.
        seen = rate if training.velocity is None else rate * (1 + 1 / PAIRED)
        return f"{rate:,.1f} ({3 * seen * forward / peak:.0%})"

    ways = ("ours", "graph", "plain") if device.type == "cuda" else ("ours", "plain")
    rows = [("recipe", "batch", *ways)]
    known = RECIPES["default"], RECIPES["published"]
    others = [replace(recipe, batch_size=n) for n in sizes for recipe in known]
    for recipe in (*known, *others, RECIPES["motionagformer"]):
        cells = [result_of(partial(cell, recipe, way)) for way in ways]
        rows.append((recipe.recipe, f"{recipe.batch_size:,}", *cells))
    print(format_table(rows), flush=True)


def best_product_rate(config: PoseFormerConfig, dtype: torch.dtype, device: torch.device) -> float:
    """Return GFLOP/s of the fastest product of the mixed blocks, at a size that suits it."""
    dim, rows, rates = config.token_dim, PRODUCT_ROWS[device.type], []
    for fan_in, fan_out in ((dim, 3 * dim), (dim, dim), (dim, 2 * dim), (2 * dim, dim)):
        x = torch.randn(rows, fan_in, device=device).to(dtype)
        weight = torch.randn(fan_out, fan_in, device=device).to(dtype)
        seconds = median_seconds(partial(F.linear, x, weight), device, runs=11)
        rates.append(2e-9 * rows * fan_in * fan_out / seconds)
    return max(rates)


def evaluation_rate(config: PoseFormerConfig, precision: str, device: torch.device) -> float:
    """Return evaluated frames a second, with flip."""
    model = PoseFormerV2(config).to(device).eval()
    # One sequence does not keep a GPU busy.
    keypoints = [s.keypoints for s in random_sequences(200 if device.type == "cuda" else 1)]
    work = partial(predict_on_device, model, keypoints, device=device, precision=precision)
    return len(keypoints) * SEQUENCE_LENGTH / median_seconds(work, device, warm_up=2, runs=5)


def live_ms(config: PoseFormerConfig, precision: str, device: torch.device) -> str:
    """Say how many milliseconds a live frame takes, with and without the mirrored view."""
    model, said = PoseFormerV2(config).to(device).eval(), []
    keypoints = np.random.default_rng(0).uniform(200, 900, (LIVE_FRAMES, 17, 2))
    for flip in (True, False):
        how = {"flip": flip, "device": device, "precision": precision}
        push = StreamingLifter(model, size=(1920, 1080), **how).push
        times = [1000 * seconds_of(partial(push, frame), device) for frame in keypoints]
        median, slow = np.percentile(times[LIVE_FRAMES // 10 :], (50, 99))
        said.append(f"{median:.1f} ms (99%: {slow:.1f} ms) {'with' if flip else 'without'} flip")
    return ", ".join(said)


def result_of(work: Callable[[], str]) -> str:
    """Return what some work says, or why it says nothing; free a GPU's memory after it."""
    try:
        return work()
    except torch.OutOfMemoryError:
        return "left out: no memory"
    except Exception as error:  # one failure must not hide the other results
        first = (str(error).splitlines() or [""])[0]
        if first.startswith(
            ("No available kernel", "No viable backend")
        ):  # attention of 4 channels
            return f"left out: {first}"
        return f"FAILED: {type(error).__name__} {first}"
    finally:
        if torch.cuda.is_available():
            torch._dynamo.reset()
            gc.collect()
            torch.cuda.empty_cache()


class Training:
    """A training on random data; `loss` returns the loss of a batch.

    `way` is "ours", as users run it: on a GPU compiled, where a C compiler is, and captured as a
    CUDA graph; "graph", without compilation; "eager", with neither; "plain", the model file alone
    with PyTorch's AdamW.
    """

    def __init__(
        self, recipe: Recipe, config: LifterConfig, precision: str, world: World, way: str
    ) -> None:
        self.recipe, self.precision, self.world = recipe, precision, world
        self.windows = training_windows(random_sequences(SEQUENCES), config, recipe, world)
        self.windows.start_epoch(0, 1)
        torch.manual_seed(0)
        self.model = build_network(config).to(world.device).train()
        if way == "plain":
            options = {"lr": 1e-4, "weight_decay": recipe.weight_decay}
            self.optimizer = torch.optim.AdamW(self.model.parameters(), **options)
        else:
            self.optimizer = build_optimizer(self.model, recipe, precision)
            set_learning_rate(self.optimizer, 1e-4)
        self.velocity = velocity_weight(recipe, config, world.device)
        how = {"precision": precision, "noise_std": 0.0, "velocity": self.velocity}
        self.loss = partial(loss_of, self.model, self.windows, **how)
        self.step = self.eager_step
        if way in ("ours", "graph") and world.device.type == "cuda":
            size, several = world.local_batch_size(recipe.batch_size), world.size > 1
            if way == "ours":
                self.loss = compile_loss(self.loss, self.model, size, precision)
            self.step = CapturedStep(self.eager_step, self.optimizer, size, world.device, several)

    def eager_step(self, batch: Tensor, weights: Tensor | None) -> Tensor:
        """Update the weights by samples (B,), their losses weighted by (B,); return the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch, weights)
        backward(loss, self.model, self.precision)
        self.world.average_gradients(self.model)
        self.optimizer.step()
        return loss.detach()

    def batch(self, start: int = 0, count: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return `count` samples from `start`, by default a full batch, as a step takes them."""
        count = count or self.recipe.batch_size
        numbers = torch.arange(start, start + count, device=self.world.device) * 97
        return self.world.local_batch(numbers % len(self.windows), self.recipe.batch_size)

    def samples_per_s(self) -> float:
        """Return the median rate of some steps, after warming up."""
        size = self.recipe.batch_size
        batches = itertools.cycle([self.batch(size * number) for number in range(10)])
        return size / median_seconds(lambda: self.step(*next(batches)), self.world.device)


def random_sequences(count: int) -> list[Sequence2d3d]:
    """Return sequences of Human3.6M's length with random keypoints and poses."""
    random = np.random.default_rng(0)
    keypoints = random.uniform(-1, 1, (count, SEQUENCE_LENGTH, 17, 2)).astype(np.float32)
    poses = random.uniform(-0.5, 0.5, (count, SEQUENCE_LENGTH, 17, 3)).astype(np.float32)
    root = np.tile(np.float32([0, 0, 5]), (SEQUENCE_LENGTH, 1))
    return [
        Sequence2d3d("S9", ACTIONS[i % len(ACTIONS)], i % 4, k, p, root)
        for i, (k, p) in enumerate(zip(keypoints, poses))
    ]


def median_seconds(
    work: Callable[[], object], device: torch.device, *, warm_up: int = 3, runs: int = 7
) -> float:
    """Return the median time of some work, after warming up."""
    seconds = [seconds_of(work, device) for _ in range(warm_up)]
    calls = max(1, round(RUN_SECONDS / seconds[-1]))
    return float(np.median([seconds_of(work, device, calls) for _ in range(runs)]))


def seconds_of(work: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Return the time of one of several calls, which a GPU may be given ahead."""
    wait = torch.get_device_module(device).synchronize
    wait()
    began = time.perf_counter()
    for _ in range(calls):
        work()
    wait()
    return (time.perf_counter() - began) / calls


if __name__ == "__main__":
    run_script(main)
