"""Where to compute, and in which precision."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from common.files.console import InputError

PRECISIONS = ("auto", "fp32", "bf16")
# |a - b| / |b| between the compiled network and the plain one, of output and of gradients.
COMPILED_TOLERANCES = {"fp32": 0.01, "bf16": 0.2}


def choose_device(gpu: str, quiet: bool = False) -> torch.device:
    """Return the device that `-g` names; the CPU, and say so, where there is no GPU.

    Raises:
        InputError: if `gpu` is no number, there are GPUs but not this one, or PyTorch has no
            kernels for it.
    """
    if gpu == "cpu":
        return torch.device("cpu")
    if not (gpu.isascii() and gpu.isdecimal()):
        raise InputError(
            f"--gpu {gpu}: expected the number of one GPU, or cpu; for several GPUs start "
            "torchrun --nproc_per_node=N run_poseformer.py …"
        )
    if not torch.cuda.is_available():
        cuda = torch.version.cuda
        why = f"it is built for CUDA {cuda}; is the driver missing or too old?" if cuda else ""
        why = why or "it is built without CUDA"
        if not quiet:
            print(f"There is no GPU that PyTorch can use ({why}); this run uses the CPU.")
        return torch.device("cpu")
    if int(gpu) >= torch.cuda.device_count():
        raise InputError(
            f"--gpu {gpu}: there are {torch.cuda.device_count()} GPUs, numbered from 0"
        )
    device = torch.device("cuda", int(gpu))
    _try_a_kernel(device)
    return device


def _try_a_kernel(device: torch.device) -> None:
    """Refuse a GPU for which this PyTorch has no kernels: they fail at the first use, not before.

    Raises:
        InputError: naming the GPU's compute capability and what PyTorch was built for.
    """
    try:
        torch.ones(2, device=device).sum().item()
    except RuntimeError as error:
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        raise InputError(
            f"{torch.cuda.get_device_name(device)}: {str(error).splitlines()[0]}. Its compute "
            f"capability is {capability}, this PyTorch is built for "
            f"{', '.join(torch.cuda.get_arch_list())}; install a build that has it "
            "(pytorch.org/get-started/previous-versions), or take -g cpu"
        ) from error


def resolve_precision(choice: str, device: torch.device) -> str:
    """Return "fp32" or "bf16", the precision of matrix products.

    Args:
        choice: "fp32", "bf16", or "auto" for bf16 where the processor has such products.
        device: where they are computed.
    """
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


def allow_tf32(device: torch.device, quiet: bool = False) -> None:
    """Let a GPU round the factors of float32 products to TF32's 11 bits, and say so."""
    if device.type != "cuda":
        return
    torch.set_float32_matmul_precision("high")
    if not quiet:
        print("The GPU computes products of fp32 in TF32.")


def compile_network(model: nn.Module, inputs: Tensor, precision: str) -> nn.Module:
    """Return the network compiled for training; the network itself if that fails.

    The compiled network is run once. Its output and gradients must be those of the plain network,
    unless dropout makes them random. A line on standard error says what is wrong.

    Args:
        model: on its device, in training mode.
        inputs: (B, F, 17, C) windows, as many as in every step.
        precision: "fp32" or "bf16", of matrix products.
    """
    compiled = torch.compile(model, dynamic=False)
    gpus = [inputs.device] if inputs.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(gpus):
            ours = _output_and_gradients(compiled, inputs, precision)
            plain = _output_and_gradients(model, inputs, precision)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the compiler's many kinds, and those of the compilers it calls
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    else:
        difference = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, plain))
        is_random = any(getattr(model.config, n, 0) for n in ("drop_rate", "drop_path_rate"))
        if is_random or difference < COMPILED_TOLERANCES[precision]:
            return compiled
        reason = f"its output or gradients differ by {difference:.2g} of their size"
    finally:
        model.zero_grad(set_to_none=True)
    print(f"training without torch.compile, which is slower: {reason}", file=sys.stderr)
    return model


def _output_and_gradients(
    network: nn.Module, inputs: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    """Return the poses, flat, and the gradient of their mean square by all parameters, flat."""
    network.zero_grad(set_to_none=True)
    with autocast(inputs.device, precision):
        poses = network(inputs).float()
    poses.square().mean().backward()
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return poses.detach().flatten(), torch.cat(gradients)


@contextlib.contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Undo what trial steps in the block do to the statistics of batch norms."""
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, old in zip(model.buffers(), before):
        buffer.copy_(old)


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
