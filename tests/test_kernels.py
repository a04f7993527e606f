"""The layers of `common/kernels.py` against the formulas in double precision."""

import pytest
import reference_model
import torch
import torch.nn.functional as F

from common.kernels import Branch, add_norm, attention, cpu_kernels, gelu, linear

DTYPES = [torch.float32, torch.bfloat16]


def random_tokens(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype).requires_grad_()


def random_layer(fan_in, fan_out, scale=1.0):
    layer = torch.nn.Linear(fan_in, fan_out)
    torch.nn.init.normal_(layer.weight, std=scale / fan_in**0.5)
    torch.nn.init.normal_(layer.bias)
    return layer


def exact_linear(x, layer):
    return x.double() @ layer.weight.double().T + layer.bias.double()


def exact_attention(x, layer):
    return reference_model.attention(exact_linear(x, layer).transpose(0, 1)).transpose(0, 1)


def assert_same(compute, exact, inputs, tolerance):
    """Compare outputs and the gradients by all inputs, in the precision of the first."""
    dtype = inputs[0].dtype
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = compute()
    expected = exact()
    assert output.dtype == dtype and output.shape == expected.shape
    assert reference_model.relative_error(output, expected) < tolerance
    gradient = torch.randn(output.shape).to(dtype)
    expected_gradients = torch.autograd.grad(expected, inputs, gradient.double())
    for a, b in zip(torch.autograd.grad(output, inputs, gradient), expected_gradients):
        assert reference_model.relative_error(a, b) < tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "dim", "sequences"),
    [(17, 32, 37), (17, 16, 5), (6, 544, 5), (2, 136, 16), (54, 544, 17)],
)
def test_attention_is_the_formula(either_way, tokens, dim, sequences, dtype):
    torch.manual_seed(0)
    layer, x = random_layer(dim, 3 * dim, 2.0), random_tokens(tokens, sequences, dim, dtype=dtype)
    assert_same(
        lambda: attention(x, layer, heads=8),
        lambda: exact_attention(x, layer),
        [x, layer.weight, layer.bias],
        5e-6 if dtype == torch.float32 else 3e-2,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(17, 37, 32, 64), (3, 16, 544, 1088), (3, 11, 1088, 544)])
@pytest.mark.parametrize("with_gelu", [False, True])
def test_linear_and_gelu_are_the_formulas(either_way, dtype, shape, with_gelu):
    torch.manual_seed(0)
    *size, fan_in, fan_out = shape
    layer, x = random_layer(fan_in, fan_out), random_tokens(*size, fan_in, dtype=dtype)
    assert_same(
        (lambda: gelu(x, layer)) if with_gelu else (lambda: linear(x, layer).complete()),
        (lambda: F.gelu(exact_linear(x, layer))) if with_gelu else (lambda: exact_linear(x, layer)),
        [x, layer.weight, layer.bias],
        5e-6 if dtype == torch.float32 else 2e-2,
    )


