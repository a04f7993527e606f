"""Measure training and evaluation on this machine, and their share of what it can do.

In one run: the peak rate of matrix products at the model's own sizes, in float32 and bfloat16;
training samples and evaluated frames a second through the project's own code, data gathering
included, on random sequences of Human3.6M's length; and so the share of the peak that is reached.
The first runs are left out, the device is synchronised before the clock is read, and every figure
is the median of several.
"""

import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.console import ArgumentParser, InputError, run
from common.device import build_network, keep_freed_memory
from common.evaluation import predict
from common.files import atomic_output
from common.generators import WindowGenerator
from common.model_poseformer import PoseFormerConfig, model_flops
from common.train_step import TrainStep, build_optimizer
from run_poseformer import loss_of

# Kept frames and kept coefficients of the published model for each receptive field.
KEPT = {27: 3, 81: 9, 243: 27}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PEAK_BATCH_SIZE = 1024  # large enough for the best rate, whatever batch is trained with
SEQUENCE_LENGTH = 2000  # frames; Human3.6M's are 1,000 to 6,000
# A step takes three times the products of a forward pass: one for each of the two gradients.
TRAINING_PASSES = 3
VIEWS = 2  # evaluation averages the estimates for a pose and its mirror image


def main() -> None:
    """Measure, print a table, and write it where --json says."""
    keep_freed_memory()
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no GPU that PyTorch can use")
    report = {"machine": describe_machine(device), "results": []}
    print("\n".join(f"{name}: {value}" for name, value in report["machine"].items()))
    for frames in arguments.frames:
        config = PoseFormerConfig(frames, KEPT[frames], KEPT[frames])
        for precision in DTYPES:
            result = measure(config, precision, device, arguments.batch_size)
            print_result(result)
            report["results"].append(result)
    if arguments.json:
        with atomic_output(arguments.json) as path:
            path.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> Any:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    parser.add_argument(
        "--batch-size", type=int, default=1024, metavar="N", help="training samples a step"
    )
    parser.add_argument(
        "--frames",
        type=int,
        nargs="+",
        choices=sorted(KEPT),
        default=[27],
        help="receptive fields to measure",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    arguments = parser.parse_args()
    if arguments.batch_size < 1:
        parser.error("--batch-size must be positive")
    return arguments


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
    config: PoseFormerConfig, precision: str, device: torch.device, batch_size: int
) -> dict[str, Any]:
    """Return the figures of one model in one precision."""
    products = product_rates(config, DTYPES[precision], device)
    peak = max(products.values())
    flops = model_flops(config)
    generator = WindowGenerator(
        *random_sequences(30), config.number_of_frames, device=device, augment=True
    )
    samples_per_s = training_rate(config, precision, generator, batch_size)
    frames_per_s = evaluation_rate(config, precision, device)
    return {
        "frames": config.number_of_frames,
        "kept_frames": config.number_of_kept_frames,
        "kept_coeffs": config.number_of_kept_coeffs,
        "precision": precision,
        "batch_size": batch_size,
        "mflops_per_sample": flops / 1e6,
        "product_gflops_per_s": products,
        "peak_gflops_per_s": peak,
        "training_samples_per_s": samples_per_s,
        "training_share_of_peak": samples_per_s * TRAINING_PASSES * flops / 1e9 / peak,
        "evaluation_frames_per_s": frames_per_s,
        "evaluation_share_of_peak": frames_per_s * VIEWS * flops / 1e9 / peak,
    }


def product_rates(
    config: PoseFormerConfig, dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    """Return GFLOP/s of the mixed blocks' products: forward, by input and by weight.

    These products are 96 % of the model's operations.
    """
    dim = config.token_dim
    tokens = PEAK_BATCH_SIZE * (config.number_of_kept_frames + config.number_of_kept_coeffs)
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
    config: PoseFormerConfig, precision: str, generator: WindowGenerator, batch_size: int
) -> float:
    """Return training samples a second."""
    torch.manual_seed(0)
    model = build_network(config, generator.device, precision).train()
    optimizer = build_optimizer(model, learning_rate=1e-4)
    step = TrainStep(
        lambda batch: loss_of(model, generator, batch, precision, 0.0), optimizer, generator.device
    )
    batches = itertools.cycle(
        torch.randint(len(generator), (10, batch_size), device=generator.device)
    )
    seconds = median_seconds(lambda: step(next(batches)), generator.device, warm_up=3, runs=7)
    return batch_size / seconds


def evaluation_rate(config: PoseFormerConfig, precision: str, device: torch.device) -> float:
    """Return evaluated frames a second, with flip."""
    torch.manual_seed(0)
    model = build_network(config, device, precision).eval()
    # One sequence does not keep a GPU busy.
    keypoints, _ = random_sequences(200 if device.type == "cuda" else 1)
    seconds = median_seconds(
        lambda: predict(model, keypoints, device=device, precision=precision),
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


def median_seconds(
    work: Callable[[], Any], device: torch.device, *, warm_up: int, runs: int
) -> float:
    """Return the median time of some work, after warming up."""
    times = []
    for _ in range(warm_up + runs):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[warm_up:])


def synchronize(device: torch.device) -> None:
    """Wait for the work that a GPU has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def print_result(result: dict[str, Any]) -> None:
    """Print one model's figures in one precision."""
    products = result["product_gflops_per_s"]
    slowest = min(products, key=products.get)
    print(
        f"\n{result['frames']} frames, {result['kept_frames']} kept, "
        f"{result['kept_coeffs']} coefficients, {result['precision']}, "
        f"{result['mflops_per_sample']:.1f} MFLOPs a sample\n"
        f"  products    {result['peak_gflops_per_s']:9,.0f} GFLOP/s at best "
        f"({products[slowest]:,.0f} for {slowest})\n"
        f"  training    {result['training_samples_per_s']:9,.0f} samples/s "
        f"{result['training_share_of_peak']:6.0%} of the peak, batch {result['batch_size']}\n"
        f"  evaluation  {result['evaluation_frames_per_s']:9,.0f} frames/s  "
        f"{result['evaluation_share_of_peak']:6.0%} of the peak, with flip",
        flush=True,
    )


if __name__ == "__main__":
    run(main)
