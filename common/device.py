"""Where to compute, in which precision, and with which class of the network."""

import ctypes
import sys

import torch

from common.console import InputError
from common.model_poseformer import PoseFormerConfig, PoseFormerV2

PRECISIONS = ("auto", "fp32", "bf16")


def choose_device(gpu: str, quiet: bool = False) -> torch.device:
    """Return the device that `-g` names; the CPU, and say so, where there is no GPU.

    Raises:
        InputError: if `gpu` is no number, or there are GPUs but not this one.
    """
    if gpu == "cpu":
        return torch.device("cpu")
    if not (gpu.isascii() and gpu.isdecimal()):
        raise InputError(
            f"--gpu {gpu}: expected the number of one GPU, or cpu; for several GPUs start "
            "torchrun --nproc_per_node=N run_poseformer.py …"
        )
    if not torch.cuda.is_available():
        if not quiet:
            print("There is no GPU that PyTorch can use; this run uses the CPU.")
        return torch.device("cpu")
    if int(gpu) >= torch.cuda.device_count():
        raise InputError(
            f"--gpu {gpu}: there are {torch.cuda.device_count()} GPUs, numbered from 0"
        )
    return torch.device("cuda", int(gpu))


def resolve_precision(choice: str, device: torch.device) -> str:
    """Return "fp32" or "bf16", the precision of matrix products.

    Args:
        choice: "fp32", "bf16", or "auto" for bf16 where the processor has such products.
        device: where they are computed.

    Raises:
        ValueError: if `choice` is none of these.
    """
    if choice not in PRECISIONS:
        raise ValueError(f"precision must be auto, fp32 or bf16, not {choice}")
    if choice != "auto":
        return choice
    if device.type == "cuda":
        has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which matrix products are computed in `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def build_network(
    config: PoseFormerConfig, device: torch.device | str, precision: str
) -> PoseFormerV2:
    """Return a network with random weights on the device: on a CPU the faster class, if it agrees.

    Args:
        config: the architecture.
        device: where it will run.
        precision: "fp32" or "bf16", of matrix products.
    """
    if torch.device(device).type != "cpu":
        return PoseFormerV2(config).to(device)
    try:
        from common.fast_cpu import network_class
    except ModuleNotFoundError:  # who has deleted it gets the same network, slower
        return PoseFormerV2(config)
    return network_class(config, precision)(config)


def keep_freed_memory() -> None:
    """Let this process's allocator keep what is freed; does nothing without glibc.

    Memory that is fresh from the system costs a page fault every 4 KiB, 6% of a training step on a
    CPU. The settings hold for the whole process, so a script calls this at its beginning.
    """
    if sys.platform != "linux":
        return
    mmap_max, trim_threshold, largest = -4, -1, 2**31 - 1  # of mallopt(3)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, largest)
