"""Measure training and evaluation on this machine, and their share of what it can do.

In one run: the peak rate of matrix products at the model's own sizes, in float32 and bfloat16;
training samples and evaluated frames a second through the project's own code, data gathering
included, on random sequences of Human3.6M's length; the same training as a plain eager loop; and
the share of the peak that is reached. The first runs are left out, and every figure is the median
of several. On a CPU a run is one call. On a GPU it is as many calls as take some time, between two
events on the device, so that launching them does not count where they can be launched ahead.
"""

import gc
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.console import ArgumentParser, InputError, positive_int, run
from common.device import allow_tf32, build_network, compile_network, keep_freed_memory
from common.distributed import start_world
from common.evaluation import predict_on_device
from common.files import atomic_output
from common.generators import WindowGenerator
from common.h36m_dataset import Sequence2d3d
from common.model_poseformer import PoseFormerConfig, PoseFormerV2, model_flops
from common.recipe import Recipe
from common.scenes import NewScenes
from common.train_step import WEIGHT_DECAY, TrainStep, build_optimizer
from run_poseformer import loss_of

# Kept frames and kept coefficients of the published model for each receptive field.
KEPT = {27: 3, 81: 9, 243: 27}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Large enough for the best rate, whatever batch is trained with.
PEAK_BATCH_SIZE = {"cpu": 1024, "cuda": 16_384}
SEQUENCE_LENGTH = 2000  # frames; Human3.6M's are 1,000 to 6,000
# A step takes three times the products of a forward pass: one for each of the two gradients.
TRAINING_PASSES = 3
VIEWS = 2  # evaluation averages the estimates for a pose and its mirror image
GPU_RUN_SECONDS = 0.1  # between two events
# Ways to train: PyTorch's plain loop; ours, first with Muon, then with AdamW as the plain loop has
# it; on a GPU without and with torch.compile.
WAYS = {"cpu": ("plain", "muon", "ours"), "cuda": ("plain", "muon", "graph", "compiled")}


class NoCompilerError(Exception):
    """torch.compile does not work here; a line on standard error has said why."""


