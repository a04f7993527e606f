"""Measure training and evaluation on this machine, and their share of what it can do.

In one run: the best rate of matrix products at the model's own sizes; evaluated frames a second;
and training samples a second of the default recipe as users run it, of the published recipe, and
of both at other sizes of batch, beside the same training as a plain eager loop. All is the
project's own code, data gathering and optimizer included, on random sequences of Human3.6M's
length. The first runs are left out, and every figure is the median of several.
"""

import gc
import itertools
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.evaluation import predict_on_device
from common.files.console import ArgumentParser, InputError, positive_int, run_script
from common.files.output import atomic_output
from common.files.tables import format_table
from common.h36m_dataset import ACTIONS, Sequence2d3d
from common.model_poseformer import PoseFormerConfig, PoseFormerV2, model_flops
from common.training.cuda_graph import CapturedStep
from common.training.device import allow_tf32, compile_network, keep_freed_memory
from common.training.optimizer import WEIGHT_DECAY, build_optimizer, set_learning_rate
from common.training.processes import World, start_world
from common.training.recipe import RECIPES, Recipe
from run_poseformer import loss_of, training_windows

# Kept frames and kept coefficients of the published model for each receptive field.
KEPT = {27: 3, 81: 9, 243: 27}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SEQUENCES, SEQUENCE_LENGTH = 30, 2000  # of the training; Human3.6M's have 1,000 to 6,000 frames
PRODUCT_ROWS = {"cpu": 6144, "cuda": 98_304}  # enough for the best rate
GPU_RUN_SECONDS = 0.1  # between two events
# A step takes three times the products of a forward pass: one for each of the two gradients.
TRAINING_PASSES = 3
VIEWS = 2  # evaluation averages the estimates for a pose and its mirror image
# Of a `Training`; the first is what users run.
WAYS = {"cpu": ("ours", "plain"), "cuda": ("ours", "graph", "plain")}


def main() -> None:
    """Measure, print a table for each network and precision, and write all where --json says."""
    keep_freed_memory()
    arguments = parse_arguments()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no GPU that PyTorch can use")
    world = start_world("0" if arguments.device == "cuda" else "cpu")
    if arguments.tf32:
        allow_tf32(world.device)
    report = {"machine": describe_machine(world.device), "tf32": arguments.tf32, "results": []}
    print("\n".join(f"{name}: {value}" for name, value in report["machine"].items()), flush=True)
    for frames, precision in itertools.product(arguments.frames, arguments.precision):
        config = PoseFormerConfig(frames, KEPT[frames], KEPT[frames])
        report["results"].append(measure(config, precision, world, arguments.batch_size))
    if arguments.json:
        with atomic_output(arguments.json) as path:
            path.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> Any:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    sizes = "windows a step, besides the recipes' own"
    add("--batch-size", type=positive_int, nargs="+", metavar="N", default=[1024], help=sizes)
    fields = "receptive fields to measure"
    add("--frames", type=int, nargs="+", choices=sorted(KEPT), default=[27], help=fields)
    add("--precision", nargs="+", choices=DTYPES, default=list(DTYPES), help="of products")
    add("--tf32", action="store_true", help="on a GPU, fp32 products in TF32")
    add("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser.parse_args()


def measure(
    config: PoseFormerConfig, precision: str, world: World, batch_sizes: list[int]
) -> dict[str, Any]:
    """Print and return the figures of one network in one precision."""
    gflops, ways = model_flops(config) / 1e9, WAYS[world.device.type]
    peak = best_product_rate(config, DTYPES[precision], world.device)
    frames_per_s = evaluation_rate(config, precision, world.device)
    share = frames_per_s * VIEWS * gflops / peak
    result = {"frames": config.number_of_frames, "precision": precision, "training": []}
    result |= {"peak_gflops_per_s": peak, "evaluation_frames_per_s": frames_per_s}
    result |= {"evaluation_share_of_peak": share}
    print(
        f"\n{config.number_of_frames} frames, {precision}, {1000 * gflops:.1f} MFLOPs a sample: "
        f"products at best {peak:,.0f} GFLOP/s,\nevaluation with flip {frames_per_s:,.0f} frames/s "
        f"({share:.0%} of that), training in samples/s:\n",
        flush=True,
    )
    rows = [("recipe", "batch", *ways, "share")]
    recipes = [replace(r, batch_size=n) for n in batch_sizes for r in RECIPES.values()]
    for recipe in (*RECIPES.values(), *recipes):
        rates = {way: training_rate(recipe, config, precision, world, way) for way in ways}
        share = (rates["ours"] or 0) * TRAINING_PASSES * gflops / peak
        row = {"recipe": recipe.recipe, "batch_size": recipe.batch_size, "samples_per_s": rates}
        result["training"].append(row | {"share_of_peak": share})
        cells = [f"{rate:,.0f}" if rate else "-" for rate in rates.values()]
        rows.append((recipe.recipe, f"{recipe.batch_size:,}", *cells, f"{share:.0%}"))
    print(format_table(rows), flush=True)
    return result


def best_product_rate(config: PoseFormerConfig, dtype: torch.dtype, device: torch.device) -> float:
    """Return GFLOP/s of the fastest product of the mixed blocks, at a size that suits it."""
    dim, rows, rates = config.token_dim, PRODUCT_ROWS[device.type], []
    for fan_in, fan_out in ((dim, 3 * dim), (dim, dim), (dim, 2 * dim), (2 * dim, dim)):
        x = torch.randn(rows, fan_in, device=device).to(dtype)
        weight = torch.randn(fan_out, fan_in, device=device).to(dtype)
        seconds = median_seconds(
            lambda x=x, weight=weight: F.linear(x, weight), device, warm_up=3, runs=11
        )
        rates.append(2e-9 * rows * fan_in * fan_out / seconds)
    return max(rates)


def evaluation_rate(config: PoseFormerConfig, precision: str, device: torch.device) -> float:
    """Return evaluated frames a second, with flip."""
    torch.manual_seed(0)
    model = PoseFormerV2(config).to(device).eval()
    # One sequence does not keep a GPU busy.
    keypoints = [s.keypoints for s in random_sequences(200 if device.type == "cuda" else 1)]
    seconds = median_seconds(
        lambda: predict_on_device(model, keypoints, device=device, precision=precision),
        device,
        warm_up=1,
        runs=5,
    )
    return len(keypoints) * SEQUENCE_LENGTH / seconds


def training_rate(*arguments: Any) -> float | None:
    """Return the rate of a `Training`; None without the memory or the compiler for it."""
    try:
        return Training(*arguments).samples_per_s()
    except (torch.OutOfMemoryError, NoCompilerError):
        return None
    finally:
        free_memory()


class NoCompilerError(Exception):
    """torch.compile does not work here; a line on standard error has said why."""


class Training:
    """A training on random data.

    Args:
        recipe: with its batch size, optimizer and scenes.
        config: the network.
        precision: "fp32" or "bf16".
        world: this process.
        way: "ours", as users run it: on a GPU compiled and captured as a CUDA graph; "graph",
            without compilation; "eager", with neither; "plain", the model file alone with
            PyTorch's AdamW.

    Raises:
        NoCompilerError: if torch.compile does not work.
    """

    def __init__(
        self, recipe: Recipe, config: PoseFormerConfig, precision: str, world: World, way: str
    ) -> None:
        self.recipe, self.precision, self.world = recipe, precision, world
        self.windows = training_windows(random_sequences(SEQUENCES), config, recipe, world)
        self.windows.start_epoch(0, 1)
        torch.manual_seed(0)
        self.model = PoseFormerV2(config).to(world.device)
        if way == "plain":
            parameters = self.model.parameters()
            self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=WEIGHT_DECAY)
        else:
            self.optimizer = build_optimizer(self.model, recipe, precision)
            set_learning_rate(self.optimizer, 1e-4)
        self.network = self.model.train()
        self.step = self.eager_step
        if world.device.type == "cuda" and way == "ours":
            self.network = compile_network(
                self.model, self.windows.gather(self.batch()[0])[0], precision
            )
            if self.network is self.model:
                raise NoCompilerError
        if world.device.type == "cuda" and way in ("ours", "graph"):
            size = world.local_batch_size(recipe.batch_size)
            self.step = CapturedStep(
                self.eager_step, self.optimizer, size, world.device, world.size > 1
            )

    def eager_step(self, batch: Tensor, weights: Tensor | None) -> Tensor:
        """Update the weights by samples (B,), their losses weighted by (B,); return the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch, weights)
        loss.backward()
        self.world.average_gradients(self.model)
        self.optimizer.step()
        return loss.detach()

    def loss(self, batch: Tensor, weights: Tensor | None) -> Tensor:
        """Return the loss of a batch."""
        return loss_of(self.network, self.windows, batch, weights, self.precision, 0.0)

    def batch(self, start: int = 0, count: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return `count` samples from `start`, by default a full batch, as a step takes them."""
        count = count or self.recipe.batch_size
        numbers = torch.arange(start, start + count, device=self.world.device) * 97
        return self.world.local_batch(numbers % len(self.windows), self.recipe.batch_size)

    def samples_per_s(self) -> float:
        """Return the median rate of some steps, after warming up."""
        size = self.recipe.batch_size
        batches = itertools.cycle([self.batch(size * number) for number in range(10)])
        device = self.world.device
        return size / median_seconds(lambda: self.step(*next(batches)), device, warm_up=3, runs=7)


