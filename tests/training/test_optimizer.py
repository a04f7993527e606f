"""Muon against its formulas in NumPy, on tall, wide and square matrices; states that move on."""

import copy

import numpy as np
import pytest
import torch
from scipy.linalg import solve_triangular
from torch.utils._python_dispatch import TorchDispatchMode

from common.files.console import InputError
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.training.optimizer import build_optimizer, set_learning_rate, whiten
from common.training.recipe import Recipe

MUON = Recipe(optimizer="muon")
STEPS = 3


def small_model():
    torch.manual_seed(0)
    return PoseFormerV2(PoseFormerConfig(9, 3, 3, embed_dim_ratio=8, depth=1))


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


def plain_muon(weight, gradients):
    """Momentum, Nesterov's average, one pass of MUD, scale and decay, of one matrix in float64."""
    average = np.zeros_like(weight)
    for step, g in enumerate(gradients):
        average = 0.95 * average + 0.05 * g
        x = 0.05 * g + 0.95 * average
        x = x.T if len(x) > len(x.T) else x
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        y = solve_triangular(np.tril(x @ x.T), x, lower=True)
        y = y / np.linalg.norm(y, axis=1, keepdims=True)
        lr = 0.02 / (step + 1)
        move = 0.2 * np.sqrt(max(weight.shape)) * (y if y.shape == weight.shape else y.T)
        weight = (1 - 0.1 * lr) * weight - lr * move
    return weight


def test_matrices_move_by_the_formulas_and_the_rest_as_by_pytorchs_adamw():
    model, other = small_model(), small_model()
    matrices = {n: p for n, p in other.named_parameters() if "blocks" in n and p.ndim == 2}
    assert len(matrices) == 4 + 6  # qkv, proj, and two of each MLP
    rest = [p for n, p in other.named_parameters() if n not in matrices]
    gradients = {name: [] for name in matrices}
    for step in range(STEPS):
        set_gradients(other, step)
        for name, p in matrices.items():
            gradients[name].append(p.grad.double().numpy())
    expected = {
        n: plain_muon(p.detach().double().numpy(), gradients[n]) for n, p in matrices.items()
    }
    adamw = torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.1)
    trained(other, adamw)
    found = trained(model, build_optimizer(model, MUON))
    for name, value in other.state_dict().items():
        value = torch.from_numpy(expected[name]).float() if name in expected else value
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("shape", [(2, 544, 1088), (1, 300, 300), (3, 5, 7)])
def test_whitened_rows_of_several_blocks_are_those_of_one_solution(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    x = x / x.norm(dim=-1, keepdim=True)
    expected = torch.linalg.solve_triangular((x @ x.mT).tril(), x, upper=False)
    expected = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(whiten(x.float()).double(), expected, atol=1e-5, rtol=1e-4)
    for dtype, tolerance in ((torch.bfloat16, 0.02), (torch.float16, 0.003)):  # 8 and 11 bits
        assert (whiten(x.float(), dtype).double() - expected).norm() < tolerance * expected.norm()


def test_orthogonal_rows_stay_and_a_zero_matrix_gives_no_nan():
    q = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(0))).Q[:20]
    torch.testing.assert_close(whiten(3 * q[None])[0], q, atol=1e-5, rtol=1e-4)
    for dtype in (torch.float32, torch.float16):
        assert not whiten(torch.zeros(1, 4, 6), dtype).isnan().any()
    torch.testing.assert_close(whiten(1e-9 * q[None], torch.float16)[0], q, atol=1e-3, rtol=0)


class Kernels(TorchDispatchMode):
    """Counts the operators that compute something, each a kernel or more on a GPU."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        computes = operator.namespace == "aten" and not operator.is_view
        self.count += computes and "view" not in operator.name()
        return operator(*args, **(kwargs or {}))


def test_a_deeper_network_needs_no_more_kernels():
    counts = []
    for depth in (1, 4):
        model = PoseFormerV2(PoseFormerConfig(9, embed_dim_ratio=16, depth=depth))
        optimizer = build_optimizer(model, MUON)
        set_gradients(model, 0)
        with Kernels() as kernels:
            optimizer.step()
        counts.append(kernels.count)
    assert counts[0] == counts[1] <= 140  # with a matrix after another there were 404


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
