"""What `TrainStep` uses of torch.cuda, on the CPU: streams, graphs, the random state.

As on a GPU, a graph holds operators and the tensors that they read and write, not Python: a replay
runs the operators again, whatever number Python had in hand is what it was during the capture, and
the capture itself changes nothing. Random numbers continue from the generator's present state.
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls, self.written, self.is_broken = [], {}, False

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            self.is_broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        for schema, value in zip(function._schema.arguments, arguments):
            if schema.alias_info is not None and schema.alias_info.is_write:
                for tensor in _tensors(value):
                    self.written.setdefault(id(tensor), (tensor, tensor.clone()))
        result = function(*arguments, **options)
        self.calls.append((function, arguments, options, result))
        return result


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for part in value for t in _tensors(part)] if isinstance(value, list | tuple) else []


class Graph:
    def __init__(self):
        self.calls = []

    @torch.no_grad()
    def replay(self):
        for function, arguments, options, result in self.calls:
            outputs = function(*arguments, **options)
            for old, new in zip(_tensors(result), _tensors(outputs)):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Generator:
    """Stands in for the GPU's generator; knows which of its states a broken capture has left."""

    def __init__(self):
        self.is_sound = True

    def clone_state(self):
        return Generator()

    def graphsafe_set_state(self, other):
        self.is_sound = other.is_sound


class StandIn:
    """The device's state, and what was asked of it."""

    def __init__(self):
        self.device, self.default_stream = 0, _Stream(None)
        self.stream = self.default_stream
        self.generators = {index: Generator() for index in (None, 0, 1)}
        self.log, self.pools, self.streams = [], set(), set()
        self.allocator_pool = None
        self.fails_at_the_end = self.records_nothing = False

    def install(self, monkeypatch):
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "Stream", lambda device: _Stream(device))
        monkeypatch.setattr(cuda, "stream", self._set("stream"))
        monkeypatch.setattr(cuda, "device", lambda device: self._set("device")(device.index))
        monkeypatch.setattr(cuda, "current_stream", lambda device: self.stream)
        monkeypatch.setattr(cuda, "default_stream", lambda device: self.default_stream)
        monkeypatch.setattr(cuda, "CUDAGraph", self.make_graph)
        monkeypatch.setattr(cuda, "graph", self.capture)
        monkeypatch.setattr(cuda, "graph_pool_handle", lambda: (0, 7))
        monkeypatch.setattr(cuda, "default_generators", self.generators)
        monkeypatch.setattr(cuda, "get_rng_state", lambda device: torch.get_rng_state())
        monkeypatch.setattr(cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))
        name = "_cuda_endAllocateToPool"
        monkeypatch.setattr(torch._C, name, self.end_allocation, raising=False)
        return self

    def _set(self, name):
        @contextmanager
        def setting(value):
            before = getattr(self, name)
            setattr(self, name, value)
            try:
                yield
            finally:
                setattr(self, name, before)

        return setting

    def make_graph(self):
        graph, replay = Graph(), Graph.replay

        def counted():
            self.log.append("replay")
            replay(graph)

        graph.replay = counted
        return graph

    @contextmanager
    def capture(self, graph, pool, stream, capture_error_mode):
        """As torch.cuda.graph does: nothing is put back if the end raises."""
        self.log.append("capture")
        assert stream.device.index == self.device  # else another device's stream is recorded
        self.pools.add(pool)
        self.streams.add(stream)
        self.stream, self.allocator_pool = stream, pool
        random_state, recorder = torch.get_rng_state(), _Recorder()
        try:
            with recorder:
                yield
        finally:
            for tensor, value in recorder.written.values():
                tensor.detach().copy_(value)
            torch.set_rng_state(random_state)
            if self.fails_at_the_end or recorder.is_broken:
                self.generators[self.device].is_sound = False
                raise RuntimeError("operation failed due to a previous error during capture\nmore")
        self.allocator_pool = None
        if not self.records_nothing:
            graph.calls = recorder.calls

    def end_allocation(self, device, pool):
        assert self.device == device
        if self.allocator_pool != pool:
            raise RuntimeError("not currently recording to mempool_id")
        self.allocator_pool = None


class _Stream:
    def __init__(self, device):
        self.device, self.waited_for = device, None

    def wait_stream(self, other):
        self.waited_for = other
