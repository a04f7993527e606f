"""One process or many: PyTorch's own engine under `torchrun`, and plain calls without it."""

import gc
import math
import os
import signal
import sys
import traceback
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.files.console import InputError
from common.training.device import choose_device

_JOIN_TIMEOUT = timedelta(seconds=45)
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
)


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    `control` is the group for small messages between the processors, which do not wait for the GPU;
    None for the default group, where that is gloo.
    """

    rank: int  # number of this process; 0 writes files and prints
    size: int  # how many processes there are
    device: torch.device  # where this process computes
    control: "dist.ProcessGroup | None" = None
    restarts: int = 0  # how often torchrun has restarted the processes
    launch: str | None = None  # id of this start by torchrun and of its restarts

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share_weights(self, model: nn.Module) -> None:
        """Give the main process's weights, and batch norms' statistics, to every process."""
        if self.size > 1:
            for value in model.state_dict().values():
                dist.broadcast(value, src=0)

    def average_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its mean over the processes, in one message for all of them.

        DistributedDataParallel sends them while the backward pass still runs, but takes a dozen
        warm-up steps and a stream of its own before a CUDA graph can hold it.
        """
        if self.size == 1:
            return
        parameters = [p for p in model.parameters() if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        flat /= self.size
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
            p.grad = part.view_as(p)

    def local_batch_size(self, batch_size: int) -> int:
        """Return how many samples of each batch a process takes."""
        return math.ceil(batch_size / self.size)

    def local_batch(self, batch: Tensor, batch_size: int) -> tuple[Tensor, Tensor | None]:
        """Return this process's part of a batch, and the weight of each sample's loss.

        The sum of the weighted losses, averaged over the processes, is the mean loss of the batch,
        and so are their gradients. A batch that is not full is filled up with samples of weight
        zero: on a GPU one graph and one compilation serve all steps. A single process on a CPU has
        no use for that: it takes the batch as it is, without weights.

        The batch (B,) int64 is the same in every process, `batch_size` that of a full one; indices
        and weights that are returned are (`local_batch_size`,).
        """
        if self.size == 1 and self.device.type == "cpu":
            return batch, None
        part = batch[self.rank :: self.size]
        weights = torch.full_like(part, self.size / len(batch), dtype=torch.float32)
        missing = self.local_batch_size(batch_size) - len(part)
        if missing:
            part = torch.cat([part, batch[:1].expand(missing)])
            weights = torch.cat([weights, weights.new_zeros(missing)])
        return part, weights

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

    def alone(self) -> "World":
        """Return this process as if there were no other, for work that it does by itself."""
        return replace(self, rank=0, size=1)

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.sum(torch.zeros(1))

    def has_lost_another(self, error: RuntimeError) -> bool:
        """Tell whether an error means that another process has ended."""
        is_of_group = isinstance(error, dist.DistError) or any(t in str(error) for t in _LOST)
        return self.size > 1 and is_of_group

    def finish(self) -> None:
        """Leave the group of processes, also while an error passes through.

        Its threads end here. One that frees a tensor while the interpreter ends would abort the
        process. All is saved: a signal from here on, as torchrun sends to those that are left,
        just ends the process.
        """
        if self.size > 1:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            # A failed all-reduce holds the group, and a CUDA graph its messages, in the frames of
            # the calls that ended in the error, and in those before it.
            error = sys.exc_info()[1]
            while error is not None:
                traceback.clear_frames(error.__traceback__)
                error = error.__cause__ or error.__context__
            gc.collect()
            dist.destroy_process_group()


def start_world(gpu: str) -> World:
    """Join the processes that torchrun started, or stand alone.

    `gpu` is the number of the GPU, or "cpu"; under torchrun each process takes the GPU of its local
    rank, unless it is "cpu".

    Raises:
        InputError: if there is no such GPU, the environment is not torchrun's, or the other
            processes do not come.
    """
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    rank, size, local_rank, restarts = _torchrun_s_numbers() if several else (0, 1, 0, 0)
    if several and gpu != "cpu":
        gpu = str(local_rank)
    device = choose_device(gpu, quiet=rank > 0)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)  # a CUDA graph is captured on the current device
    if not several:
        return World(rank=0, size=1, device=device)
    if on_gpu:  # PyTorch's notes on CUDA graphs ask for it where a graph holds NCCL's calls
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    store, launch = _store_of_all(rank, size, restarts)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        device_id=device if on_gpu else None,
    )
    control = dist.new_group(backend="gloo") if on_gpu else None
    return World(rank, size, device, control, restarts, launch)


def _torchrun_s_numbers() -> tuple[int, int, int, int]:
    """Return rank, number of processes, rank on this machine, and number of restarts."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    try:
        rank, size, local_rank = (int(os.environ[name]) for name in names[:3])
        restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        is_complete = rank < size and all(name in os.environ for name in names)
    except (KeyError, ValueError):
        is_complete = False
    if not is_complete:
        raise InputError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} in the environment, but {', '.join(names)} "
            "are not as torchrun sets them; start torchrun --nproc_per_node=N run_poseformer.py …, "
            "or unset WORLD_SIZE"
        )
    return rank, size, local_rank, restarts


def _store_of_all(rank: int, size: int, restarts: int) -> tuple[dist.Store, str]:
    """Return the store through which the processes find each other, and the launch's random id.

    All of them are there then. Torchrun keeps the store when it restarts the processes, with the
    addresses of those that have ended; so each start has keys of its own, but for the id.

    Raises:
        InputError: if one of them does not come.
    """
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=_JOIN_TIMEOUT))
        launch = store.compare_set("launch", "", os.urandom(8).hex()).decode()  # the first one's
        store = dist.PrefixStore(f"start {restarts}", store)
        store.set(f"process {rank}", "here")
        store.wait([f"process {other}" for other in range(size)], _JOIN_TIMEOUT)
    except dist.DistError as error:
        raise InputError(
            f"of {size} processes some did not come within {_JOIN_TIMEOUT.seconds} s; "
            "start torchrun again, with --resume last_epoch.bin to go on"
        ) from error
    return store, launch
