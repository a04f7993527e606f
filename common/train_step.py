"""One training step, as fast as the device allows, and the optimizer that it moves.

Nothing in the step waits for the device. On a GPU all of it, from gathering the batch to updating
the weights, is captured once as a CUDA graph.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.console import InputError
from common.model_poseformer import PoseFormerV2
from common.muon import Muon

WEIGHT_DECAY = 0.1  # of the paper's supplement
MAX_GRAPHS = 4  # an epoch has two sizes of batch; any further size runs uncaptured
_WARM_UP_STEPS = 3  # before a capture, as PyTorch's notes on CUDA graphs ask for


@torch.no_grad()
def start_at(model: PoseFormerV2, pose: np.ndarray) -> None:
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


def build_optimizer(
    model: nn.Module,
    learning_rate: float,
    *,
    name: str = "adamw",
    beta2: float = 0.999,
    precision: str = "fp32",
) -> torch.optim.AdamW:
    """Return fused AdamW, or Muon, with its state in place, which a captured step needs.

    On a GPU the learning rate is a tensor, so that a captured step reads its present value; change
    it by `set_learning_rate`.

    Args:
        model: whose parameters it moves.
        learning_rate: of the first step.
        name: "adamw", or "muon", which moves the blocks' matrices by `Muon`.
        beta2: of AdamW.
        precision: "fp32" or "bf16", of Muon's matrix products.

    Raises:
        InputError: if there is no matrix for Muon.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    is_muon = name == "muon"
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
        "lr": learning_rate,
        "betas": (0.9, beta2),
        "weight_decay": WEIGHT_DECAY,
        "fused": True,
        "capturable": on_gpu,
    }
    if is_muon:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        optimizer = Muon([parameters[n] for n in matrices], others, dtype=dtype, **options)
    else:
        optimizer = torch.optim.AdamW(others, **options)
    if on_gpu:
        for group in optimizer.param_groups:
            group["lr"] = torch.full((), learning_rate, device=device)
    for n, p in parameters.items():
        moments = ("exp_avg",) if n in matrices else ("exp_avg", "exp_avg_sq")
        optimizer.state[p] = {m: torch.zeros_like(p) for m in moments}
        optimizer.state[p]["step"] = torch.zeros((), device=device)
    return optimizer


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

    On a GPU the steps are captured as CUDA graphs: one for each size of batch, in one pool of
    memory, so that together they take what the largest takes.

    Args:
        loss_of: gives the mean loss of a batch, a scalar on the device with its gradient, from
            (B,) int64 indices of samples; called again for each step, or captured.
        optimizer: of `build_optimizer`.
        device: where both compute.
        batches: the (B, weight) of the batches to come, the largest first, in the same order in
            every process. All are captured before the first step: if memory does not suffice for
            one of them, it shows at once.
        average_gradients: `World.average_gradients` where there are several processes.
        capture: whether to capture steps on a GPU.
    """

    def __init__(
        self,
        loss_of: Callable[[Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        batches: Iterable[tuple[int, float]] = (),
        average_gradients: Callable[[list[Tensor]], None] | None = None,
        capture: bool = True,
    ) -> None:
        self.loss_of = loss_of
        self.optimizer = optimizer
        self.device = device
        self.average_gradients = average_gradients
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._expected = list(batches)
        self._may_capture = capture and device.type == "cuda"
        self._graphs: dict[tuple[int, float], _Graph] = {}

    def __call__(self, indices: Tensor, weight: float = 1.0) -> Tensor:
        """Update the weights once.

        Args:
            indices: (B,) int64 samples, on the device.
            weight: factor of the loss, in the gradient alone.

        Returns:
            The loss of the batch before the update, a scalar on the device, without waiting for it.

        Raises:
            InputError: if one of several processes cannot capture the step.
        """
        batch = (len(indices), weight)
        if batch not in self._graphs and self._may_capture:
            self._try_to_capture([*self._expected, batch])
        if batch not in self._graphs:
            return self._step(indices, weight)
        captured = self._graphs[batch]
        captured.indices.copy_(indices)
        captured.graph.replay()
        return captured.loss.clone()

    def _step(self, indices: Tensor, weight: float) -> Tensor:
        loss = self._backward(indices, weight)
        self.optimizer.step()
        return loss

    def _backward(self, indices: Tensor, weight: float) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(indices)
        (loss * weight if weight != 1 else loss).backward()
        if self.average_gradients is not None:
            self.average_gradients(self._parameters)
        return loss.detach()

    def _try_to_capture(self, batches: list[tuple[int, float]]) -> None:
        """Capture a step for each of these batches; if that fails, say so and never try again.

        Weights, moments and random numbers are afterwards as they were.
        """
        random_state = torch.cuda.get_rng_state(self.device)
        try:
            with torch.cuda.device(self.device):
                self._capture([b for b in dict.fromkeys(batches) if b not in self._graphs])
            self._may_capture = len(self._graphs) < MAX_GRAPHS
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._may_capture = False
            self._graphs.clear()  # they draw from a random state that may be no longer in use
            cause: BaseException = error
            while isinstance(cause.__context__, Exception):  # a capture's end hides what broke it
                cause = cause.__context__
            reason = (str(cause).splitlines() or [type(cause).__name__])[0]
            if self.average_gradients is not None:  # the other processes would wait for this one
                raise InputError(
                    f"the training step cannot be captured as a CUDA graph: {reason}; start again "
                    "with --no-cuda-graph"
                ) from error
            print(
                f"training without CUDA graphs (--no-cuda-graph), which is slower: {reason}",
                file=sys.stderr,
            )
        torch.cuda.set_rng_state(random_state, self.device)
        self.optimizer.zero_grad(set_to_none=True)

    def _capture(self, batches: list[tuple[int, float]]) -> None:
        if not self._graphs:
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream(self.device)
        device = self._parameters[0].device
        inputs = [torch.zeros(size, dtype=torch.int64, device=device) for size, _ in batches]
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        try:
            with torch.cuda.stream(self._stream), self._kept_state():
                # All warm up before a graph takes its memory, of which warming up has no use.
                for indices, (_, weight) in zip(inputs, batches):
                    for _ in range(_WARM_UP_STEPS):
                        self._step(indices, weight)
                for indices, batch in zip(inputs, batches):
                    self._graphs[batch] = self._capture_one(indices, batch[1])
                    self._check(self._graphs[batch].graph)
        finally:  # a step that follows reads what was put back
            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def _capture_one(self, indices: Tensor, weight: float) -> "_Graph":
        self.optimizer.zero_grad(set_to_none=True)  # gradients then belong to the graph
        graph = torch.cuda.CUDAGraph()
        # NCCL's own thread may call CUDA meanwhile.
        mode = "global" if self.average_gradients is None else "thread_local"
        try:
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode=mode
            ):
                loss = self._step(indices, weight)
        except RuntimeError:
            _leave_failed_capture(self.device.index, self._pool)
            raise
        return _Graph(graph, indices, loss)

    @torch.no_grad()
    def _check(self, graph: torch.cuda.CUDAGraph) -> None:
        """Replay a graph, which moves the weights; `_kept_state` puts them back.

        Raises:
            RuntimeError: if weights or step counts do not move.
        """
        moments = [self.optimizer.state[p] for p in self._parameters]
        before = [p.clone() for p in self._parameters]
        counts = torch.stack([entry["step"] for entry in moments])
        graph.replay()
        counted = torch.equal(torch.stack([entry["step"] for entry in moments]), counts + 1)
        moved = not all(torch.equal(a, b) for a, b in zip(self._parameters, before))
        if not (counted and moved):
            raise RuntimeError("a replay of the captured step does not train")

    @contextlib.contextmanager
    def _kept_state(self) -> Iterator[None]:
        """Give weights and moments back at the end as they were in the beginning."""
        moments = [self.optimizer.state[p] for p in self._parameters]
        state = [*self._parameters, *(value for entry in moments for value in entry.values())]
        before = [value.detach().clone() for value in state]
        try:
            yield
        finally:
            with torch.no_grad():
                for value, old in zip(state, before):
                    value.copy_(old)


class _Graph(NamedTuple):
    """A captured step, the indices that it reads and the loss that it writes."""

    graph: torch.cuda.CUDAGraph
    indices: Tensor
    loss: Tensor


def _leave_failed_capture(device_index: int, pool: tuple[int, int]) -> None:
    """Undo what a capture leaves behind that fails in its end (pytorch pull request 180395)."""
    # Before PyTorch 2.12 the allocator still gives its memory from the pool; later ones refuse.
    with contextlib.suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(device_index, pool)
    # Before PyTorch 2.13 the random numbers' state still counts for the graph; its copy does not.
    generator = torch.cuda.default_generators[device_index]
    generator.graphsafe_set_state(generator.clone_state())