def test_gelu_is_exact_from_end_to_end(either_way):
    layer = torch.nn.Linear(16, 16)
    torch.nn.init.eye_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    x = torch.linspace(-20, 20, 1 << 16).view(1, -1, 16)
    error = (gelu(x, layer) - F.gelu(x.double())).abs() / x.abs().clamp(min=1)
    assert error.max() < 5e-7  # of float32, near one


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("with_bias", "with_factor"), [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize(("tokens", "dim", "norms"), [(17, 32, 1), (7, 544, 2)])
def test_add_norm_is_addition_and_layer_norm(
    either_way, dtype, with_bias, with_factor, tokens, dim, norms
):
    torch.manual_seed(0)
    layers = [torch.nn.LayerNorm(dim, eps=1e-6) for _ in range(norms)]
    parameters = [p for layer in layers for p in layer.parameters()]
    for parameter in parameters:
        torch.nn.init.normal_(parameter)
    x, value = (random_tokens(tokens, 5, dim, dtype=dtype) for _ in range(2))
    bias = random_tokens(tokens, dim) if with_bias else None
    factor = 2.0 * (torch.rand(tokens if with_bias else 1, 5) < 0.6) if with_factor else None
    parts = [tokens // 2, tokens - tokens // 2] if norms == 2 else [tokens]

    def both(x, value, bias, layers):
        added, normed = add_norm(x, Branch(value, bias, factor), layers)
        assert [len(part) for part in normed] == parts
        return torch.cat([added, *normed])

    def exact():
        branch = value.double() + (bias.double()[:, None] if with_bias else 0)
        added = x.double() + branch * (factor.double()[..., None] if with_factor else 1)
        norms = (
            F.layer_norm(part, (dim,), layer.weight.double(), layer.bias.double(), 1e-6)
            for part, layer in zip(added.split(parts), layers)
        )
        return torch.cat([added, *norms])

    assert_same(
        lambda: both(x, value, bias, layers),
        exact,
        [x, value, *([bias] if with_bias else []), *parameters],
        5e-6 if dtype == torch.float32 else 3e-2,
    )
    first, _ = add_norm(x, None, layers)
    assert torch.equal(first, x)


def test_attention_survives_extreme_scores(either_way):
    torch.manual_seed(0)
    layer, x = random_layer(32, 96, 2.0), torch.randn(17, 3, 32)
    with torch.no_grad():
        layer.weight[:64] *= 100
    assert (
        reference_model.relative_error(attention(x, layer, heads=8), exact_attention(x, layer))
        < 1e-3
    )


@pytest.mark.parametrize("part", [0, 32, 64])
def test_attention_does_not_hide_an_overflow(either_way, part):
    layer, x = torch.nn.Linear(32, 96), torch.zeros(17, 2, 32)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[part, 0] = x[3, 1, 0] = 1e30  # an infinite query, key or value
    finite = attention(x, layer, heads=8).isfinite()
    assert finite[:, 0].all() and not finite[:, 1].all()


def test_gelu_and_norm_do_not_hide_what_is_not_a_number(either_way):
    layer, x = torch.nn.Linear(16, 16), torch.zeros(2, 3, 16)
    x[1, 2, 5] = float("nan")
    _, (normed,) = add_norm(x, None, [torch.nn.LayerNorm(16)])
    for output in (gelu(x, layer), normed):
        assert output[1, 2].isnan().all() and output[0].isfinite().all()


def all_layers(dtype):
    """Return gradients through all layers, of 1,700 tokens, by the input and all parameters."""
    torch.manual_seed(0)
    layers = [random_layer(32, 96), random_layer(96, 32), random_layer(32, 96)]
    norms = [torch.nn.LayerNorm(32), torch.nn.LayerNorm(32)]
    x = random_tokens(17, 100, 32, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y, normed = add_norm(x, linear(gelu(x, layers[0]), layers[1]), norms)
        output = attention(torch.cat(normed), layers[2], heads=8) + y
    parameters = [p for layer in [*layers, *norms] for p in layer.parameters()]
    return torch.autograd.grad(output.float().pow(2).sum(), [x, *parameters])


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_the_same_each_time(either_way, dtype):
    first = all_layers(dtype)
    assert all(torch.equal(a, b) for _ in range(3) for a, b in zip(first, all_layers(dtype)))


def test_threads_share_the_work(either_way):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = all_layers(torch.float32)
        torch.set_num_threads(3)
        together = all_layers(torch.float32)
    finally:
        torch.set_num_threads(threads)
    assert all(
        reference_model.relative_error(a, b.double()) < 1e-5 for a, b in zip(together, alone)
    )


def test_a_bias_learns_where_all_else_is_frozen(either_way):
    torch.manual_seed(0)
    x, value, bias = torch.randn(2, 4, 16), torch.randn(2, 4, 16), random_tokens(1, 16)
    _, (normed,) = add_norm(x, Branch(value, bias), [torch.nn.LayerNorm(16)])
    (gradient,) = torch.autograd.grad(normed.pow(3).sum(), bias)
    exact = bias.detach().double().requires_grad_()
    expected = F.layer_norm(x.double() + value.double() + exact, (16,), eps=1e-5).pow(3).sum()
    assert reference_model.relative_error(gradient, torch.autograd.grad(expected, exact)[0]) < 1e-4


def test_the_sum_alone_may_be_used(either_way):
    x, value = random_tokens(2, 4, 16), random_tokens(2, 4, 16)
    added, _ = add_norm(x, Branch(value), [torch.nn.LayerNorm(16)])
    assert all(
        torch.equal(g, torch.ones(2, 4, 16)) for g in torch.autograd.grad(added.sum(), [x, value])
    )


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false -x"])
def test_says_once_that_there_is_no_compiler(monkeypatch, capfd, compiler):
    monkeypatch.setenv("CC", compiler)
    cpu_kernels.cache_clear()
    try:
        x, layer = torch.zeros(2, 1, 32), torch.nn.Linear(32, 96)
        assert torch.equal(attention(x, layer, heads=8), attention(x, layer, heads=8))
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1 and "without a C compiler" in lines[0]
    finally:
        cpu_kernels.cache_clear()
