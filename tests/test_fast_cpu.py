"""The layers of `common/fast_cpu.py` against the formulas in double precision; when it is used."""

import pytest
import reference_model
import torch
import torch.nn.functional as F

from common.model_poseformer import Attention, Mlp, PoseFormerConfig, PoseFormerV2

fast_cpu = pytest.importorskip("common.fast_cpu")
if fast_cpu.kernels() is None:
    pytest.skip("no C compiler", allow_module_level=True)
Branch, add_norm = fast_cpu.Branch, fast_cpu.add_norm

DTYPES = [torch.float32, torch.bfloat16]


def random_tokens(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype).requires_grad_()


def random_layer(kind, dim, scale=1.0):
    layer = kind(dim, 0.0)
    for name, parameter in layer.named_parameters():
        weight = name.endswith("weight")
        torch.nn.init.normal_(parameter, std=scale / parameter.shape[-1] ** 0.5 if weight else 1.0)
    return layer


def complete(branch):
    return branch.value + branch.bias[:, None].to(branch.value.dtype)


def exact_linear(x, layer):
    return x.double() @ layer.weight.double().T + layer.bias.double()


def exact_attention(x, layer):
    qkv = exact_linear(x, layer.qkv).transpose(0, 1)
    return exact_linear(reference_model.attention(qkv).transpose(0, 1), layer.proj)


def exact_mlp(x, layer):
    return exact_linear(F.gelu(exact_linear(x, layer.fc1)), layer.fc2)


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
    [(17, 32, 37), (17, 16, 5), (6, 544, 5), (2, 144, 16), (54, 272, 17)],
)
@pytest.mark.parametrize(
    ("kind", "compute", "exact"),
    [(Attention, "attend", exact_attention), (Mlp, "transform", exact_mlp)],
)
def test_layers_are_the_formulas(tokens, dim, sequences, dtype, kind, compute, exact):
    torch.manual_seed(0)
    layer, x = random_layer(kind, dim, 1.5), random_tokens(tokens, sequences, dim, dtype=dtype)
    assert_same(
        lambda: complete(getattr(fast_cpu, compute)(layer, x)),
        lambda: exact(x, layer),
        [x, *layer.parameters()],
        1e-5 if dtype == torch.float32 else 4e-2,
    )


def test_gelu_is_exact_from_end_to_end():
    x, bias = torch.linspace(-20, 20, 1 << 16).view(1, -1, 16), torch.zeros(16)
    error = (fast_cpu._Gelu.apply(x, bias) - F.gelu(x.double())).abs() / x.abs().clamp(min=1)
    assert error.max() < 5e-7  # of float32, near one


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("with_bias", "with_factor"), [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize(("tokens", "dim", "norms"), [(17, 32, 1), (7, 272, 2)])
def test_add_norm_is_addition_and_layer_norm(dtype, with_bias, with_factor, tokens, dim, norms):
    torch.manual_seed(0)
    layers = [torch.nn.LayerNorm(dim, eps=1e-6) for _ in range(norms)]
    parameters = [p for layer in layers for p in layer.parameters()]
    for parameter in parameters:
        torch.nn.init.normal_(parameter)
    x, value = (random_tokens(tokens, 5, dim, dtype=dtype) for _ in range(2))
    bias = random_tokens(tokens, dim) if with_bias else None
    factor = 2.0 * (torch.rand(tokens if with_bias else 1, 5) < 0.6) if with_factor else None
    parts = [tokens // 2, tokens - tokens // 2] if norms == 2 else [tokens]

    def both():
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

    inputs = [x, value, *([bias] if with_bias else []), *parameters]
    assert_same(both, exact, inputs, 5e-6 if dtype == torch.float32 else 3e-2)
    first, _ = add_norm(x, None, layers)
    assert torch.equal(first, x)


@pytest.mark.parametrize("part", [0, 32, 64])
def test_attention_does_not_hide_an_overflow(part):
    layer, x = random_layer(Attention, 32), torch.zeros(17, 2, 32)
    with torch.no_grad():
        layer.qkv.weight.zero_()
        layer.qkv.bias.fill_(1)
        layer.qkv.weight[part, 0] = x[3, 1, 0] = 1e30  # an infinite query, key or value
    finite = fast_cpu.attend(layer, x).value.isfinite()
    assert finite[:, 0].all() and not finite[:, 1].all()


def gradients(dtype, network_class=fast_cpu.FastPoseFormerV2, **config):
    """Return the network's gradients by all parameters, in training."""
    torch.manual_seed(0)
    model = network_class(PoseFormerConfig(9, embed_dim_ratio=16, depth=2, **config)).train()
    x = torch.rand(20, 9, 17, 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = model(x)
    return torch.autograd.grad(output.float().pow(2).sum(), list(model.parameters()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_the_same_each_time_and_for_any_number_of_threads(dtype):
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 1, 3):
            torch.set_num_threads(number)
            results.append(gradients(dtype))
    finally:
        torch.set_num_threads(threads)
    for alone, again, together in zip(*results):
        assert torch.equal(alone, again)
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        assert reference_model.relative_error(together, alone.double()) < tolerance


@pytest.mark.parametrize("config", [{"drop_path_rate": 0.5}, {"drop_rate": 0.3}])
def test_drops_what_the_plain_network_drops(config):
    fast, plain = (
        gradients(torch.float32, network_class, **config)
        for network_class in (fast_cpu.FastPoseFormerV2, PoseFormerV2)
    )
    for a, b in zip(fast, plain):
        assert reference_model.relative_error(a, b.double()) < 1e-4


# When it is used


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "config", [{"drop_path_rate": 0.4}, {"number_of_frames": 9, "number_of_kept_frames": 9}]
)
def test_agrees_and_is_used(config, precision, capsys):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    config = PoseFormerConfig(**config, embed_dim_ratio=16, depth=1)
    assert fast_cpu.network_class(config, precision) is fast_cpu.FastPoseFormerV2
    assert capsys.readouterr().err == ""
    assert torch.equal(before, torch.get_rng_state())  # a training's weights do not depend on it


@pytest.mark.parametrize(
    ("function", "change"),
    [
        ("attention", lambda out: out[0].add_(1)),
        ("gelu", lambda out: out.mul_(1.01)),
        ("add_norm", lambda out: out.reshape(7)),  # raises
    ],
)
def test_steps_aside_where_the_kernels_are_wrong(function, change, monkeypatch, capsys):
    plain = fast_cpu._call

    def wrong(name, *arguments):
        status = plain(name, *arguments)
        if name == function:
            change([a for a in arguments if isinstance(a, torch.Tensor)][-1])
        return status

    monkeypatch.setattr(fast_cpu, "_call", wrong)
    config = PoseFormerConfig(9, embed_dim_ratio=16, depth=1)
    assert fast_cpu.network_class(config, "fp32") is PoseFormerV2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is used without it" in line


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false -x", 'gcc "'])
def test_says_once_that_there_is_no_compiler(monkeypatch, capfd, compiler):
    monkeypatch.setenv("CC", compiler)
    fast_cpu.kernels.cache_clear()
    try:
        for _ in range(2):
            assert fast_cpu.network_class(PoseFormerConfig(), "fp32") is PoseFormerV2
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1 and "without a C compiler" in lines[0]
    finally:
        fast_cpu.kernels.cache_clear()
