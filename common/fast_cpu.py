"""The same network, faster on a CPU: one method of `PoseFormerV2` with a small C file behind it.

Between matrix products PyTorch reads and writes all activations once for each bias, GELU, addition
and norm, and its attention is made for long sequences. `fast_cpu.c` does two or three of these in
one pass. Tokens come first, (tokens, sequences, channels), so that some of the tokens are one block
of memory. The file is compiled at its first use, in a second, with the machine's C compiler.

`network_class` compares outputs and gradients with those of the plain network before it returns
the fast one. Deleting this file and `fast_cpu.c` costs speed and nothing else.
"""

import ctypes
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.model_poseformer import (
    NUM_HEADS,
    NUM_JOINTS,
    Attention,
    MixedBlock,
    Mlp,
    PoseFormerConfig,
    PoseFormerV2,
    SpatialBlock,
)

_SOURCE = Path(__file__).with_suffix(".c")
_LANES = 16  # numbers in a register of `fast_cpu.c`
# Its functions' arguments: pointers, longs, floats, ints.
_SIGNATURES = {
    "attention": "ppppp llllll f i",
    "gelu": "ppppp lll i",
    "add_norm": "ppppppppp llllll f i",
    "add_norm_backward": "ppppppppp llllll i",
    "transpose": "pp ll i",
}
_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_long, "f": ctypes.c_float, "i": ctypes.c_int}
# How far the fast network may be from the plain one: |a - b| / |b|, of outputs and of gradients.
_TOLERANCES = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (0.05, 0.2)}

_Context = torch.autograd.function.FunctionCtx


