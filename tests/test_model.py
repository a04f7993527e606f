import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from common.model_poseformer import (
    MixedBlock,
    PoseFormerConfig,
    PoseFormerV2,
    dct_matrix,
    inverse_dct_matrix,
    model_flops,
)

SPEC = json.loads((GOLDEN / "reference_spec.json").read_text())
CONFIGS = [config["name"] for config in SPEC["configs"]]


def relative_error(actual, expected):
    """Return the largest error as a part of the largest number that is expected."""
    expected = torch.as_tensor(expected)
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def golden_model(golden_spec, name):
    spec = next(spec for spec in golden_spec["configs"] if spec["name"] == name)
    fields = [field.name for field in dataclasses.fields(PoseFormerConfig) if field.name in spec]
    config = PoseFormerConfig(**{field: spec[field] for field in fields})
    random, parameters = np.random.RandomState(0), {}
    for key in sorted(spec["state_dict"]):
        shape = spec["state_dict"][key]
        z = random.standard_normal(shape).astype(np.float32)
        if not key.endswith(".weight"):
            z = 0.1 * z
        elif z.ndim == 1:
            z = 1 + 0.1 * z
        else:
            z = z / np.sqrt(np.prod(shape[1:]))
        parameters[key] = torch.from_numpy(np.asarray(z, dtype=np.float32))
    model = PoseFormerV2(config)
    model.load_state_dict(parameters)
    shape = (4, config.number_of_frames, 17, config.in_chans)
    inputs = np.random.RandomState(1).uniform(-1, 1, shape).astype(np.float32)
    return spec, model, torch.from_numpy(inputs)


@pytest.mark.parametrize("name", CONFIGS)
def test_matches_published_network(golden, golden_spec, name):
    spec, model, inputs = golden_model(golden_spec, name)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == spec["state_dict"]
    assert sum(p.numel() for p in model.parameters()) == spec["parameters"]
    for training in (True, False):  # no dropout by default, so both are the same
        with torch.set_grad_enabled(training):
            output = model.train(training)(inputs)
        assert output.shape == (4, 1, 17, 3)
        assert relative_error(output, golden[f"out_{name}"]) < 1e-5
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = model(inputs[:1])
    assert output.dtype == torch.float32
    assert 1e-4 < relative_error(output, golden[f"out_{name}"][:1]) < 0.03


@pytest.mark.parametrize("size", [1, 3, 27])
def test_dct_is_scipys(size):
    scipy_fft = pytest.importorskip("scipy.fft")
    x = np.random.RandomState(0).standard_normal((size, 4))
    np.testing.assert_allclose(dct_matrix(size).numpy() @ x, scipy_fft.dct(x, axis=0), atol=1e-5)
    product = inverse_dct_matrix(size).double() @ dct_matrix(size).double()
    np.testing.assert_allclose(product, np.eye(size), atol=1e-6)


def test_flops_are_those_that_pytorch_counts(monkeypatch):
    counter = pytest.importorskip("torch.utils.flop_counter")
    config = PoseFormerConfig(9, 3, 5, embed_dim_ratio=8, depth=2)

    def attention(q, k, v):  # as matrix products, which the counter sees
        return (q @ k.mT).softmax(-1) @ v

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    with counter.FlopCounterMode(display=False) as count, torch.no_grad():
        PoseFormerV2(config)(torch.zeros(1, 9, 17, 2))
    assert model_flops(config) == count.get_total_flops()
    # The published figure leaves out the products inside attention.
    assert 117.3e6 < model_flops(PoseFormerConfig(27, 3, 3)) < 1.035 * 117.3e6


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    model = PoseFormerV2(PoseFormerConfig(drop_path_rate=0.3, depth=4, embed_dim_ratio=8))
    rates = [block.drop_path.rate for block in model.blocks]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3], atol=1e-7)
    drop_path = model.blocks[-1].drop_path
    x = torch.ones(10000, 2, 16)
    dropped = drop_path(x)
    kept = dropped[:, :1, :1] > 0
    assert torch.equal(dropped, (kept / torch.tensor(0.7)).expand(x.shape))
    assert abs(kept.float().mean() - 0.7) < 0.02
    assert drop_path.eval()(x) is x


def test_drop_path_draws_for_each_half_of_the_tokens():
    torch.manual_seed(0)
    block = MixedBlock(16, 6, drop_rate=0.0, drop_path_rate=0.5)
    torch.nn.init.zeros_(block.attn.proj.weight)
    torch.nn.init.zeros_(block.attn.proj.bias)
    x = torch.randn(1000, 6, 16)
    change = block(x) - x
    first, second = (half.abs().sum((1, 2)) > 0 for half in change.split(3, dim=1))
    assert abs(first.float().mean() - 0.5) < 0.06
    assert abs((first == second).float().mean() - 0.5) < 0.06


def test_a_person_who_stands_still_has_the_same_pose_in_a_longer_window():
    torch.manual_seed(0)
    short = PoseFormerV2(PoseFormerConfig(9, 3, 3, embed_dim_ratio=8, depth=1))
    long = PoseFormerV2(PoseFormerConfig(27, 3, 3, embed_dim_ratio=8, depth=1))
    long.load_state_dict(short.config.with_frames(short.state_dict(), 27))
    pose = torch.rand(2, 1, 17, 2)
    with torch.no_grad():
        of_short, of_long = (
            m(pose.expand(-1, m.config.number_of_frames, -1, -1)) for m in (short, long)
        )
    torch.testing.assert_close(of_long, of_short, atol=1e-5, rtol=0)