def free_memory() -> None:
    """Let the next training have what earlier ones took on a GPU."""
    if torch.cuda.is_available():
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()


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
    work: Callable[[], Any], device: torch.device, *, warm_up: int, runs: int
) -> float:
    """Return the median time of some work, after warming up.

    On a CPU a run is one call. On a GPU it is as many calls as take some time, between two events
    on the device, so that launching them does not count where they can be launched ahead.
    """
    for _ in range(warm_up):
        work()
    if device.type == "cuda":
        calls = max(1, round(GPU_RUN_SECONDS / seconds_on_gpu(work, 1)))
        return statistics.median(seconds_on_gpu(work, calls) for _ in range(runs))
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def seconds_on_gpu(work: Callable[[], Any], calls: int) -> float:
    """Return the time of one of many calls, between two events on the device."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    began.record()
    for _ in range(calls):
        work()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000 / calls


def describe_machine(device: torch.device) -> dict[str, str]:
    """Name the processor, the software and what training may use of it."""
    described = {"PyTorch": torch.__version__}
    if device.type == "cpu":
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        described["processor"] = names[0] if names else platform.machine()
        described["threads"] = str(torch.get_num_threads())
        described["instructions"] = torch.backends.cpu.get_cpu_capability()
        described["AMX"] = "yes" if torch.cpu._is_amx_tile_supported() else "no"
        return described
    gpu = torch.cuda.get_device_properties(device)
    described["GPU"] = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    described["CUDA"] = f"{torch.version.cuda}, capability {gpu.major}.{gpu.minor}"
    described["C compiler"] = shutil.which("gcc") or shutil.which("cc") or "none"
    if shutil.which("nvidia-smi"):
        fields = "driver_version,clocks.max.sm,power.limit"
        query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv", f"--id={device.index}"]
        answer = subprocess.run(query, capture_output=True, text=True).stdout
        described["nvidia-smi"] = answer.strip().replace("\n", ": ")
    return described


if __name__ == "__main__":
    run_script(main)
