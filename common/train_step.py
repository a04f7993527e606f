"""One training step, as fast as the device allows, and the optimizer that it moves.

Nothing in the step waits for the device. On a GPU all of it, from gathering the batch to updating
the weights, is captured once as a CUDA graph.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WEIGHT_DECAY = 0.1  # of the paper's supplement
_WARM_UP_STEPS = 3  # before a capture, as PyTorch's notes on CUDA graphs ask for


def build_optimizer(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """Return fused AdamW with its state in place, which a captured step needs.

    On a GPU the learning rate is a tensor, so that a captured step reads its present value; change
    it by `set_learning_rate`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    on_gpu = parameters[0].is_cuda
    lr = torch.tensor(learning_rate, device=parameters[0].device) if on_gpu else learning_rate
    optimizer = torch.optim.AdamW(
        parameters, lr=lr, weight_decay=WEIGHT_DECAY, fused=True, capturable=on_gpu
    )
    for p in parameters:
        optimizer.state[p] = {
            "step": torch.zeros((), device=p.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Change the learning rate, for a captured step too."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Copy AdamW's step counts and moments from a state dict; its other options are ours.

    A state that was saved on another device or by another release of PyTorch fits too.

    Raises:
        ValueError: if it has other parameters or other shapes.
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


class TrainStep:
    """Makes one training step from the indices of its samples.

    Args:
        loss_of: gives the mean loss of a batch, a scalar on the device with its gradient, from
            (B,) int64 indices of samples; called again for each step, or captured.
        optimizer: of `build_optimizer`.
        device: where both compute.
        capture: whether to capture the step as a CUDA graph, on a GPU.
    """

    def __init__(
        self,
        loss_of: Callable[[Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        capture: bool = True,
    ) -> None:
        self.loss_of = loss_of
        self.optimizer = optimizer
        self.device = device
        self._may_capture = capture and device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, indices: Tensor, weight: float = 1.0) -> Tensor:
        """Update the weights once.

        Args:
            indices: (B,) int64 samples, on the device.
            weight: factor of the loss, in the gradient alone.

        Returns:
            The loss of the batch before the update, a scalar on the device, without waiting for it.
        """
        if self._may_capture and self._graph is None and weight == 1:
            self._try_to_capture(indices)
        if self._graph is None or weight != 1 or indices.shape != self._indices.shape:
            return self._step(indices, weight)
        self._indices.copy_(indices)
        self._graph.replay()
        return self._loss.clone()

    def _step(self, indices: Tensor, weight: float = 1.0) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(indices, weight)
        self.optimizer.step()
        return loss

    def _backward(self, indices: Tensor, weight: float = 1.0) -> Tensor:
        loss = self.loss_of(indices)
        (loss * weight if weight != 1 else loss).backward()
        return loss.detach()

    def _try_to_capture(self, indices: Tensor) -> None:
        """Capture the step for batches of this size; if that fails, say so and never try again.

        Neither the warm-up, which leaves out the optimizer, nor the capture, which computes
        nothing, changes weights, moments or random numbers.
        """
        self._may_capture = False
        random_state = torch.cuda.get_rng_state(self.device)
        try:
            self._capture(indices)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._graph = None
            reason = str(error).splitlines()[0]
            print(f"training without a CUDA graph, which is slower: {reason}", file=sys.stderr)
        torch.cuda.set_rng_state(random_state, self.device)
        self.optimizer.zero_grad(set_to_none=True)

    def _capture(self, indices: Tensor) -> None:
        self._indices = indices.clone()
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                self.optimizer.zero_grad(set_to_none=True)
                self._backward(self._indices)
            self._load_optimizer_kernels()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)  # gradients then belong to the graph
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._loss = self._step(self._indices)
        self._graph = graph

    def _load_optimizer_kernels(self) -> None:
        """Step another optimizer once: a capture must not be the first use of a kernel."""
        scratch = nn.Linear(1, 1, device=self.device)
        for parameter in scratch.parameters():
            parameter.grad = torch.zeros_like(parameter)
        build_optimizer(scratch, 0.0).step()
