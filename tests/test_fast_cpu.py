"""The network of `common/fast_cpu.py` against the formulas in double precision; when it is used."""

import pytest
import reference_model
import torch
import torch.nn.functional as F

from common.model_poseformer import Attention, PoseFormerConfig, PoseFormerV2

fast_cpu = pytest.importorskip("common.fast_cpu")
if fast_cpu.kernels() is None:
    pytest.skip("no C compiler", allow_module_level=True)

DTYPES = [torch.float32, torch.bfloat16]


def small_model(network_class=fast_cpu.FastPoseFormerV2, **config):
    """A network without zeros and ones, at which an error would not show."""
    torch.manual_seed(0)
    config = {"number_of_frames": 9, "embed_dim_ratio": 16, "depth": 2} | config
    model = network_class(PoseFormerConfig(**config)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model


def output_and_gradients(model, dtype=torch.float32, compute=None, sequences=5):
    """Return poses, and the gradients of a weighted sum of theirs by all parameters."""
    random = torch.Generator().manual_seed(1)
    config = model.config
    shape = (sequences, config.number_of_frames, 17, config.in_chans)
    inputs, weights = torch.rand(shape, generator=random), torch.rand(17, 3, generator=random)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = (compute or model)(inputs)
    gradients = torch.autograd.grad((output * weights).sum(), list(model.parameters()))
    return [output.detach(), *gradients]


def errors(actual, expected):
    return torch.tensor([reference_model.relative_error(*pair) for pair in zip(actual, expected)])


@pytest.mark.parametrize(
    ("width", "frames", "coefficients"),
    [(16, 1, 1), (16, 3, 4), (32, 3, 3), (16, 9, 9), (48, 1, 3)],
)
def test_output_and_gradients_are_those_of_the_formulas(width, frames, coefficients):
    config = {"number_of_kept_frames": frames, "number_of_kept_coeffs": coefficients}
    model = small_model(**config, embed_dim_ratio=width)
    exact = {name: p.double() for name, p in model.named_parameters()}
    expected = output_and_gradients(
        model, compute=lambda x: reference_model.forward(exact, x.double(), model.config)
    )
    assert errors(output_and_gradients(model), expected).max() < 1e-4
    assert errors(output_and_gradients(model, torch.bfloat16), expected).max() < 0.06


def test_gelu_is_exact_from_end_to_end():
    x, bias = torch.linspace(-20, 20, 1 << 16).view(1, -1, 16), torch.zeros(16)
    error = (fast_cpu._Gelu.apply(x, bias) - F.gelu(x.double())).abs() / x.abs().clamp(min=1)
    assert error.max() < 5e-7  # of float32, near one


@pytest.mark.parametrize("part", [0, 32, 64])
def test_attention_does_not_hide_an_overflow(part):
    layer, x = Attention(32, 0.0), torch.zeros(17, 2, 32)
    with torch.no_grad():
        layer.qkv.weight.zero_()
        layer.qkv.bias.fill_(1)
        layer.qkv.weight[part, 0] = x[3, 1, 0] = 1e30  # an infinite query, key or value
    finite = fast_cpu.attend(layer, x).value.isfinite()
    assert finite[:, 0].all() and not finite[:, 1].all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_the_same_each_time_and_for_any_number_of_threads(dtype):
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 1, 3):
            torch.set_num_threads(number)
            results.append(output_and_gradients(small_model(), dtype, sequences=20))
    finally:
        torch.set_num_threads(threads)
    alone, again, together = results
    assert all(map(torch.equal, alone, again))
    assert errors(together, alone).max() < (1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("config", [{"drop_path_rate": 0.5}, {"drop_rate": 0.3}])
def test_drops_what_the_plain_network_drops(config):
    fast, plain = (
        output_and_gradients(small_model(network_class, **config), sequences=20)
        for network_class in (fast_cpu.FastPoseFormerV2, PoseFormerV2)
    )
    assert errors(fast, plain).max() < 1e-4


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
