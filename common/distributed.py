"""One process or many: PyTorch's own engine under `torchrun`, and plain calls without it."""

import os
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

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model, in DistributedDataParallel where there are several processes."""
        if self.size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )

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
    if size == 1:
        return World(rank=0, size=1, device=choose_device(gpu, quiet=False))
    rank, local_rank = int(os.environ["RANK"]), os.environ["LOCAL_RANK"]
    device = choose_device("cpu" if gpu == "cpu" else local_rank, quiet=rank > 0)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    return World(
        rank=rank,
        size=size,
        device=device,
        control=dist.new_group(backend="gloo") if on_gpu else None,
        restarts=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )
