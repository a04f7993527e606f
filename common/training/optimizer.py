"""The optimizer: AdamW, or Muon for the blocks' matrices and AdamW for everything else.

Muon is AdamW whose steps for some matrices are orthogonal matrices: Jordan et al., "Muon: An
optimizer for hidden layers in neural networks", 2024 (kellerjordan.github.io/posts/muon), with the
scale and the weight decay of Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982,
equation 4. `torch.optim.Muon` gives the same steps (a test compares them), but it reads its
learning rate as a number, which a CUDA graph would freeze, and it takes the matrices one by one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.files.console import InputError
from common.model_poseformer import PoseFormerV2
from common.training.recipe import Recipe

WEIGHT_DECAY = 0.1  # of the paper's supplement
MOMENTUM = 0.95
_ROOT_MEAN_SQUARE = 0.2  # of a step's entries, in learning rates: about that of AdamW
# Newton and Schulz's iteration x ← a x + b (x xᵀ) x + c (x xᵀ)² x, with Jordan's coefficients.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """Moves matrices by nearly orthogonal steps, and all other parameters as AdamW does.

    Where G is the Nesterov average of a matrix's gradients and U S Vᵀ its singular value
    decomposition, the matrix (m, n) moves by 0.2 √max(m, n) U Vᵀ times the learning rate.

    Args:
        matrices: parameters (m, n), the first group.
        others: parameters of any shape, the second group.
        dtype: in which the matrix products are computed.
        options: of AdamW; matrices use the learning rate and the weight decay.
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
        rate, kept = group["lr"], 1 - group["lr"] * group["weight_decay"]
        same_shape: dict[torch.Size, list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is None:  # no part of the loss
                continue
            same_shape.setdefault(p.shape, []).append(p)
        for shape, matrices in same_shape.items():
            averages = []
            for p in matrices:
                self.state[p]["step"] += 1
                average = self.state[p]["exp_avg"].lerp_(p.grad, 1 - MOMENTUM)
                averages.append(p.grad.lerp(average, MOMENTUM))
            factor = _ROOT_MEAN_SQUARE * max(shape) ** 0.5 * rate
            moves = orthogonal(torch.stack(averages).to(self._dtype)).to(averages[0].dtype)
            for p, move in zip(matrices, moves):
                p.mul_(kept).sub_(move * factor)
                p.grad = None  # AdamW below passes over what has no gradient
        super().step()


def orthogonal(matrices: Tensor) -> Tensor:
    """Return nearly U Vᵀ of matrices (k, m, n) = U S Vᵀ.

    Its singular values lie between 0.68 and 1.2; those below 0.0015 of the norm of S become less.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x


def build_optimizer(model: nn.Module, recipe: Recipe, precision: str = "fp32") -> torch.optim.AdamW:
    """Return the recipe's optimizer, with its state in place, which a captured step needs.

    On a GPU the learning rate is a tensor, so that a captured step reads its present value. It is
    set before each step by `set_learning_rate`.

    Args:
        model: whose parameters it updates.
        recipe: of the training.
        precision: "fp32" or "bf16", of Muon's matrix products.

    Raises:
        InputError: if there is no matrix for Muon.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    is_muon = recipe.optimizer == "muon"
    matrices = [n for n, p in parameters.items() if is_muon and "blocks" in n and p.ndim == 2]
    if is_muon and not matrices:
        raise InputError(
            "--optimizer muon: no module of the network whose name holds 'blocks' has a matrix; "
            "choose --optimizer adamw"
        )
    others = [p for n, p in parameters.items() if n not in matrices]
    device = next(iter(parameters.values())).device
    on_gpu = device.type != "cpu"
    options = {
        "lr": torch.zeros((), device=device) if on_gpu else 0.0,
        "betas": (0.9, recipe.beta2),
        "weight_decay": WEIGHT_DECAY,
        "fused": True,
        "capturable": on_gpu,
    }
    if is_muon:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        optimizer = Muon([parameters[n] for n in matrices], others, dtype=dtype, **options)
    else:
        optimizer = torch.optim.AdamW(others, **options)
    for n, p in parameters.items():
        moments = ("exp_avg",) if n in matrices else ("exp_avg", "exp_avg_sq")
        optimizer.state[p] = {m: torch.zeros_like(p) for m in moments}
        optimizer.state[p]["step"] = torch.zeros((), device=device)
    return optimizer


@torch.no_grad()
def init_at_mean_pose(model: PoseFormerV2, pose: np.ndarray) -> None:
    """Make a new network answer nearly the same pose, whatever it sees.

    The head's bias becomes the pose and its weights a tenth. PyTorch's own weights answer a body
    of noise, and the first steps are spent on forgetting it.

    Args:
        model: just built.
        pose: (17, 3), metres: the training data's mean.
    """
    *_, last = model.head
    last.weight.mul_(0.1)
    last.bias.copy_(torch.from_numpy(pose).flatten())


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
