"""What can be checked of the GPU path without a GPU; `make gpu-check` does the rest on one."""

import importlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stand_in_cuda import StandIn

import common.distributed
import common.model_poseformer
import common.train_step
from common import device as device_module
from common.console import InputError
from common.device import compile_network
from common.distributed import World, start_world
from common.evaluation import predict
from common.generators import WindowGenerator
from common.loss import METRICS, MetricSums
from common.model_poseformer import Attention, PoseFormerConfig, PoseFormerV2
from common.train_step import TrainStep, build_optimizer, set_learning_rate
from run_poseformer import loss_of

GPU = torch.device("cuda", 1)
RANDOM = {"drop_rate": 0.1, "drop_path_rate": 0.2}
BATCHES = [(12, 1.0), (5, 1.0)]  # 29 samples: two whole batches and a tail


@pytest.fixture
def stand_in(monkeypatch):
    return StandIn().install(monkeypatch)


def small_model(**config):
    torch.manual_seed(0)
    return PoseFormerV2(PoseFormerConfig(9, embed_dim_ratio=8, depth=2, **config)).train()


def make_step(device=GPU, precision="fp32", optimizer="muon", **options):
    """A step with dropout, drop path and noise; the tensors are on the CPU."""
    random = np.random.RandomState(0)
    poses = random.uniform(-1, 1, (29, 17, 3)).astype(np.float32)
    windows = WindowGenerator([poses[..., :2]], [poses], 9, device="cpu")
    model = small_model(**RANDOM)
    optimizer = build_optimizer(model, 1e-3, name=optimizer, precision=precision)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(1e-3)  # as on a GPU
    step = TrainStep(
        lambda batch: loss_of(model, windows, batch, precision, 0.1), optimizer, device, **options
    )
    step.model = model
    return step


def train(step, start=0):
    """Two epochs, the second with another learning rate; return losses and all that has moved."""
    torch.manual_seed(1)
    losses = []
    for epoch in range(2):
        set_learning_rate(step.optimizer, 1e-3 * 0.5**epoch)
        order = torch.randperm(29, generator=torch.Generator().manual_seed(epoch))
        batches = order.split(12)[start if epoch == 0 else 0 :]
        losses += [step(batch) for batch in batches]
    return losses, everything(step)


def everything(step):
    moments = [value for entry in step.optimizer.state.values() for value in entry.values()]
    tensors = [*step.model.state_dict().values(), *moments, torch.get_rng_state()]
    return [tensor.clone() for tensor in tensors]