class FastPoseFormerV2(PoseFormerV2):
    """`PoseFormerV2` with the same parameters, whose stacks of blocks run in `fast_cpu.c`."""

    def run_blocks(self, blocks: Iterable[nn.Module], norm: nn.LayerNorm, x: Tensor) -> Tensor:
        """Pass tokens (B, T, D) through a stack of blocks, as `PoseFormerV2.run_blocks` does."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        dropout = self.training and self.config.drop_rate > 0
        if dropout or not x.is_cpu or x.dtype != torch.float32 or dtype not in _TOLERANCES:
            return super().run_blocks(blocks, norm, x)
        # Activations are kept in the precision of the products: memory is the bottleneck.
        x, branch = x.transpose(0, 1).to(dtype, memory_format=torch.contiguous_format), None
        for block in blocks:
            x, branch = _STACKS[type(block)](block, x, branch)
        _, (x,) = add_norm(x, branch, [norm])
        return x.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)


def network_class(config: PoseFormerConfig, precision: str) -> type[PoseFormerV2]:
    """Return the class to build on a CPU: the fast one, if it computes what the plain one does.

    If it does not, one line on standard error says why. `fast_cpu.c` needs a width that is a
    multiple of 16; for other widths the plain class is returned without a line. `precision` is
    "fp32" or "bf16", of matrix products.
    """
    if config.embed_dim_ratio % _LANES or kernels() is None:
        return PoseFormerV2
    types = {torch.float32, torch.bfloat16 if precision == "bf16" else torch.float32}
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            differences = [d for dtype in types for d in _differences(config, dtype)]
    except Exception as error:  # whatever an edited network may raise
        differences = [f"{type(error).__name__}: {error}"]
    if not differences:
        return FastPoseFormerV2
    reason = " ".join(differences[0].split())
    print(
        "common/fast_cpu.py does not compute what common/model_poseformer.py does, which is used "
        f"without it and takes longer: {reason}",
        file=sys.stderr,
    )
    return PoseFormerV2


def _differences(config: PoseFormerConfig, dtype: torch.dtype) -> list[str]:
    """Say what the fast network computes differently, in evaluation and in training."""
    torch.manual_seed(0)
    config = replace(config, depth=min(config.depth, 2))
    fast, plain = FastPoseFormerV2(config), PoseFormerV2(config)
    with torch.no_grad():
        for parameter in fast.parameters():  # at zero or one, an error would not show
            parameter.add_(0.1 * torch.randn_like(parameter) / max(1, parameter.shape[-1]) ** 0.5)
    plain.load_state_dict(fast.state_dict())
    inputs = torch.rand(3, config.number_of_frames, NUM_JOINTS, config.in_chans) * 2 - 1
    weights = torch.randn(3, 1, NUM_JOINTS, 3)
    output_tolerance, gradient_tolerance = _TOLERANCES[dtype]
    differences = []
    for training in (False, True):
        results = []
        for model in (fast.train(training), plain.train(training)):
            torch.manual_seed(1)  # both drop the same paths
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                output = model(inputs)
            model.zero_grad()
            (output.float() * weights).sum().backward()
            gradients = {f"the gradient of {n}": p.grad for n, p in model.named_parameters()}
            results.append({"the output": output.detach(), **gradients})
        mode = f"in {'training' if training else 'evaluation'}, {str(dtype).split('.')[1]}"
        for name, expected in results[1].items():
            tolerance = output_tolerance if name == "the output" else gradient_tolerance
            if not _is_close(results[0][name], expected, tolerance):
                differences.append(f"{name} differs {mode}")
    return differences


def _is_close(actual: Tensor | None, expected: Tensor | None, tolerance: float) -> bool:
    if actual is None or expected is None:
        return actual is expected
    return bool((actual - expected).norm() <= tolerance * expected.norm())


# The blocks -------------------------------------------------------------------------------------


class Branch(NamedTuple):
    """A residual branch whose bias and factor are applied where it is added."""

    value: Tensor | None  # (tokens, sequences, channels)
    bias: Tensor | None = None  # (tokens or 1, channels), to add
    factor: Tensor | None = None  # (tokens or 1, sequences), to scale by


def _spatial_block(block: SpatialBlock, x: Tensor, branch: Branch | None) -> tuple[Tensor, Branch]:
    """Return the tokens (17, N, d) and the last branch, which is still to be added to them.

    The next block adds it and normalises the sum in one pass.
    """
    x, (y,) = add_norm(x, branch, [block.norm1])
    x, (y,) = add_norm(x, _dropped(block, attend(block.attn, y)), [block.norm2])
    return x, _dropped(block, transform(block.mlp, y))


def _mixed_block(block: MixedBlock, x: Tensor, branch: Branch | None) -> tuple[Tensor, Branch]:
    """Do for tokens (n + f, B, D) what `_spatial_block` does."""
    x, (y,) = add_norm(x, branch, [block.norm1])
    branch = _dropped(block, attend(block.attn, y))
    x, (first, second) = add_norm(x, branch, [block.norm2, block.norm3])
    branches = [_dropped(block, transform(block.mlp1, first))]
    # The frequency MLP: the inverse DCT of a bias is not the same for all tokens.
    forth, back = block.mlp2.dct, block.mlp2.inverse_dct
    value, bias, _ = transform(block.mlp2, (forth @ second.flatten(1)).view_as(second))
    value = (back @ value.flatten(1)).view_as(second)
    branches.append(_dropped(block, Branch(value, back.sum(1, keepdim=True) * bias)))
    return x, _joined(*branches)


_STACKS = {SpatialBlock: _spatial_block, MixedBlock: _mixed_block}


def _dropped(block: nn.Module, branch: Branch) -> Branch:
    """Give a branch the factor that the block's `drop_path` draws for each sample."""
    ones = torch.ones(branch.value.shape[1], 1, 1)
    factor = block.drop_path(ones)
    return branch if factor is ones else branch._replace(factor=factor.view(1, -1))


