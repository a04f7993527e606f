"""What `CapturedStep` uses of torch.cuda, on the CPU: a graph is a list of operators.

As on a GPU it holds operators and their tensors, not Python: a number that Python had in hand stays
what it was during the capture. Other than on a GPU, the operators run during the capture too.
"""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Graph:
    """Stands in for torch.cuda.CUDAGraph."""

    def __init__(self):
        self.calls, self.replays = [], 0

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for function, arguments, options, result in self.calls:
            outputs = function(*arguments, **options)
            for old, new in zip(tree_leaves(result), tree_leaves(outputs)):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.graph, self.is_broken = graph, False

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.is_broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        result = function(*arguments, **(options or {}))
        self.graph.calls.append((function, arguments, options or {}, result))
        return result


@contextmanager
def _capture(graph, stream, capture_error_mode):
    """As torch.cuda.graph: a capture that was broken inside fails again at its end."""
    recorder = _Recorder(graph)
    try:
        with recorder:
            yield
    finally:
        if recorder.is_broken:
            raise RuntimeError("operation failed due to a previous error during capture\nmore")


def install(monkeypatch):
    """Put the stand-ins in the place of torch.cuda's."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", _capture)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state)
    )
