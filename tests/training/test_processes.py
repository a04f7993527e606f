"""The group of processes comes together or says why not, and is left whole."""

import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from common.files.console import InputError
from common.training.processes import World, start_world

TASKS = Path("/proc/self/task")


@pytest.mark.parametrize(
    "environment", [{}, {"RANK": "x"}, {"RANK": "2", "LOCAL_RANK": "0"}], ids=str
)
def test_an_environment_that_is_not_torchrun_s_is_refused(monkeypatch, environment):
    for name, value in ({"WORLD_SIZE": "2"} | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"WORLD_SIZE is 2 .*torchrun"):
        start_world("cpu")


def threads_of_the_group():
    return [task for task in TASKS.iterdir() if "gloo" in (task / "comm").read_text()]


@pytest.mark.skipif(not TASKS.is_dir(), reason="tells threads by Linux's /proc")
@pytest.mark.parametrize("chained", [False, True])
def test_the_group_s_threads_end_while_an_error_passes_that_holds_it(monkeypatch, chained):
    """A thread that outlives the interpreter can abort the process."""

    def lose_another():
        group = dist.group.WORLD
        work = dist.all_reduce(torch.zeros(3), async_op=True)
        work.wait()
        raise RuntimeError(f"Connection closed by peer, of {group} in {work}")

    def train(world):
        try:
            lose_another()
        except RuntimeError as error:
            if chained:
                raise ValueError("another process has ended") from error
            raise
        finally:
            world.finish()
            left.extend(threads_of_the_group())

    left, signals = [], []
    monkeypatch.setattr(signal, "signal", lambda *arguments: signals.append(arguments))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    dist.all_reduce(torch.zeros(3))  # a thread that has worked has its name
    assert threads_of_the_group()
    with pytest.raises(ValueError if chained else RuntimeError):
        train(World(0, 2, torch.device("cpu")))
    assert not left
    assert not dist.is_initialized()
    # A signal that raised an exception in the middle of it would be printed and forgotten.
    assert signals == [(signal.SIGINT, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_DFL)]
