"""The model's layers where PyTorch's are slow on a CPU: a small C file, and PyTorch without it.

Tensors are tokens first, (tokens, sequences, channels), so that some of the tokens are one block.

On a CPU the time between matrix products is what there is to save, most of all in bfloat16. PyTorch
makes its attention for long sequences: of 3,072 sequences of 17 tokens one core needs 48 ms forward
and 159 ms backward, and 4 and 8 ms for `kernels.c`. Bias, GELU, addition and layer norm are each a
pass over memory there, and one pass for two or three of them here. A product by a transposed
matrix, which the gradient of every weight is, takes twice as long as one by a matrix that was
transposed before. The file is compiled at its first use, in a second, with the machine's C
compiler. On a GPU, and without a compiler, PyTorch does all the work.
"""

import ctypes
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SOURCE = Path(__file__).with_suffix(".c")
_LANES = 16  # numbers in a register of `kernels.c`
# Its functions' arguments: pointers, longs, floats, ints.
_SIGNATURES = {
    "attention": "ppppp llllll f i",
    "gelu": "ppppp lll i",
    "add_norm": "ppppppppp llllll f i",
    "add_norm_backward": "ppppppppp llllll i",
    "transpose": "pp ll i",
}
_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_long, "f": ctypes.c_float, "i": ctypes.c_int}

_Context = torch.autograd.function.FunctionCtx


class Branch(NamedTuple):
    """A residual branch; what is left of it to compute is done where it is added.

    Attributes:
        value: (tokens, sequences, channels).
        bias: (tokens or 1, channels) to add, or None.
        factor: (tokens or 1, sequences) to scale by, or None.
    """

    value: Tensor
    bias: Tensor | None = None
    factor: Tensor | None = None

    def complete(self) -> Tensor:
        """Return the branch with its bias and its factor."""
        value = self.value
        if self.bias is not None:
            value = value + self.bias[:, None].to(value.dtype)
        return value if self.factor is None else value * self.factor[..., None].to(value.dtype)


def linear(x: Tensor, layer: nn.Linear) -> Branch:
    """Apply a layer to tokens x (tokens, sequences, channels); its bias may be left to be added."""
    if _kernels_take(x, layer):
        return Branch(_product(x, layer.weight), layer.bias[None])
    return Branch(layer(x))


def gelu(x: Tensor, layer: nn.Linear) -> Tensor:
    """Return GELU of a layer's output for tokens x (tokens, sequences, channels)."""
    if _kernels_take(x, layer):
        return _Gelu.apply(_product(x, layer.weight), layer.bias)
    return F.gelu(layer(x))


def attention(x: Tensor, layer: nn.Linear, heads: int) -> Tensor:
    """Softmax attention among the tokens of each sequence, scaled by 1 / √(channels of a head).

    Args:
        x: (tokens, sequences, dim).
        layer: gives 3 dim channels: queries, keys and values, each with its heads side by side.
        heads: their number; it divides dim.

    Returns:
        (tokens, sequences, dim), in the precision of x; the softmax is computed in float32.
    """
    if _kernels_take(x, layer):
        return _Attention.apply(_product(x, layer.weight), layer.bias, heads)
    qkv = layer(x)
    if qkv.is_cuda or qkv.dtype != torch.bfloat16:
        return _torch_attention(qkv, heads)
    # PyTorch's own kernel takes 1.6 times as long in bfloat16 as in float32.
    with torch.autocast("cpu", enabled=False):
        return _torch_attention(qkv.float(), heads).to(qkv.dtype)