def main() -> None:
    """Measure, print a table, and write it where --json says."""
    keep_freed_memory()
    arguments = parse_arguments()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no GPU that PyTorch can use")
    device = start_world("0" if arguments.device == "cuda" else "cpu").device
    if arguments.tf32:
        allow_tf32(device)
    report = {"machine": describe_machine(device), "results": []}
    report |= {"attention": arguments.attention, "tf32": arguments.tf32}
    print("\n".join(f"{name}: {value}" for name, value in report["machine"].items()))
    ways = [w for w in WAYS[device.type] if not (w == "compiled" and arguments.no_compile)]
    with attention(arguments.attention):
        for frames, precision in itertools.product(arguments.frames, arguments.precision):
            config = PoseFormerConfig(frames, KEPT[frames], KEPT[frames])
            result = measure(config, precision, device, arguments.batch_size, ways)
            report["results"].append(result)
    if arguments.json:
        with atomic_output(arguments.json) as path:
            path.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> Any:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    many = {"nargs": "+", "metavar": "N"}
    samples = "training samples a step"
    add("--batch-size", type=positive_int, default=[1024], help=samples, **many)
    fields = "receptive fields to measure"
    add("--frames", type=int, nargs="+", choices=sorted(KEPT), default=[27], help=fields)
    add("--precision", nargs="+", choices=DTYPES, default=list(DTYPES), help="of products")
    add("--tf32", action="store_true", help="on a GPU, fp32 products in TF32")
    add("--no-compile", action="store_true", help="on a GPU, leave torch.compile out")
    kernel = "fused kernel, or PyTorch's formula: scores, softmax, weighted sum"
    add("--attention", choices=("fused", "formula"), default="fused", help=kernel)
    add("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser.parse_args()


def attention(kind: str) -> AbstractContextManager[Any]:
    """Return the context in which attention is PyTorch's "fused" kernel or the "formula"."""
    if kind == "fused":
        return nullcontext()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # else it computes in fp32
    return sdpa_kernel(SDPBackend.MATH)


def describe_machine(device: torch.device) -> dict[str, str]:
    """Name the processor, the software and the network's class."""
    if device.type == "cuda":
        name, network = torch.cuda.get_device_name(device), "PoseFormerV2"
    else:
        name = f"{processor_name()}, {torch.get_num_threads()} threads"
        name += f", {torch.backends.cpu.get_cpu_capability()}"
        name += " with AMX" if torch.cpu._is_amx_tile_supported() else ""
        network = type(build_network(PoseFormerConfig(), device, "bf16")).__name__
    return {"machine": name, "torch": torch.__version__, "network": network}


def processor_name() -> str:
    """Return the processor's name as the operating system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measure(
    config: PoseFormerConfig,
    precision: str,
    device: torch.device,
    batch_sizes: list[int],
    ways: list[str],
) -> dict[str, Any]:
    """Print and return the figures of one model in one precision."""
    products = product_rates(config, DTYPES[precision], device)
    peak = max(products.values())
    slowest = min(products, key=products.get)
    flops = model_flops(config)
    frames_per_s = evaluation_rate(config, precision, device)
    evaluation_share = frames_per_s * VIEWS * flops / 1e9 / peak
    print(
        f"\n{config.number_of_frames} frames, {config.number_of_kept_frames} kept, "
        f"{config.number_of_kept_coeffs} coefficients, {precision}, "
        f"{flops / 1e6:.1f} MFLOPs a sample\n"
        f"  products    {peak:9,.0f} GFLOP/s at best ({products[slowest]:,.0f} for {slowest})\n"
        f"  evaluation  {frames_per_s:9,.0f} frames/s {evaluation_share:6.0%} of the peak, "
        "with flip\n"
        f"  training, samples/s of each way, and the last one's share of the peak\n"
        f"  {'batch':>7}" + "".join(f"{way:>11}" for way in ways),
        flush=True,
    )
    generator = random_windows(30, config.number_of_frames, device)
    training = []
    for batch_size in batch_sizes:
        row = {way: training_rate(config, precision, generator, batch_size, way) for way in ways}
        last = row[ways[-1]]
        share = last and last * TRAINING_PASSES * flops / 1e9 / peak
        training.append({"batch_size": batch_size, "samples_per_s": row, "share_of_peak": share})
        cells = "".join(f"{rate:11,.0f}" if rate else f"{'-':>11}" for rate in row.values())
        print(f"  {batch_size:7}{cells}" + (f"{share:7.0%}" if share else ""), flush=True)
    return {
        "frames": config.number_of_frames,
        "kept_frames": config.number_of_kept_frames,
        "kept_coeffs": config.number_of_kept_coeffs,
        "precision": precision,
        "mflops_per_sample": flops / 1e6,
        "product_gflops_per_s": products,
        "peak_gflops_per_s": peak,
        "training": training,
        "evaluation_frames_per_s": frames_per_s,
        "evaluation_share_of_peak": evaluation_share,
    }


def product_rates(
    config: PoseFormerConfig, dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    """Return GFLOP/s of the mixed blocks' products: forward, by input and by weight.

    These products are 96 % of the model's operations.
    """
    dim = config.token_dim
    batch_size = PEAK_BATCH_SIZE[device.type]
    tokens = batch_size * (config.number_of_kept_frames + config.number_of_kept_coeffs)
    shapes = {
        "qkv": (tokens, dim, 3 * dim),
        "proj": (tokens, dim, dim),
        "fc1": (tokens // 2, dim, 2 * dim),
        "fc2": (tokens // 2, 2 * dim, dim),
    }
    rates = {}
    for name, (rows, fan_in, fan_out) in shapes.items():
        x = torch.randn(rows, fan_in, device=device).to(dtype)
        weight = torch.randn(fan_out, fan_in, device=device).to(dtype)
        gradient = torch.randn(rows, fan_out, device=device).to(dtype)
        products = {
            "forward": lambda x=x, weight=weight: F.linear(x, weight),
            "by input": lambda g=gradient, weight=weight: g @ weight,
            "by weight": lambda g=gradient, x=x: g.T @ x,
        }
        for kind, product in products.items():
            seconds = median_seconds(product, device, warm_up=3, runs=11)
            rates[f"{name} {kind}"] = 2e-9 * rows * fan_in * fan_out / seconds
    return rates


def training_rate(
    config: PoseFormerConfig, precision: str, generator: WindowGenerator, batch_size: int, way: str
) -> float | None:
    """Return training samples a second; None without the memory or the compiler for it."""
    device = generator.device
    batches = itertools.cycle(torch.randint(len(generator), (10, batch_size), device=device))
    try:
        step = training_step(config, precision, generator, batch_size, way)
        return batch_size / median_seconds(lambda: step(next(batches)), device, warm_up=3, runs=7)
    except (torch.OutOfMemoryError, NoCompilerError):
        return None
    finally:
        step = None  # its memory is for the next one
        if device.type == "cuda":
            torch._dynamo.reset()
            gc.collect()
            torch.cuda.empty_cache()


def training_step(
    config: PoseFormerConfig, precision: str, generator: WindowGenerator, batch_size: int, way: str
) -> Callable[[Tensor], Tensor]:
    """Return a function that makes one training step, in one of the `WAYS`."""
    torch.manual_seed(0)
    device = generator.device
    if way == "plain":
        return plain_step(config, precision, generator)
    model = build_network(config, device, precision).train()
    network = model
    if way == "compiled":
        samples = torch.zeros(batch_size, dtype=torch.int64, device=device)
        network = compile_network(model, generator.gather(samples)[0], precision)
        if network is model:
            raise NoCompilerError
    optimizer = "muon" if way == "muon" else "adamw"
    return TrainStep(
        lambda batch: loss_of(network, generator, batch, precision, 0.0),
        build_optimizer(model, 1e-4, name=optimizer, precision=precision),
        device,
    )


def plain_step(
    config: PoseFormerConfig, precision: str, generator: WindowGenerator
) -> Callable[[Tensor], Tensor]:
    """Return the training step as PyTorch's tutorials write it."""
    model = PoseFormerV2(config).to(generator.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=WEIGHT_DECAY)

    def step(batch: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, generator, batch, precision, 0.0)
        loss.backward()
        optimizer.step()
        return loss

    return step


def evaluation_rate(config: PoseFormerConfig, precision: str, device: torch.device) -> float:
    """Return evaluated frames a second, with flip."""
    torch.manual_seed(0)
    model = build_network(config, device, precision).eval()
    # One sequence does not keep a GPU busy.
    keypoints, _ = random_sequences(200 if device.type == "cuda" else 1)
    seconds = median_seconds(
        lambda: predict_on_device(model, keypoints, device=device, precision=precision),
        device,
        warm_up=1,
        runs=5,
    )
    return len(keypoints) * SEQUENCE_LENGTH / seconds


def random_sequences(count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return normalised keypoints (frames, 17, 2) and poses (frames, 17, 3) of sequences."""
    random = np.random.default_rng(0)
    keypoints = random.uniform(-1, 1, (count, SEQUENCE_LENGTH, 17, 2)).astype(np.float32)
    poses = random.uniform(-0.5, 0.5, (count, SEQUENCE_LENGTH, 17, 3)).astype(np.float32)
    return list(keypoints), list(poses)


def random_windows(count: int, number_of_frames: int, device: torch.device) -> NewScenes:
    """Return windows of random sequences, as the default recipe shows them."""
    root = np.tile(np.float32([0, 0, 5]), (SEQUENCE_LENGTH, 1))
    sequences = [
        Sequence2d3d("S1", "Walking", 0, keypoints, poses, root)
        for keypoints, poses in zip(*random_sequences(count))
    ]
    scenes = Recipe().scenes
    windows = NewScenes(sequences, number_of_frames, **scenes, device=device, augment=True)
    windows.start_epoch(0, 1)
    return windows


def median_seconds(
    work: Callable[[], Any], device: torch.device, *, warm_up: int, runs: int
) -> float:
    """Return the median time of some work, after warming up."""
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


if __name__ == "__main__":
    run(main)
