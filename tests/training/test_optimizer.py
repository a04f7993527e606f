"""Muon against PyTorch's own, on tall, wide and square matrices; states that move on."""

import copy

import pytest
import torch

from common.files.console import InputError
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.training.optimizer import build_optimizer, load_optimizer_state, set_learning_rate
from common.training.recipe import Recipe

MUON, ADAMW = Recipe(optimizer="muon"), Recipe(optimizer="adamw")
STEPS = 3


def small_model(number_of_kept_coeffs=3):
    torch.manual_seed(0)
    return PoseFormerV2(PoseFormerConfig(9, 3, number_of_kept_coeffs, embed_dim_ratio=8, depth=1))


def set_gradients(model, step):
    random = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=random)


def trained(model, *optimizers):
    for step in range(STEPS):
        set_gradients(model, step)
        for optimizer in optimizers:
            set_learning_rate(optimizer, 0.02 / (step + 1))
            optimizer.step()
    return model.state_dict()


def test_matrices_move_as_by_pytorchs_muon_and_the_rest_as_by_its_adamw():
    model, other = small_model(), small_model()
    blocks = [*other.Spatial_blocks.parameters(), *other.blocks.parameters()]
    matrices = [p for p in blocks if p.ndim == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in other.parameters() if id(p) not in inside]
    assert len(matrices) == 4 + 6  # qkv, proj, and two of each MLP
    muon = torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.1)
    expected = trained(other, muon, adamw)
    found = trained(model, build_optimizer(model, MUON, "bf16"))
    for name, value in expected.items():
        # The iteration multiplies what bf16 rounds; entries move by 0.2 * 0.02 a step.
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=1e-3, msg=name)


def test_a_parameter_that_is_no_part_of_the_loss_stays():
    model = small_model()
    optimizer = build_optimizer(model, MUON)
    set_learning_rate(optimizer, 1e-3)
    set_gradients(model, 0)
    model.blocks[0].attn.qkv.weight.grad = None
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert same == {"blocks.0.attn.qkv.weight"}


def test_a_network_without_blocks_is_refused():
    with pytest.raises(InputError, match="--optimizer muon: no module"):
        build_optimizer(torch.nn.Linear(2, 2), MUON)


@pytest.mark.parametrize("recipe", [MUON, ADAMW])
def test_state_goes_on_from_a_checkpoint(recipe):
    model, again = small_model(), small_model()
    optimizer, resumed = build_optimizer(model, recipe), build_optimizer(again, recipe)
    trained(model, optimizer)
    again.load_state_dict(model.state_dict())
    load_optimizer_state(resumed, copy.deepcopy(optimizer.state_dict()))
    first, second = trained(model, optimizer), trained(again, resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {int(entry["step"]) for entry in resumed.state.values()} == {2 * STEPS}


def test_state_of_another_adamw_fits():
    """As releases before PyTorch 1.12 saved it: other options, and steps that are numbers."""
    model = small_model()
    optimizer = build_optimizer(model, ADAMW)
    trained(model, optimizer)
    foreign = torch.optim.AdamW(list(model.parameters()), lr=1.0, foreach=False)
    foreign.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    state = foreign.state_dict()
    for entry in state["state"].values():
        entry["step"] = int(entry["step"])
    fresh = build_optimizer(model, ADAMW)
    load_optimizer_state(fresh, state)
    assert fresh.param_groups[0]["fused"] and fresh.param_groups[0]["lr"] == 0
    for p in model.parameters():
        for name, value in optimizer.state[p].items():
            assert torch.equal(fresh.state[p][name], value)


def test_state_of_another_model_is_refused():
    model = small_model()
    optimizer = build_optimizer(model, ADAMW)
    state = build_optimizer(small_model(number_of_kept_coeffs=5), ADAMW).state_dict()
    with pytest.raises(ValueError, match="does not fit"):
        load_optimizer_state(optimizer, state)
    state["param_groups"][0]["params"].pop()
    with pytest.raises(ValueError, match="parameters"):
        load_optimizer_state(optimizer, state)
