import copy

import numpy as np
import pytest
import reference_model
import torch

from common.device import build_network, resolve_precision
from common.generators import WindowGenerator
from common.model_poseformer import PoseFormerConfig
from common.train_step import (
    TrainStep,
    build_optimizer,
    load_optimizer_state,
    set_learning_rate,
)
from run_poseformer import loss_of

CONFIG = {"number_of_frames": 9, "embed_dim_ratio": 8, "depth": 2}


def make_generator(frames=40):
    random = np.random.RandomState(0)
    keypoints = random.uniform(-1, 1, (frames, 17, 2)).astype(np.float32)
    poses = random.uniform(-0.5, 0.5, (frames, 17, 3)).astype(np.float32)
    poses[:, 0] = 0
    return WindowGenerator([keypoints], [poses], 9, device="cpu", augment=True)


def make_step(generator, *, precision="fp32", noise_std=0.0, optimizer="adamw", **config):
    torch.manual_seed(0)
    model = build_network(PoseFormerConfig(**CONFIG | config), "cpu", precision).train()
    optimizer = build_optimizer(model, 1e-3, name=optimizer, precision=precision)
    step = TrainStep(
        lambda batch: loss_of(model, generator, batch, precision, noise_std),
        optimizer,
        torch.device("cpu"),
    )
    step.model = model
    return step


def weights(step):
    return {name: value.clone() for name, value in step.model.state_dict().items()}


def test_step_is_adamw_on_the_plain_formulas():
    generator = make_generator()
    step = make_step(generator)
    exact = {k: v.double().requires_grad_() for k, v in weights(step).items()}
    reference = torch.optim.AdamW(exact.values(), lr=1e-3, weight_decay=0.1, fused=False)
    for indices in generator.start_epoch(0, 0).split(30):  # 30, 30 and the remaining 20
        loss = step(indices)
        inputs, targets = (part.double() for part in generator.gather(indices))
        predicted = reference_model.forward(exact, inputs, step.model.config)[:, 0]
        expected = (predicted - targets).square().sum(-1).sqrt().mean()
        reference.zero_grad()
        expected.backward()
        reference.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert not loss.requires_grad
    for name, value in weights(step).items():
        # Adam divides by a gradient's size, so the smallest ones are moved by their rounding.
        difference = (value - exact[name]).abs()
        assert difference.mean() < 2e-5 and difference.max() < 2e-3, name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_give_the_same_bits(precision, optimizer):
    generator = make_generator()
    runs = []
    options = {"noise_std": 0.01, "drop_rate": 0.1, "drop_path_rate": 0.2}
    for _ in range(2):
        step = make_step(generator, precision=precision, optimizer=optimizer, **options)
        for indices in generator.start_epoch(0, 0).split(16):
            step(indices)
        runs.append(weights(step))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_weight_scales_the_gradient_but_not_the_loss():
    generator = make_generator()
    plain, halved = make_step(generator), make_step(generator)
    indices = torch.arange(8)
    assert torch.equal(plain(indices), halved(indices, 0.5))
    for a, b in zip(plain.model.parameters(), halved.model.parameters()):
        torch.testing.assert_close(b.grad, a.grad / 2, rtol=1e-4, atol=1e-8)


def test_noise_moves_the_loss():
    generator = make_generator()
    indices = torch.arange(8)
    assert not torch.equal(
        make_step(generator)(indices), make_step(generator, noise_std=0.1)(indices)
    )


def test_one_window_overfits_below_a_millimetre():
    step = make_step(make_generator(1), number_of_kept_coeffs=1)
    for i in range(120):
        set_learning_rate(step.optimizer, 2e-3 * 0.93**i)
        loss = step(torch.zeros(1, dtype=torch.int64))
    assert loss.item() < 1e-3


def test_optimizer_state_moves_between_options():
    generator = make_generator()
    step = make_step(generator)
    step(torch.arange(8))
    parameters = list(step.model.parameters())
    foreign = torch.optim.AdamW(parameters, lr=1.0, foreach=False)
    saved = copy.deepcopy(step.optimizer.state_dict())
    foreign.load_state_dict(saved)
    state = foreign.state_dict()
    for entry in state["state"].values():
        entry["step"] = int(entry["step"])  # as releases before PyTorch 1.12 saved it

    fresh = build_optimizer(step.model, 1e-3)
    load_optimizer_state(fresh, state)
    assert fresh.param_groups[0]["fused"] and fresh.param_groups[0]["lr"] == 1e-3
    for p in parameters:
        for name, value in step.optimizer.state[p].items():
            assert torch.equal(fresh.state[p][name], value)


def test_optimizer_state_of_another_model_is_refused():
    step = make_step(make_generator())
    other = make_step(make_generator(), number_of_kept_coeffs=5)
    with pytest.raises(ValueError, match="does not fit"):
        load_optimizer_state(step.optimizer, other.optimizer.state_dict())
    state = step.optimizer.state_dict()
    state["param_groups"][0]["params"].pop()
    with pytest.raises(ValueError, match="parameters"):
        load_optimizer_state(step.optimizer, state)


def test_precision_follows_the_processor(monkeypatch):
    device = torch.device("cpu")
    assert [resolve_precision(choice, device) for choice in ("fp32", "bf16")] == ["fp32", "bf16"]
    for has_avx512_bf16, has_amx in ((True, False), (False, True), (False, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has_avx512_bf16: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has_amx: has)
        expected = "bf16" if has_avx512_bf16 or has_amx else "fp32"
        assert resolve_precision("auto", device) == expected
    with pytest.raises(ValueError, match="precision must be"):
        resolve_precision("fp16", device)
