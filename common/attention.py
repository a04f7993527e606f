"""Self-attention for many short sequences: one call on a GPU, a small C kernel on a CPU.

PyTorch's fused attention is made for long sequences. For 3,072 sequences of 17 tokens and 8 heads
of 4 channels in bfloat16 one core needs 48 ms forward and 159 ms backward for it, and 6 and 12 ms
for `attention.c`. The kernel is compiled at its first use, in 0.2 s, with the machine's C compiler.
Where there is none, PyTorch's attention does the work.
"""

import ctypes
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

_SOURCE = Path(__file__).with_suffix(".c")


def attention(qkv: Tensor, heads: int) -> Tensor:
    """Softmax attention among the tokens of each sequence, scaled by 1 / √(channels of a head).

    Args:
        qkv: (sequences, tokens, 3 dim): queries, keys and values, each with its heads side by side.
        heads: their number; it divides dim.

    Returns:
        (sequences, tokens, dim), in the precision of `qkv`; the softmax is computed in float32.
    """
    if qkv.device.type != "cpu":
        return _torch_attention(qkv, heads)
    fits = qkv.dtype in (torch.float32, torch.bfloat16) and qkv.shape[-1] % (3 * heads * 4) == 0
    if fits and cpu_kernel() is not None:
        return _KernelAttention.apply(qkv.contiguous(), heads)
    # PyTorch's own kernel takes 1.6 times as long in bfloat16 as in float32.
    wide = qkv.float() if qkv.dtype == torch.bfloat16 else qkv
    with torch.autocast("cpu", enabled=False):
        return _torch_attention(wide, heads).to(qkv.dtype)


def _torch_attention(qkv: Tensor, heads: int) -> Tensor:
    """`attention` by PyTorch's fused call."""
    B, T, D = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(B, T, 3, heads, D // heads).permute(2, 0, 3, 1, 4)  # (B, heads, T, channels)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D)


class _KernelAttention(torch.autograd.Function):
    """`attention` by `attention.c`. Keeps nothing but qkv for the backward pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, qkv: Tensor, heads: int) -> Tensor:
        ctx.save_for_backward(qkv)
        ctx.heads = heads
        B, T, D3 = qkv.shape
        return _run_kernel(qkv, None, qkv.new_empty(B, T, D3 // 3), heads)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (qkv,) = ctx.saved_tensors
        return _run_kernel(qkv, gradient.contiguous(), torch.empty_like(qkv), ctx.heads), None


def _run_kernel(qkv: Tensor, gradient: Tensor | None, out: Tensor, heads: int) -> Tensor:
    B, T, D3 = qkv.shape
    channels = D3 // 3 // heads
    failed = cpu_kernel()(
        qkv.data_ptr(),
        None if gradient is None else gradient.data_ptr(),
        out.data_ptr(),
        *(heads, channels, T, B, qkv.dtype == torch.bfloat16),
        *(channels**-0.5, torch.get_num_threads()),
    )
    if failed:
        raise MemoryError("no memory for the attention of one head")
    return out


@cache
def cpu_kernel() -> Callable[..., int] | None:
    """Compile and load `attention.c`; None where that is not possible."""
    compiler = os.environ.get("CC", "cc")
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "attention.so")
        command = [*compiler.split(), "-O3", native, "-fopenmp", "-fPIC", "-shared"]
        try:
            subprocess.run(
                [*command, str(_SOURCE), "-o", str(library)], capture_output=True, check=True
            )
            kernel = ctypes.CDLL(str(library)).attention
        except (OSError, subprocess.CalledProcessError):
            return None
    kernel.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long] * 4
    kernel.argtypes += [ctypes.c_int, ctypes.c_float, ctypes.c_int]
    return kernel
