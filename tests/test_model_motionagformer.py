"""MotionAGFormer against what the published network gives, and what its parts are."""

import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from common.model_motionagformer import PRESETS, MotionAGFormer, MotionAGFormerConfig

SPEC = json.loads((GOLDEN / "motionagformer_spec.json").read_text())
CONFIGS = {config["name"]: config for config in SPEC["configs"]}


def golden_weights(spec):
    """The weights of the golden vectors, {name: float64}, as their recipe draws them."""
    random, weights = np.random.RandomState(0), {}
    for key in sorted(spec["state_dict"]):
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(0)
            continue
        shape = spec["state_dict"][key]
        z = random.standard_normal(shape).astype(np.float32)
        if key.endswith("running_var"):
            z = np.abs(1 + 0.1 * z)
        elif not key.endswith(".weight"):
            z = 0.1 * z
        else:
            z = 1 + 0.1 * z if z.ndim == 1 else z / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
        weights[key] = torch.from_numpy(np.asarray(z)).double()
    return weights


def golden_config(spec):
    names = ("n_frames", "n_layers", "dim_feat", "num_heads", "dim_in")
    return MotionAGFormerConfig(*(spec[name] for name in names))


@pytest.mark.parametrize("name", CONFIGS)
def test_matches_published_network(name):
    spec = CONFIGS[name]
    model = MotionAGFormer(golden_config(spec)).double().eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == spec["state_dict"]
    assert sum(p.numel() for p in model.parameters()) == spec["parameters"]
    model.load_state_dict(golden_weights(spec))
    shape = (2, spec["n_frames"], 17, spec["dim_in"])
    inputs = np.random.RandomState(1).uniform(-1, 1, shape).astype(np.float32)
    with np.load(GOLDEN / "motionagformer_vectors.npz") as vectors, torch.no_grad():
        expected = vectors[f"out_{name}"][:1]
        output = model(torch.from_numpy(inputs[:1]).double()).numpy()
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)


def test_bfloat16_is_near_and_training_moves_every_parameter():
    torch.manual_seed(0)
    model = MotionAGFormer(MotionAGFormerConfig(9, 2, 16))
    clips = torch.randn(4, 9, 17, 2)
    exact = model.eval()(clips)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(clips)
    assert rounded.dtype == torch.float32
    assert torch.dist(rounded, exact) < 0.01 * exact.norm()
    model.train()(clips).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_presets_are_the_published_ones():
    for name in ("xs", "s"):
        spec = CONFIGS[name]
        published = (spec["n_frames"], spec["n_layers"], spec["dim_feat"])
        assert tuple(PRESETS[name].values()) == published
    assert PRESETS["l"] == {"number_of_frames": 243, "depth": 26, "dim": 128}
    assert PRESETS["b"]["depth"] == CONFIGS["b"]["n_layers"]
