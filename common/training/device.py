"""Where to compute, and in which precision."""

import contextlib
import ctypes
import sys
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from common.files.console import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # of products
PRECISIONS = ("auto", *DTYPES)
# |a - b| / |b| between the compiled and the plain, of loss and of gradients.
COMPILED_TOLERANCES = {"fp32": 0.01, "bf16": 0.2, "fp16": 0.2}
LOSS_SCALE = 65_536  # in fp16, whose smallest number is 6e-8
_AMD_WITH_BF16 = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")
BatchLoss = Callable[[Tensor, Tensor | None], Tensor]


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
        cuda, why = torch.version.cuda, "it is built without CUDA"
        if cuda:
            why = f"it is built for CUDA {cuda}; is the driver missing or too old?"
        if not quiet:
            print(f"There is no GPU that PyTorch can use ({why}); this run uses the CPU.")
        return torch.device("cpu")
    if int(gpu) >= torch.cuda.device_count():
        raise InputError(
            f"--gpu {gpu}: there are {torch.cuda.device_count()} GPUs, numbered from 0"
        )
    device = torch.device("cuda", int(gpu))
    try:
        torch.ones(2, device=device).sum().item()  # without kernels it fails here, not before
    except RuntimeError as error:
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        raise InputError(
            f"{torch.cuda.get_device_name(device)}: {str(error).splitlines()[0]}. Its compute "
            f"capability is {capability}, this PyTorch is built for "
            f"{', '.join(torch.cuda.get_arch_list())}; install a build that has it "
            "(pytorch.org/get-started/previous-versions), or take -g cpu"
        ) from error
    return device


def resolve_precision(choice: str, device: torch.device) -> str:
    """Return a key of `DTYPES`, the precision of matrix products.

    "auto" is bf16 where the processor has such products, fp16 on those of NVIDIA's GPUs (V100, T4)
    that have them in fp16 alone, and fp32 elsewhere.
    """
    if choice != "auto":
        return choice
    if device.type == "cuda" and torch.version.hip:
        name = torch.cuda.get_device_properties(device).gcnArchName
        has_bf16 = name.startswith(_AMD_WITH_BF16)
    elif device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if (7, 0) <= capability < (8, 0):
            return "fp16"
        has_bf16 = capability >= (8, 0)
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which matrix products are computed in `precision`."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def backward(loss: Tensor, model: nn.Module, precision: str) -> None:
    """Compute the gradients of a loss by the model's parameters.

    In fp16 it is multiplied by `LOSS_SCALE` for it, so that small gradients do not become zero. A
    gradient that overflows all the same makes the next loss NaN, which ends the training.
    """
    if precision != "fp16":
        loss.backward()
        return
    (LOSS_SCALE * loss).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    torch._foreach_div_(gradients, LOSS_SCALE)


def allow_tf32(device: torch.device, quiet: bool = False) -> None:
    """Let a GPU round the factors of float32 products to TF32's 11 bits, and say so."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        if not quiet:
            print("The GPU computes products of fp32 in TF32.")


def compile_loss(
    batch_loss: BatchLoss, model: nn.Module, batch_size: int, precision: str
) -> BatchLoss:
    """Return the loss of a batch, compiled as a whole; as it is if that fails.

    The compiled one is run once. Its loss and gradients must be those of the plain one, or no
    further from them than chance takes the plain ones. A line on standard error says what is wrong.

    `batch_loss` takes indices (B,) int64 and weights (B,) of samples, always `batch_size`; its
    model is in training mode.
    """
    # Whether to use TF32 is the user's choice, --tf32.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
    compiled = torch.compile(batch_loss, dynamic=False)
    device = next(model.parameters()).device
    indices = torch.zeros(batch_size, dtype=torch.int64, device=device)
    weights = torch.full((batch_size,), 1 / batch_size, device=device)

    def loss_and_gradients(function: BatchLoss) -> tuple[Tensor, Tensor]:
        model.zero_grad(set_to_none=True)
        loss = function(indices, weights)
        backward(loss, model, precision)
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return loss.detach(), torch.cat(gradients)

    try:
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(gpus), kept_statistics(model):
            ours, plain, again = map(loss_and_gradients, (compiled, batch_loss, batch_loss))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the compiler's many kinds, and those of the compilers it calls
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    else:
        difference = _difference(ours, plain)
        if difference <= COMPILED_TOLERANCES[precision] + 2 * _difference(again, plain):
            return compiled
        reason = f"its loss or gradients differ by {difference:.2g} of their size"
    finally:
        model.zero_grad(set_to_none=True)
    print(f"training without torch.compile, which is slower: {reason}", file=sys.stderr)
    return batch_loss


def _difference(ours: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> float:
    """Return the greatest |a - b| / |b|; NaN if one of them is."""
    return float(torch.stack([(a - b).norm() / b.norm() for a, b in zip(ours, expected)]).max())


@contextlib.contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Undo what trial steps in the block do to the statistics of batch norms."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, old in zip(model.buffers(), before):
            buffer.copy_(old)


def keep_freed_memory() -> None:
    """Let this process's allocator keep what is freed; does nothing but on Linux.

    Memory that is fresh from the system costs a page fault every 4 KiB, 6% of a training step on a
    CPU. The settings hold for the whole process, so a script calls this at its beginning.
    """
    if sys.platform == "linux":
        mmap_max, trim_threshold, largest = -4, -1, 2**31 - 1  # of mallopt(3)
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, largest)
