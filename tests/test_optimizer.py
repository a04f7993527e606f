"""Muon against PyTorch's own and against the singular value decomposition."""

import copy

import pytest
import torch

from common.console import InputError
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.train_step import build_optimizer, load_optimizer_state, set_learning_rate

SMALL = PoseFormerConfig(9, 3, 3, embed_dim_ratio=8, depth=2)
STEPS = 5


def gradients(model, step):
    random = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=random) for p in model.parameters()]


def trained(model, optimizers):
    for step in range(STEPS):
        for p, gradient in zip(model.parameters(), gradients(model, step)):
            p.grad = gradient
        for optimizer in optimizers:
            set_learning_rate(optimizer, 0.02 / (step + 1))
            optimizer.step()
    return model.state_dict()


def test_matrices_move_as_by_pytorchs_muon_and_the_rest_as_by_its_adamw():
    torch.manual_seed(0)
    model = PoseFormerV2(SMALL)
    other = copy.deepcopy(model)
    blocks = [*other.Spatial_blocks.parameters(), *other.blocks.parameters()]
    matrices = [p for p in blocks if p.ndim == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in other.parameters() if id(p) not in inside]
    assert len(matrices) == 2 * 4 + 2 * 6  # qkv, proj, and two of each MLP
    muon = torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.1)
    expected = trained(other, [muon, adamw])
    ours = build_optimizer(model, 1.0, name="muon", beta2=0.99, precision="bf16")
    found = trained(model, [ours])
    for name, value in expected.items():
        # The iteration multiplies what bf16 rounds; entries move by 0.2 * 0.02 a step.
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (24, 24)])
def test_a_step_is_the_orthogonal_factor_of_the_gradient(shape):
    """With one gradient the Nesterov average is a multiple of it; the decay is known."""

    class OneBlock(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ParameterList([torch.zeros(shape)])
            self.head = torch.nn.Parameter(torch.zeros(3))

    model = OneBlock()
    matrix = model.blocks[0]
    # Well away from a singular matrix, where the iteration has converged.
    u, _, vt = torch.linalg.svd(torch.randn(shape, generator=torch.manual_seed(1)), False)
    singular = torch.linspace(0.5, 2, min(shape))
    optimizer = build_optimizer(model, 0.5, name="muon")
    matrix.grad = u @ torch.diag(singular) @ vt
    model.head.grad = torch.ones(3)
    optimizer.step()
    moved = -matrix.detach() / (0.5 * 0.2 * max(shape) ** 0.5)
    factors = torch.linalg.svdvals(moved)
    assert factors.min() > 0.65 and factors.max() < 1.25
    # The same singular vectors, in the same order.
    diagonal = u.T @ moved @ vt.T
    torch.testing.assert_close(diagonal, torch.diag(diagonal.diagonal()), atol=1e-4, rtol=0)
    assert (diagonal.diagonal() > 0.65).all()


def test_state_goes_on_from_a_checkpoint():
    torch.manual_seed(0)
    model = PoseFormerV2(SMALL)
    optimizer = build_optimizer(model, 1e-3, name="muon")
    trained(model, [optimizer])
    saved = copy.deepcopy(optimizer.state_dict())
    again = PoseFormerV2(SMALL)
    again.load_state_dict(model.state_dict())
    resumed = build_optimizer(again, 1e-3, name="muon")
    load_optimizer_state(resumed, saved)
    first, second = trained(model, [optimizer]), trained(again, [resumed])
    assert all(torch.equal(first[name], second[name]) for name in first)
    steps = {int(entry["step"]) for entry in resumed.state.values()}
    assert steps == {2 * STEPS}


def test_a_matrix_that_is_no_part_of_the_loss_stays():
    model = PoseFormerV2(SMALL)
    optimizer = build_optimizer(model, 1e-3, name="muon")
    unused = model.blocks[1].attn.qkv.weight
    before = unused.detach().clone()
    for p, gradient in zip(model.parameters(), gradients(model, 0)):
        p.grad = None if p is unused else gradient
    used = model.blocks[0].attn.qkv.weight.detach().clone()
    optimizer.step()
    assert torch.equal(unused, before)
    assert not torch.equal(model.blocks[0].attn.qkv.weight, used)


def test_a_network_without_blocks_is_refused():
    with pytest.raises(InputError, match="--optimizer muon: no module"):
        build_optimizer(torch.nn.Linear(2, 2), 1e-3, name="muon")