def _joined(first: Branch, second: Branch) -> Branch:
    """Return one branch for the tokens of two, which have a factor both or neither."""

    def join(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        if a is None:
            return None
        return torch.cat([a.expand(len(first.value), -1), b.expand(len(second.value), -1)])

    value = torch.cat([first.value, second.value])
    return Branch(value, join(first.bias, second.bias), join(first.factor, second.factor))


def attend(layer: Attention, x: Tensor) -> Branch:
    """Softmax attention among the tokens of x (tokens, sequences, channels), softmax in float32."""
    x = _Attention.apply(_product(x, layer.qkv.weight), layer.qkv.bias, NUM_HEADS)
    return Branch(_product(x, layer.proj.weight), layer.proj.bias[None])


def transform(layer: Mlp, x: Tensor) -> Branch:
    """Two linear layers with a GELU between them, on each token of x alone."""
    x = _Gelu.apply(_product(x, layer.fc1.weight), layer.fc1.bias)
    return Branch(_product(x, layer.fc2.weight), layer.fc2.bias[None])


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


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x (tokens, sequences, fan-in) @ weightᵀ, in the precision of x."""
    if x.dtype == torch.bfloat16 and torch.is_grad_enabled() and weight.requires_grad:
        return _Product.apply(x, weight)
    return F.linear(x, weight)


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
        sizes = (*x.flatten(0, 1).shape, x.dtype == torch.bfloat16)
        _call("gelu", x, bias, None, out, None, *sizes)
        return out

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, bias = ctx.saved_tensors
        dx, dbias = torch.empty_like(x), _sums(*bias.shape)
        sizes = (*x.flatten(0, 1).shape, x.dtype == torch.bfloat16)
        _call("gelu", x, bias, gradient.contiguous(), dx, dbias, *sizes)
        return dx, dbias.sum(0)


class _Attention(torch.autograd.Function):
    """Attention from qkv (tokens, sequences, 3 dim) + bias (3 dim)."""

    @staticmethod
    def forward(ctx: _Context, qkv: Tensor, bias: Tensor, heads: int) -> Tensor:
        ctx.save_for_backward(qkv, bias)
        ctx.heads = heads
        out = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
        _Attention.run(heads, qkv, bias, None, out, None)
        return out

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv, bias = ctx.saved_tensors
        dqkv, dbias = torch.empty_like(qkv), _sums(*bias.shape)
        _Attention.run(ctx.heads, qkv, bias, gradient.contiguous(), dqkv, dbias)
        return dqkv, dbias.sum(0), None

    @staticmethod
    def run(heads: int, qkv: Tensor, *others: Tensor | None) -> None:
        """Call `attention` with qkv, bias, gradient or None, output, gradient by bias or None."""
        T, B, D3 = qkv.shape
        channels = D3 // 3 // heads
        # Heads narrower than a register are read together.
        group = next(g for g in range(1, heads + 1) if heads % g == 0 and g * channels >= _LANES)
        sizes = (heads, channels, group, T, B, qkv.dtype == torch.bfloat16, channels**-0.5)
        if _call("attention", qkv, *others, *sizes):
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
        dadded = None if dadded is None else dadded.contiguous()
        dnormed = torch.zeros_like(added) if dnormed is None else dnormed.contiguous()
        inputs = (added, dadded, dnormed, factor, weight, statistics)
        _call("add_norm_backward", *inputs, dx, dbranch, dparameters, *ctx.sizes)
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
    """Call a function of `fast_cpu.c` with its arguments and PyTorch's number of threads."""
    addresses = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    return getattr(kernels(), name)(*addresses, torch.get_num_threads())


@cache
def kernels() -> ctypes.CDLL | None:
    """Compile and load `fast_cpu.c`; None, and a line on stderr, where that is not possible."""
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    flags = ["-O3", native, "-fno-math-errno", "-fopenmp", "-fPIC", "-shared"]
    compiler = os.environ.get("CC", "") or "cc"
    try:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "fast_cpu.so")
            command = [*shlex.split(compiler), *flags, str(_SOURCE), "-o", str(library), "-lm"]
            subprocess.run(command, capture_output=True, check=True)
            loaded = ctypes.CDLL(str(library))
    except (OSError, ValueError, subprocess.CalledProcessError):
        print(
            f"{_SOURCE.name} could not be compiled with {compiler}: without a C compiler training "
            "on a CPU takes up to twice as long",
            file=sys.stderr,
        )
        return None
    for name, types in _SIGNATURES.items():
        getattr(loaded, name).argtypes = [_TYPES[t] for t in types.replace(" ", "")]
    return loaded