def add_norm(
    x: Tensor, branch: Branch | None, norms: Sequence[nn.LayerNorm]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Add a branch to the residual stream and normalise the sum for the next branch.

    Args:
        x: (tokens, sequences, channels).
        branch: to be added, if any.
        norms: one for all tokens; or one for the first half of them, rounded down, and another for
            the rest.

    Returns:
        The sum, and its normalised tokens, one tensor for each norm.
    """
    parts = [len(x)] if len(norms) == 1 else [len(x) // 2, len(x) - len(x) // 2]
    same = branch is None or (branch.value.dtype, branch.value.shape) == (x.dtype, x.shape)
    if same and _kernels_take(x, norms[0]):
        weight, bias = (
            parameters[0][None] if len(norms) == 1 else torch.stack(parameters)
            for parameters in zip(*((norm.weight, norm.bias) for norm in norms))
        )
        value, branch_bias, factor = branch or Branch(None)
        if branch_bias is None:
            branch_bias = torch.zeros_like(weight[:1])
        if factor is not None:
            factor = factor.expand(x.shape[:2]).contiguous()
        x, normed = _AddNorm.apply(x, value, branch_bias, factor, weight, bias, norms[0].eps)
        return x, normed.split(parts)
    if branch is not None:
        x = x + branch.complete()
    return x, tuple(norm(part) for norm, part in zip(norms, x.split(parts)))


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x (tokens, sequences, fan-in) @ weightᵀ, in the precision of x."""
    if x.dtype == torch.bfloat16 and torch.is_grad_enabled() and weight.requires_grad:
        return _Product.apply(x, weight)
    return F.linear(x, weight)


def _torch_attention(qkv: Tensor, heads: int) -> Tensor:
    """Attention (T, B, D) by PyTorch's fused call, from qkv (T, B, 3 D)."""
    T, B, D = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(T, B, 3, heads, D // heads).permute(2, 1, 3, 0, 4)  # (B, heads, T, channels)
    return F.scaled_dot_product_attention(q, k, v).permute(2, 0, 1, 3).reshape(T, B, D)


class _Product(torch.autograd.Function):
    """A product in bfloat16 by a weight (fan-out, fan-in) in float32."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        rows, gradient = x.flatten(0, 1), gradient.flatten(0, 1)
        (fan_out, fan_in), count = weight.shape, len(rows)
        if count * fan_out > count * fan_in + fan_out * fan_in:  # more numbers to transpose
            dweight = _transpose(_transpose(rows) @ gradient)
        else:
            dweight = _transpose(gradient) @ rows
        return (gradient @ weight).view_as(x), dweight.float()


class _Gelu(torch.autograd.Function):
    """GELU of x (tokens, sequences, channels) + bias (channels)."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias)
        out = torch.empty_like(x)
        _call("gelu", x, bias, None, out, None, *_Gelu.sizes(x))
        return out

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, bias = ctx.saved_tensors
        dx, dbias = torch.empty_like(x), _sums(*bias.shape)
        _call("gelu", x, bias, gradient.contiguous(), dx, dbias, *_Gelu.sizes(x))
        return dx, dbias.sum(0)

    @staticmethod
    def sizes(x: Tensor) -> tuple[int, ...]:
        return x.shape[0] * x.shape[1], x.shape[2], x.dtype == torch.bfloat16


class _Attention(torch.autograd.Function):
    """Attention from qkv (tokens, sequences, 3 dim) + bias (3 dim)."""

    @staticmethod
    def forward(ctx: _Context, qkv: Tensor, bias: Tensor, heads: int) -> Tensor:
        ctx.save_for_backward(qkv, bias)
        ctx.heads = heads
        out = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
        _Attention.run(qkv, bias, None, out, None, heads)
        return out

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv, bias = ctx.saved_tensors
        dqkv, dbias = torch.empty_like(qkv), _sums(*bias.shape)
        _Attention.run(qkv, bias, gradient.contiguous(), dqkv, dbias, ctx.heads)
        return dqkv, dbias.sum(0), None

    @staticmethod
    def run(
        qkv: Tensor,
        bias: Tensor,
        gradient: Tensor | None,
        out: Tensor,
        dbias: Tensor | None,
        heads: int,
    ) -> None:
        T, B, D3 = qkv.shape
        channels = D3 // 3 // heads
        # Heads narrower than a register are read together.
        group = next(g for g in range(1, heads + 1) if heads % g == 0 and g * channels >= _LANES)
        sizes = (heads, channels, group, T, B, qkv.dtype == torch.bfloat16, channels**-0.5)
        if _call("attention", qkv, bias, gradient, out, dbias, *sizes):
            raise MemoryError("no memory for the attention of 16 sequences")


class _AddNorm(torch.autograd.Function):
    """`add_norm` with weight and bias (norms, channels), branch bias (tokens or 1, channels)."""

    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        branch: Tensor | None,
        branch_bias: Tensor,
        factor: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        x = x.contiguous()
        ctx.sizes = (len(weight), len(branch_bias), *x.shape, x.dtype == torch.bfloat16)
        branch = None if branch is None else branch.contiguous()
        added = x if branch is None else torch.empty_like(x)
        normed = torch.empty_like(x)
        statistics = torch.empty(*x.shape[:2], 2, dtype=torch.float32)
        parameters = (branch_bias.contiguous(), factor, weight, bias)
        outputs = (added, normed, statistics)
        _call("add_norm", x, branch, *parameters, *outputs, *ctx.sizes, eps)
        ctx.save_for_backward(added, factor, weight, statistics)
        ctx.has_branch = branch is not None
        return added, normed

    @staticmethod
    def backward(
        ctx: _Context, dadded: Tensor | None, dnormed: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        added, factor, weight, statistics = ctx.saved_tensors
        norms, biases = ctx.sizes[:2]
        dx, dparameters = torch.empty_like(added), _sums(2 * norms + biases, weight.shape[1])
        dbranch = None if factor is None else torch.empty_like(added)
        gradients = (
            None if dadded is None else dadded.contiguous(),
            torch.zeros_like(added) if dnormed is None else dnormed.contiguous(),
        )
        outputs = (dx, dbranch, dparameters)
        _call(
            *("add_norm_backward", added, *gradients, factor, weight, statistics),
            *(*outputs, *ctx.sizes),
        )
        dweight, dbias, dbranch_bias = dparameters.sum(0).split([norms, norms, biases])
        if not ctx.has_branch:
            return dx, None, None, None, dweight, dbias, None
        return dx, dx if dbranch is None else dbranch, dbranch_bias, None, dweight, dbias, None


def _transpose(x: Tensor) -> Tensor:
    """Return a bfloat16 matrix x transposed, in memory too."""
    if x.shape[0] % _LANES or x.shape[1] % _LANES:
        return x.T.contiguous()
    out = x.new_empty(x.shape[::-1])
    _call("transpose", x.contiguous(), out, *x.shape)
    return out


def _sums(*shape: int) -> Tensor:
    """Return room for what each thread sums up."""
    return torch.zeros(torch.get_num_threads(), *shape, dtype=torch.float32)


def _call(name: str, *arguments: Tensor | float | None) -> int:
    """Call a function of `kernels.c` with its arguments and PyTorch's number of threads."""
    addresses = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    return getattr(cpu_kernels(), name)(*addresses, torch.get_num_threads())


def _kernels_take(x: Tensor, layer: nn.Module) -> bool:
    """Return whether x and a layer's parameters are such as `kernels.c` works on."""
    fits = x.dtype in (torch.float32, torch.bfloat16) and layer.weight.dtype == torch.float32
    fits = fits and x.shape[-1] % _LANES == 0 and len(layer.bias) % _LANES == 0
    if torch.is_autocast_enabled("cpu"):
        fits = fits and x.dtype == torch.get_autocast_dtype("cpu")  # as the products will be
    return fits and x.device.type == "cpu" and cpu_kernels() is not None


@cache
def cpu_kernels() -> ctypes.CDLL | None:
    """Compile and load `kernels.c`; None, and a line on stderr, where that is not possible."""
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    flags = ["-O3", native, "-fno-math-errno", "-fopenmp", "-fPIC", "-shared"]
    try:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "kernels.so")
            command = [*compiler, *flags, str(_SOURCE), "-o", str(library), "-lm"]
            subprocess.run(command, capture_output=True, check=True)
            kernels = ctypes.CDLL(str(library))
    except (OSError, subprocess.CalledProcessError):
        print(
            f"no {_SOURCE.name} that runs here could be made with {compiler[0]}: without a C "
            "compiler training on a CPU takes up to twice as long",
            file=sys.stderr,
        )
        return None
    for name, types in _SIGNATURES.items():
        getattr(kernels, name).argtypes = [_TYPES[t] for t in types.replace(" ", "")]
    return kernels
