"""Muon: AdamW whose steps for some matrices are orthogonal matrices.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(kellerjordan.github.io/posts/muon), with the scale and the weight decay of Liu et al., "Muon is
scalable for LLM training", arXiv 2502.16982, equation 4. `torch.optim.Muon` gives the same steps
(a test compares them), but it reads its learning rate as a number, which a CUDA graph would freeze,
and it takes the matrices one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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
