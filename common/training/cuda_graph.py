"""A training step as one CUDA graph, which a GPU runs without waiting for Python."""

from collections.abc import Callable

import torch
from torch import Tensor

from common.files.console import InputError

Step = Callable[[Tensor, Tensor], Tensor]
_WARM_UP_STEPS = 3  # before a capture, as PyTorch's notes on CUDA graphs ask for


class CapturedStep:
    """A step that was captured as a CUDA graph; called as the step itself.

    Weights, moments and random numbers are as they were when the capture is done.

    Args:
        step: makes one step from the indices (B,) int64 and the weights (B,) float32 of its
            samples, all on the device, without waiting for it; returns the loss, a scalar there.
        optimizer: of `build_optimizer`, which the step moves.
        batch_size: B, of every step.
        device: the GPU.
        several_processes: whether the step holds messages between processes.

    Raises:
        InputError: if the step cannot be captured.
    """

    def __init__(
        self,
        step: Step,
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        device: torch.device,
        several_processes: bool,
    ) -> None:
        self._graph = torch.cuda.CUDAGraph()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._indices = torch.zeros(batch_size, dtype=torch.int64, device=parameters[0].device)
        self._weights = torch.full_like(self._indices, 1 / batch_size, dtype=torch.float32)
        moments = [value for p in parameters for value in optimizer.state[p].values()]
        state = [*(p.detach() for p in parameters), *moments]
        before = [value.clone() for value in state]
        random_state = torch.cuda.get_rng_state(device)
        # NCCL's own thread may call CUDA meanwhile.
        mode = "thread_local" if several_processes else "global"
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_STEPS):
                    step(self._indices, self._weights)
            optimizer.zero_grad(set_to_none=True)  # the gradients then belong to the graph
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode=mode):
                self._loss = step(self._indices, self._weights)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # those of the compilers that the step calls, too
            cause: BaseException = error
            while isinstance(cause.__context__, Exception):  # a capture's end hides what broke it
                cause = cause.__context__
            reason = (str(cause).splitlines() or [type(cause).__name__])[0]
            raise InputError(
                f"the training step cannot be captured as a CUDA graph: {reason}; start again "
                "with --no-cuda-graph"
            ) from error
        torch.cuda.current_stream(device).wait_stream(stream)
        for value, old in zip(state, before):
            value.copy_(old)
        torch.cuda.set_rng_state(random_state, device)

    def __call__(self, indices: Tensor, weights: Tensor) -> Tensor:
        """Make a step; return its loss, a scalar on the device, without waiting for it."""
        self._indices.copy_(indices)
        self._weights.copy_(weights)
        self._graph.replay()
        return self._loss.clone()
