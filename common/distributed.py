"""One process or many: PyTorch's own engine under `torchrun`, and plain calls without it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.device import choose_device


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank: number of this process; 0 writes files and prints.
        size: how many processes there are.
        device: where this process computes.
        control: the group for small messages between the processors, which do not wait for the
            GPU; None for the default group, where that is gloo.
        restarts: how often torchrun has restarted the processes.
    """

    rank: int
    size: int
    device: torch.device
    control: "dist.ProcessGroup | None" = None
    restarts: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share_weights(self, model: nn.Module) -> None:
        """Give the main process's weights to every process."""
        if self.size > 1:
            for parameter in model.parameters():
                dist.broadcast(parameter.detach(), src=0)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over the processes, in one message for all of them.

        DistributedDataParallel sends them while the backward pass still runs, but takes a dozen
        warm-up steps and a stream of its own before a CUDA graph can hold it.
        """
        parameters = [p for p in parameters if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        flat /= self.size
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
            p.grad = part.view_as(p)

    def share_of(self, batch: Tensor) -> tuple[Tensor, float]:
        """Return this process's part of a batch, and the weight of its mean loss.

        With it, the average of the processes' gradients is the gradient of the whole batch, even
        where the parts are not of one size. A process without a part still takes one sample, with
        weight zero, because all processes have to take the step together.

        Args:
            batch: (B,) indices, the same in every process.
        """
        part = batch[self.rank :: self.size]
        weight = len(part) * self.size / len(batch)
        return (part, weight) if len(part) else (batch[:1], 0.0)

    def batches(self, samples: int, batch_size: int) -> list[tuple[int, float]]:
        """Return the size and the weight of `share_of` an epoch's first and its last batch."""
        whole = torch.arange(samples).split(batch_size)
        shares = [self.share_of(batch) for batch in (whole[0], whole[-1])]
        return [(len(part), weight) for part, weight in shares]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of every process's `values`, a tensor on the CPU."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def maximum(self, values: Tensor) -> Tensor:
        """Return the greatest of every process's `values`, a tensor on the CPU."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Tensor, operation: dist.ReduceOp) -> Tensor:
        if self.size == 1:
            return values
        result = values.clone()
        dist.all_reduce(result, operation, group=self.control)
        return result

    def share(self, value: object) -> object:
        """Return the main process's `value` in every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def finish(self) -> None:
        """Leave the group of processes."""
        if self.size > 1:
            dist.destroy_process_group()


def start_world(gpu: str) -> World:
    """Join the processes that torchrun started, or stand alone.

    Args:
        gpu: number of the GPU, or "cpu". Under torchrun each process takes the GPU of its local
            rank, unless it is "cpu".

    Raises:
        InputError: if there is no such GPU.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if size > 1 and gpu != "cpu":
        gpu = os.environ["LOCAL_RANK"]
    device = choose_device(gpu, quiet=rank > 0)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)  # a CUDA graph is captured on the current device
    if size == 1:
        return World(rank=0, size=1, device=device)
    if on_gpu:  # PyTorch's notes on CUDA graphs ask for it where a graph holds NCCL's calls
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    return World(
        rank=rank,
        size=size,
        device=device,
        control=dist.new_group(backend="gloo") if on_gpu else None,
        restarts=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )
