"""The optimizer: AdamW, or Muon for the blocks' matrices and AdamW for everything else.

Muon is AdamW whose steps for some matrices are whitened: Jordan et al., "Muon: An optimizer for
hidden layers in neural networks", 2024 (kellerjordan.github.io/posts/muon), with the scale and the
weight decay of Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, equation 4. The
whitening is not Newton and Schulz's iteration with its 15 matrix products, but one triangular pass:
"MUD", Southworth and Thomas, 2026, arXiv 2603.17970.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.files.console import InputError
from common.training.device import DTYPES
from common.training.recipe import Recipe

MOMENTUM = 0.95
_ROOT_MEAN_SQUARE = 0.2  # of a step's entries, in learning rates: about that of AdamW
_BLOCK = 136  # rows that are whitened together; the rest is matrix products


class Muon(torch.optim.AdamW):
    """Moves matrices by whitened steps, and all other parameters as AdamW does.

    Where G is the Nesterov average of a matrix's gradients, the matrix (m, n) moves by
    0.2 √max(m, n) `whiten(G)` times the learning rate. Matrix products are computed in `dtype`;
    of AdamW's options matrices use the learning rate and the weight decay.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        others: Sequence[Tensor],
        *,
        dtype: torch.dtype,
        **options: Any,
    ) -> None:
        super().__init__([{"params": list(matrices)}, {"params": list(others)}], **options)
        self._dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """Move all parameters; the matrices' gradients are gone afterwards."""
        group = self.param_groups[0]
        matrices = [p for p in group["params"] if p.grad is not None]  # others: no part of the loss
        gradients = [p.grad for p in matrices]
        averages = [self.state[p]["exp_avg"] for p in matrices]
        torch._foreach_add_([self.state[p]["step"] for p in matrices], 1)
        torch._foreach_lerp_(averages, gradients, 1 - MOMENTUM)
        moves = self._whitened(torch._foreach_lerp(gradients, averages, MOMENTUM))
        torch._foreach_mul_(moves, group["lr"])
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(matrices, moves)
        for p in matrices:
            p.grad = None  # AdamW below passes over what has no gradient
        super().step()

    def _whitened(self, gradients: list[Tensor]) -> list[Tensor]:
        """Return the steps (m, n) of gradients, all of one shape at once, at learning rate 1."""
        wide = [g.mT if g.shape[0] > g.shape[1] else g for g in gradients]
        steps: dict[int, Tensor] = {}
        for shape in dict.fromkeys(g.shape for g in wide):
            places = [i for i, g in enumerate(wide) if g.shape == shape]
            stacked = torch.stack([wide[i] for i in places])
            scale = _ROOT_MEAN_SQUARE * shape[1] ** 0.5
            steps |= zip(places, whiten(stacked, self._dtype).mul_(scale))
        whole = (steps[i] for i in range(len(wide)))
        return [s if s.shape == g.shape else s.mT for s, g in zip(whole, gradients)]


def whiten(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return float32 matrices (k, m, n), m ≤ n, with nearly orthogonal rows of length 1.

    With X the matrix whose rows were scaled to length 1, and T the lower triangle of its Gram
    matrix X Xᵀ: the rows of T⁻¹ X, scaled to length 1 (MUD's one pass, arXiv 2603.17970). The
    solution runs from block to block of rows, so that nearly all of it is matrix products. These
    are computed in `dtype`, which may be fp16: no entry of T⁻¹ is above 2.
    """
    x = F.normalize(matrices, dim=-1).to(dtype)
    y = torch.empty_like(x)
    for start in range(0, x.shape[1], _BLOCK):
        rows = x[:, start : start + _BLOCK]
        rest = rows - (rows @ x[:, :start].mT) @ y[:, :start]
        corner = (rows @ rows.mT).float()
        identity = torch.eye(corner.shape[-1], device=x.device).expand_as(corner)
        inverse = torch.linalg.solve_triangular(corner, identity, upper=False, unitriangular=True)
        y[:, start : start + _BLOCK] = inverse.to(x.dtype) @ rest
    return F.normalize(y.float(), dim=-1)


def build_optimizer(model: nn.Module, recipe: Recipe, precision: str = "fp32") -> torch.optim.AdamW:
    """Return the recipe's optimizer, with its state in place, which a captured step needs.

    On a GPU the learning rate is a tensor, so that a captured step reads its present value. It is
    set before each step by `set_learning_rate`. Muon's products are in `precision`.

    Raises:
        InputError: if there is no matrix for Muon.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    is_muon = recipe.optimizer == "muon"
    where = getattr(model, "matrices", "blocks")
    matrices = [n for n, p in parameters.items() if is_muon and where in n and p.ndim == 2]
    if is_muon and not matrices:
        raise InputError(
            f"--optimizer muon: no module of the network whose name holds '{where}' has a matrix; "
            "choose --optimizer adamw"
        )
    others = [p for n, p in parameters.items() if n not in matrices]
    device = next(iter(parameters.values())).device
    on_gpu = device.type != "cpu"
    options = {
        "lr": torch.zeros((), device=device) if on_gpu else 0.0,
        "betas": (0.9, recipe.beta2),
        "weight_decay": recipe.weight_decay,
        "fused": True,
        "capturable": on_gpu,
    }
    if is_muon:
        dtype = DTYPES[precision]
        optimizer = Muon([parameters[n] for n in matrices], others, dtype=dtype, **options)
    else:
        optimizer = torch.optim.AdamW(others, **options)
    for n, p in parameters.items():
        moments = ("exp_avg",) if n in matrices else ("exp_avg", "exp_avg_sq")
        optimizer.state[p] = {m: torch.zeros_like(p) for m in moments}
        optimizer.state[p]["step"] = torch.zeros((), device=device)
    return optimizer


@torch.no_grad()
def init_at_mean_pose(model: nn.Module, pose: np.ndarray) -> None:
    """Make a new network answer nearly the training data's mean pose (17, 3), whatever it sees.

    The head's bias becomes the pose and its weights a tenth. PyTorch's own weights answer a body
    of noise, and the first steps are spent on forgetting it. A head that serves each joint alike
    answers the mean of the joints.
    """
    last = model.head[-1] if isinstance(model.head, nn.Sequential) else model.head
    last.weight.mul_(0.1)
    last.bias.copy_(torch.from_numpy(pose).reshape(-1, len(last.bias)).mean(dim=0))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Change the learning rate, for a captured step too."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Copy step counts and moments from a state dict; its other options are ours.

    A state that was saved on another device or by another release of PyTorch fits too.

    Raises:
        ValueError: if it has other parameters or other shapes.
        KeyError or TypeError: if it is no optimizer's state.
    """
    order = [index for group in saved["param_groups"] for index in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if len(order) != len(parameters):
        raise ValueError(
            f"the optimizer's state is of {len(order)} parameters, the model has {len(parameters)}"
        )
    for index, p in zip(order, parameters):
        # A parameter that has never had a gradient has no state.
        for name, value in saved["state"].get(index, {}).items():
            ours = optimizer.state[p].get(name)
            value = torch.as_tensor(value)
            if ours is None or ours.shape != value.shape:
                raise ValueError(f"the optimizer's {name} {tuple(value.shape)} does not fit")
            ours.copy_(value)