def assert_same_training(ours, eager):
    for a, b in zip(ours, eager):
        assert len(a) == len(b)
        assert all(torch.equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batches", [BATCHES, []], ids=["announced", "unannounced"])
@pytest.mark.parametrize("start", [0, 2], ids=["whole epoch", "resumed in the tail"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_replayed_steps_are_eager_steps_bit_for_bit(stand_in, optimizer, precision, batches, start):
    options = {"precision": precision, "optimizer": optimizer}
    eager = train(make_step(**options, capture=False), start)
    assert stand_in.log == []
    ours = train(make_step(**options, batches=batches), start)
    assert_same_training(ours, eager)
    # Each of two graphs is replayed once as a check, and then all steps are replays.
    assert stand_in.log.count("capture") == 2
    assert stand_in.log.count("replay") == 2 + len(ours[0])
    assert len(stand_in.pools) == len(stand_in.streams) == 1
    assert (stand_in.device, stand_in.stream) == (0, stand_in.default_stream)


def test_averaging_over_processes_is_part_of_the_graph(stand_in):
    def halve(parameters):
        for p in parameters:
            p.grad = p.grad / 2

    eager = train(make_step(capture=False, average_gradients=halve))
    assert_same_training(train(make_step(batches=BATCHES, average_gradients=halve)), eager)
    assert "replay" in stand_in.log


def test_stand_in_freezes_what_python_holds(stand_in):
    """A learning rate that is no tensor would stay what it was: the test above could fail."""
    eager, ours = make_step(capture=False), make_step()
    for step in (eager, ours):
        for group in step.optimizer.param_groups:
            group["lr"] = 1e-3
    (_, expected), (_, result) = train(eager), train(ours)
    assert not all(torch.equal(a, b) for a, b in zip(result, expected))


def test_no_warm_up_follows_a_capture(stand_in):
    """Warming up takes memory outside of the pool, which a tail must not do after an epoch."""
    step = make_step(batches=BATCHES)
    loss_of_batch = step.loss_of
    step.loss_of = lambda batch: stand_in.log.append(len(batch)) or loss_of_batch(batch)
    train(step)
    first = stand_in.log.index("capture")
    assert set(stand_in.log[:first]) == {12, 5}
    assert [entry for entry in stand_in.log[first:] if entry != "replay"] == [
        "capture",
        12,
        "capture",
        5,
    ]


def test_number_of_graphs_is_bounded(stand_in):
    step = make_step()
    for size in range(1, 9):
        step(torch.arange(size))
    assert stand_in.log.count("capture") == common.train_step.MAX_GRAPHS


def test_capture_that_fails_in_its_end_leaves_everything_as_it_was(stand_in, capsys):
    stand_in.fails_at_the_end = True
    expected = train(make_step(capture=False))
    ours = train(make_step(batches=BATCHES))
    assert_same_training(ours, expected)
    assert stand_in.log == ["capture"]
    assert (stand_in.device, stand_in.stream) == (0, stand_in.default_stream)
    assert stand_in.allocator_pool is None
    assert stand_in.generators[1].is_sound
    (line,) = capsys.readouterr().err.splitlines()
    assert "--no-cuda-graph" in line and "failed due to a previous error" in line


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("fails_in", [2, 5])  # the second warm-up step, and one of the tail's
def test_warm_up_that_fails_leaves_everything_as_it_was(stand_in, capsys, optimizer, fails_in):
    expected = train(make_step(optimizer=optimizer, capture=False))
    step = make_step(optimizer=optimizer, batches=BATCHES)
    loss_of_batch, calls = step.loss_of, []

    def failing(batch):
        calls.append(batch)
        if len(calls) == fails_in:
            raise RuntimeError("something else")
        return loss_of_batch(batch)

    step.loss_of = failing
    assert_same_training(train(step), expected)
    assert stand_in.log == []  # nothing was captured
    assert stand_in.default_stream.waited_for is not None
    assert "something else" in capsys.readouterr().err


def test_third_size_of_batch_that_fails_leaves_everything_as_it_was(stand_in, capsys):
    def train_on(step, fails):
        train(step)
        loss_of_batch = step.loss_of

        def failing(batch):
            if fails and stand_in.stream is not stand_in.default_stream:
                raise RuntimeError("something else")
            return loss_of_batch(batch)

        step.loss_of = failing
        return [step(torch.arange(7))], everything(step)

    expected = train_on(make_step(capture=False), fails=False)
    assert_same_training(train_on(make_step(batches=BATCHES), fails=True), expected)
    assert "something else" in capsys.readouterr().err


def test_line_names_what_broke_the_capture(stand_in, capsys):
    step = make_step()
    loss_of_batch, read = step.loss_of, []
    step.loss_of = lambda batch: read.append(loss_of_batch(batch).item()) or loss_of_batch(batch)
    train(step)
    assert "operation not permitted when stream is capturing" in capsys.readouterr().err


def test_empty_graph_is_not_replayed(stand_in, capsys):
    stand_in.records_nothing = True
    expected = train(make_step(capture=False))
    assert_same_training(train(make_step()), expected)
    assert "does not train" in capsys.readouterr().err


def test_lack_of_memory_is_not_hidden(stand_in):
    def loss_of_batch(_):
        raise torch.OutOfMemoryError

    step = make_step()
    step.loss_of = loss_of_batch
    with pytest.raises(torch.OutOfMemoryError):
        step(torch.arange(3))


def test_one_of_several_processes_that_cannot_capture_stops(stand_in):
    stand_in.fails_at_the_end = True
    step = make_step(average_gradients=lambda parameters: None)
    with pytest.raises(InputError, match="--no-cuda-graph"):
        train(step)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_process_captures_the_same_number_of_graphs(size):
    """A graph that holds messages has to be replayed by all processes in the same step."""
    for batch_size in range(size, 12):
        for samples in (batch_size, batch_size + 1, 2 * batch_size - 1, 3 * batch_size):
            worlds = [World(rank, size, torch.device("cpu")) for rank in range(size)]
            batches = [world.batches(samples, batch_size) for world in worlds]
            assert len({first == last for first, last in batches}) == 1
            for world, expected in zip(worlds, batches):
                parts = [world.share_of(b) for b in torch.arange(samples).split(batch_size)]
                assert {(len(part), weight) for part, weight in parts} == set(expected)


@pytest.mark.parametrize("number", ["0", "1"])
def test_start_world_makes_its_gpu_the_current_one(monkeypatch, number):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = start_world(number)
    assert chosen == [world.device] == [torch.device("cuda", int(number))]


def test_processes_on_gpus_join_over_nccl(monkeypatch):
    calls = []
    environment = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}
    environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(device))
    dist = common.distributed.dist
    monkeypatch.setattr(common.distributed, "_store_of_all", lambda *_: "the store")

    def join(backend, store, rank, world_size, device_id):
        assert (store, rank, world_size) == ("the store", 3, 4)
        calls.append((backend, device_id))

    monkeypatch.setattr(dist, "init_process_group", join)
    monkeypatch.setattr(dist, "new_group", lambda backend: backend)
    world = start_world("0")
    assert calls == [GPU, ("nccl", GPU)]
    assert (world.rank, world.size, world.device, world.control) == (3, 4, GPU, "gloo")
    assert environment["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"


def test_step_reads_nothing_back_and_stays_on_its_device(run_script):
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this PyTorch cannot imagine a device")
    result = run_script("tests/fake_gpu_step.py")
    (line,) = result.stdout.splitlines()
    assert line.endswith(" operators")


def test_attention_in_parts_is_attention(monkeypatch):
    torch.manual_seed(0)
    attention, x = Attention(16, 0.0), torch.randn(50, 17, 16)
    whole = attention(x)
    monkeypatch.setattr(common.model_poseformer, "MAX_SEQUENCES", 16)
    torch.testing.assert_close(attention(x), whole)


@pytest.mark.parametrize("windows", [21_845, 21_846, 65_536])
def test_fused_attention_gets_no_more_sequences_than_its_grid_holds(monkeypatch, windows):
    """On the meta device: shapes without memory."""
    seen, fused = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, v: seen.append(len(q)) or fused(q, k, v)
    )
    model = PoseFormerV2(PoseFormerConfig(depth=1)).to("meta")
    monkeypatch.setattr(common.model_poseformer, "_in_float32", lambda layer, x: layer(x))
    monkeypatch.setattr(model, "coefficients", lambda x: x.new_empty(len(x), 3, 34))
    poses = model(torch.empty(windows, 27, 17, 2, device="meta"))
    assert poses.shape == (windows, 1, 17, 3)
    assert max(seen) <= 65_535 and sum(seen) == windows * (3 + 1)


def test_metrics_wait_for_the_device_twice_a_sequence(monkeypatch):
    """All but the sums stay where the prediction is."""
    reads = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                reads.append(arguments)
            return function(*arguments, **(options or {}))

    poses = torch.randn(20, 17, 3, generator=torch.Generator().manual_seed(0))
    sums = MetricSums()
    with Watch():
        sums.add("S9", "Walking", poses, poses.numpy())
    assert len(reads) == 1  # whether it is finite; the other is the transfer of the sums
    assert (sums.state[..., 1].sum(dim=(0, 1, 2)) > 0).all() and len(METRICS) == 6


class _Compiled(torch.nn.Module):
    """Stands in for the compiler's result: the plain network, its output changed."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x):
        return self.change(self.network(x))


def fails(_):
    raise RuntimeError("no compiler\nmore")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda poses: poses, None),
        (lambda poses: poses * 1.1, "differ by"),
        (lambda poses: poses * float("nan"), "differ by"),
        (fails, "no compiler"),
    ],
)
def test_compiled_network_is_used_only_if_it_agrees(monkeypatch, capsys, change, message):
    model = small_model()
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: _Compiled(network, change))
    before = torch.get_rng_state()
    result = compile_network(model, torch.randn(4, 9, 17, 2), "fp32")
    torch.set_rng_state(before)
    assert isinstance(result, _Compiled) == (message is None)
    assert all(p.grad is None for p in model.parameters())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (message is not None)
    assert message is None or (message in lines[0] and result is model)


def test_network_is_one_graph_for_the_compiler():
    """No break, and the same output and gradients; inductor itself is for `make gpu-check`."""
    model, inputs = small_model(), torch.randn(4, 9, 17, 2)
    traced = torch.compile(model, dynamic=False, fullgraph=True, backend="aot_eager")
    ours = device_module._output_and_gradients(traced, inputs, "fp32")
    plain = device_module._output_and_gradients(model, inputs, "fp32")
    for a, b in zip(ours, plain):
        assert (a - b).norm() < 1e-5 * b.norm()
    torch._dynamo.reset()


def test_prediction_on_the_device_is_the_prediction():
    model = small_model().eval()
    keypoints = [np.random.RandomState(i).randn(n, 17, 2).astype("f4") for i, n in ((0, 7), (1, 1))]
    ours = common.evaluation.predict_on_device(model, keypoints, device="cpu")
    for a, b in zip(ours, predict(model, keypoints, device="cpu")):
        assert isinstance(a, torch.Tensor) and np.array_equal(a.numpy(), b)


def test_checks_for_a_gpu_pass_on_the_stand_in(stand_in, monkeypatch):
    """`make gpu-check` must work at once on the day when there is a GPU."""
    gpu = importlib.import_module("benchmarks.gpu")
    cpu, small = torch.device("cpu"), PoseFormerConfig(9, embed_dim_ratio=8, depth=1)
    stand_in.device = cpu.index

    def step_on_the_stand_in(*arguments, capture=True, **options):
        step = TrainStep(*arguments, **options)
        step._may_capture = capture
        for group in step.optimizer.param_groups:
            group["lr"] = torch.tensor(1e-3)
        return step

    monkeypatch.setattr(gpu, "TrainStep", step_on_the_stand_in)
    monkeypatch.setattr(gpu, "compile_network", lambda model, *_: _Compiled(model, lambda x: x))
    monkeypatch.setattr(gpu, "CONFIG", small)
    monkeypatch.setattr(gpu, "RANDOM", replace(small, **RANDOM))
    monkeypatch.setattr(gpu, "build_network", lambda config, *_: PoseFormerV2(config))
    monkeypatch.setattr(gpu, "EPOCHS", 1)
    monkeypatch.setattr(gpu, "BATCH", 6)
    monkeypatch.setattr(gpu, "TAIL", 4)
    monkeypatch.setattr(gpu, "MAX_SEQUENCES", 40)
    monkeypatch.setattr(gpu, "TEST_FRAMES", 25)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(gpu, "samples_per_s", lambda *_: "fast")
    few = [[part[:30] for part in parts] for parts in gpu.random_sequences(1)]
    monkeypatch.setattr(gpu, "random_sequences", lambda number: [part * number for part in few])
    assert gpu.graphs_equal_eager(cpu, "fp32", resumed=False) == "the same bits"
    monkeypatch.setattr(gpu, "graphs_equal_eager", lambda *_: "as above")
    table = gpu.Table(deadline=float("inf"))
    gpu.check(table, cpu)
    gpu.measure(table, World(0, 1, cpu))
    failed = [row for row in table.rows if row[1].startswith("FAILED")]
    assert not failed
