"""The campaign against training: kills and signals, then proof that nothing was lost.

python tests/torture.py --kills 100 --sigterms 30 --sigints 30

Trainings of one and of two processes are attacked at random moments, and resumed after each attack.
After it every checkpoint in the folder loads; in the end weights, moments, figures and log are
those of a training that was left alone, in `last_epoch.bin`, `best_epoch.bin` and every
`epoch_N.bin`. `test_run_folder.py` and `test_resume.py` attack at placed moments.

Processes are forked from this one, which has imported everything: an attack costs half a second.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch: a fork must not inherit its threads

import argparse
import contextlib
import json
import multiprocessing.connection
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import conftest  # noqa: F401  (puts the repository on the path)
import torch._dynamo  # noqa: F401  (an optimizer imports it; here once, not in each fork)
from small_training import CPU, RANDOM, SMALL, assert_same_training, load, write_data

import run_poseformer
from common.files.console import run_script
from common.training.checkpoint import Checkpoint
from common.training.run_folder import LAST

EPOCHS = 4
ATTACKS_A_TRAINING = 4
LIMIT_S = 300  # for a process to end, however busy the machine is
PATIENCE_S = 10  # from SIGTERM to SIGKILL; torchrun's is 30


# One training, forked ---------------------------------------------------------------------------


SIGNALS = {signal.SIGINT, signal.SIGTERM}


def launch(arguments, processes, output):
    """Fork the processes of a training, which print into a file; return them."""
    port = free_port()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until a process is ready
    forked = []
    for rank in range(processes):
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        its = arguments, environment, output
        forked.append(multiprocessing.get_context("fork").Process(target=live, args=its))
        forked[-1].start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return forked


def live(arguments, environment, output):
    """Run the training in a forked process."""
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["run_poseformer.py", *map(str, arguments)]

    def main():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        run_poseformer.main()

    run_script(main)


def wait(processes):
    """Return the status of each process; the negative signal of one that was killed.

    After the first that fails the others get SIGTERM, then SIGKILL. So does torchrun; a process
    that waits for one that will not come cannot answer a signal.
    """
    left = processes
    while left:
        ended = multiprocessing.connection.wait([one.sentinel for one in left], LIMIT_S)
        assert ended, f"a process did not end within {LIMIT_S} s"
        left = [one for one in left if one.is_alive()]
        if any(one.exitcode for one in processes):
            for one in left:
                one.terminate()
                one.join(PATIENCE_S)
                one.kill()
    return [one.exitcode for one in processes]


def free_port():
    """Return a free port that the system gives to nobody who asks for any: these lie higher."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


# The campaign -----------------------------------------------------------------------------------


class Campaign:
    """Attacks trainings in a folder, at moments that follow from a seed."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.chance = work, random.Random(seed)
        write_data(work / "data", actions=("Walking 1",), frames=24)
        self.references = {}
        for processes in (1, 2):
            folder, began = work / f"reference_{processes}", time.monotonic()
            self.finish(folder, processes)
            self.references[processes] = folder, time.monotonic() - began

    def launch(self, folder, processes):
        flags = [*SMALL, *CPU, "-s", 6, "-b", 24, "-e", EPOCHS, "-cf", 1]
        flags += ["--wandb-mode", "disabled", "--data-dir", self.work / "data", "-c", folder]
        flags += RANDOM if processes == 1 else ()  # of one process, to the last bit
        flags += ["--resume", LAST] if (folder / LAST).is_file() else ()
        return launch(flags, processes, folder.with_suffix(".txt"))

    def run(self, attacks: list[int]) -> None:
        """Send each signal to some training."""
        self.chance.shuffle(attacks)
        for number, first in enumerate(range(0, len(attacks), ATTACKS_A_TRAINING)):
            processes, folder = 1 + number % 2, self.work / f"training_{number}"
            try:
                for attack in attacks[first : first + ATTACKS_A_TRAINING]:
                    self.attack(folder, processes, attack)
                self.finish(folder, processes)
                self.compare(folder, self.references[processes][0])
            except Exception as error:
                text = folder.with_suffix(".txt").read_text()
                raise AssertionError(f"training {number}: {error}\n{text}") from error
            shutil.rmtree(folder)

    def attack(self, folder: Path, processes: int, number: int) -> None:
        """Start or resume a training, send it a signal, see that it ends and what it leaves."""
        left = (EPOCHS - len(log_of(folder))) / EPOCHS
        forked = self.launch(folder, processes)
        time.sleep(self.chance.uniform(0, left * self.references[processes][1]))
        # A signal comes to one process, or from a terminal and torchrun to each, twice.
        for one in [self.chance.choice(forked)] if self.chance.random() < 0.5 else forked * 2:
            os.kill(one.pid, number)  # one that has ended stays until it is waited for
        statuses = wait(forked)
        expected = {0, 128 + number, -number}
        if processes > 1:  # who loses another says so, or gets SIGTERM, as from torchrun
            expected |= {2, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL}
        assert set(statuses) <= expected, f"{signal.Signals(number).name}: ended with {statuses}"
        for path in folder.glob("[!.]*.bin"):
            Checkpoint.load(path)

    def finish(self, folder: Path, processes: int) -> None:
        """Train to the end."""
        statuses = wait(self.launch(folder, processes))
        assert statuses == [0] * processes, f"the training ended with {statuses}"

    def compare(self, folder: Path, reference: Path) -> None:
        """Compare with the training that was left alone."""
        names = sorted(path.name for path in reference.glob("[!.]*"))
        assert sorted(path.name for path in folder.glob("[!.]*")) == names  # kills leave unfinished
        for name in names:
            if name.endswith(".bin"):
                assert_same_training(load(folder / name), load(reference / name))
        for ours, theirs in zip(log_of(folder), log_of(reference), strict=True):
            for key in ("epoch", "lr", "valid_mpjpe_mm"):
                assert ours[key] == theirs[key], f"{key} of the log: {ours} is not {theirs}"
            # The processes' sums of losses are added in another order after a resume.
            ratio = ours["train_mpjpe_mm"] / theirs["train_mpjpe_mm"]
            assert abs(ratio - 1) < 1e-9, f"the log's {ours} is not {theirs}"


def log_of(folder):
    log = folder / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"kills": 100, "sigterms": 30, "sigints": 30, "seed": random.randrange(10**6)}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    attacks = [signal.SIGKILL] * arguments.kills
    attacks += [signal.SIGTERM] * arguments.sigterms + [signal.SIGINT] * arguments.sigints
    with tempfile.TemporaryDirectory() as work:
        campaign = Campaign(Path(work), arguments.seed)
        campaign.run(attacks)
    print(f"{len(attacks)} signals; nothing was lost")


if __name__ == "__main__":
    main()
