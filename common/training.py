"""One training step, as fast as the device allows, and the optimizer that it moves.

The step gathers a batch by index, mirrors it, runs the model and its gradient and updates the
weights; nothing in it waits for the device. On a GPU all of it is captured once as a CUDA graph.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from common.generators import WindowGenerator
from common.loss import mpjpe

WEIGHT_DECAY = 0.1  # of the paper's supplement
_WARM_UP_STEPS = 3  # before a capture, as PyTorch's notes on CUDA graphs ask for


def resolve_precision(choice: str, device: torch.device) -> str:
    """Return "fp32" or "bf16", the precision of matrix products.

    Args:
        choice: "fp32", "bf16", or "auto" for bf16 where the processor has such products.
        device: where they are computed.

    Raises:
        ValueError: if `choice` is none of these.
    """
    if choice not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision must be auto, fp32 or bf16, not {choice}")
    if choice != "auto":
        return choice
    if device.type == "cuda":
        has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which matrix products are computed in `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


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

    So a state that another device or another release of PyTorch saved does as well.

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
        model: `PoseFormerV2`, or that in DistributedDataParallel, in training mode.
        optimizer: of `build_optimizer`.
        generator: gives windows and targets.
        precision: "fp32" or "bf16", of matrix products.
        noise_std: standard deviation of Gaussian noise on the keypoints, in normalised units.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: WindowGenerator,
        *,
        precision: str,
        noise_std: float = 0.0,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.generator = generator
        self.precision = precision
        self.noise_std = noise_std
        # The all-reduce of several processes is left to run eagerly.
        is_distributed = isinstance(model, nn.parallel.DistributedDataParallel)
        self._may_capture = generator.device.type == "cuda" and not is_distributed
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, indices: Tensor, weight: float = 1.0) -> Tensor:
        """Update the weights once.

        Args:
            indices: (B,) int64 samples, on the device.
            weight: factor of the loss, in the gradient alone.

        Returns:
            The mean MPJPE of the batch before the update, a scalar in metres, on the device,
            without waiting for it.
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
        inputs, targets = self.generator.gather(indices)
        if self.noise_std:
            inputs = inputs + self.noise_std * torch.randn_like(inputs)
        with autocast(self.generator.device, self.precision):
            predicted = self.model(inputs)
        loss = mpjpe(predicted.squeeze(1), targets)
        (loss * weight if weight != 1 else loss).backward()
        return loss.detach()

    def _try_to_capture(self, indices: Tensor) -> None:
        """Capture the step for batches of this size; if that fails, say so and never try again.

        Neither the warm-up, which leaves out the optimizer, nor the capture, which computes
        nothing, changes weights, moments or random numbers.
        """
        self._may_capture = False
        random_state = torch.cuda.get_rng_state(self.generator.device)
        try:
            self._capture(indices)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._graph = None
            reason = str(error).splitlines()[0]
            print(f"training without a CUDA graph, which is slower: {reason}", file=sys.stderr)
        torch.cuda.set_rng_state(random_state, self.generator.device)
        self.optimizer.zero_grad(set_to_none=True)

    def _capture(self, indices: Tensor) -> None:
        self._indices = indices.clone()
        stream = torch.cuda.Stream(self.generator.device)
        stream.wait_stream(torch.cuda.current_stream(self.generator.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                self.optimizer.zero_grad(set_to_none=True)
                self._backward(self._indices)
            self._load_optimizer_kernels()
        torch.cuda.current_stream(self.generator.device).wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)  # gradients then belong to the graph
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._loss = self._step(self._indices)
        self._graph = graph

    def _load_optimizer_kernels(self) -> None:
        """Step another optimizer once: a capture must not be the first use of a kernel."""
        scratch = nn.Linear(1, 1, device=self.generator.device)
        for parameter in scratch.parameters():
            parameter.grad = torch.zeros_like(parameter)
        build_optimizer(scratch, 0.0).step()
