"""The campaign against training: kills and signals, then proof that nothing was lost.

python tests/torture.py --kills 100 --sigterms 30 --sigints 30

Trainings of one and of two processes are attacked at random moments and at placed ones (before,
within and after each file that is written, before and after each validation), and resumed after
each attack. After it every checkpoint in the folder loads; in the end weights, moments, figures and
log are those of a training that was left alone, in `last_epoch.bin`, `best_epoch.bin` and every
`epoch_N.bin`. A signal ends the training within its epoch. Then come full and read-only disks.

Processes are forked from this one, which has imported everything: an attack costs half a second.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch: a fork must not inherit its threads

import argparse
import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from conftest import REPOSITORY

import run_poseformer
from common.checkpoint import (
    load_checkpoint,
)
from common.console import run
from common.h36m_cameras import load_cameras
from common.h36m_dataset import cameras_poses
from common.npz_io import write_positions_2d, write_positions_3d
from common.run_folder import LAST

EPOCHS = 4
SMALL = ("-frame", "9", "--depth", "1", "--embed-dim-ratio", "8", "-str", "S1,S5", "-ste", "S9")
RANDOM = ("-drop", "0.1", "--drop-path", "0.2", "-std", "2")  # of one process, to the last bit
ATTACKS_A_TRAINING = 4
LIMIT_S = 300  # for a process to end, however busy the machine is
PATIENCE_S = 10  # from SIGTERM to SIGKILL; torchrun's is 30


# One training, forked ---------------------------------------------------------------------------


def launch(arguments: list[str], processes: int, output: Path, attack: tuple[int, int] | None):
    """Fork the processes of a training; return their ids and a pipe that tells when they are ready.

    Args:
        arguments: of run_poseformer.py.
        processes: how many.
        output: gets what they print.
        attack: signal and number of the placed moment at which the first process sends it to
            itself, or None.
    """
    reading, writing = os.pipe()
    port = free_port()
    ids = []
    for rank in range(processes):
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ids.append(os.fork())
        if ids[-1] == 0:
            os.close(reading)
            live(arguments, environment, output, writing, attack if rank == 0 else None)
    os.close(writing)
    return ids, reading


def live(arguments, environment, output, ready, attack):
    """Run the training in a forked process, and end it without what belongs to its parent."""
    status = 99
    try:
        os.environ.update(environment)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = ["run_poseformer.py", *arguments]
        plain = run_poseformer.parse_arguments

        def parse():
            os.write(ready, b".")
            return plain()

        with mock.patch.object(run_poseformer, "parse_arguments", parse), placed(attack):
            run(run_poseformer.main)
        status = 0
    except SystemExit as ending:
        status = ending.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


@contextlib.contextmanager
def placed(attack):
    """Send this process a signal at the placed moment with this number, counted from 1."""
    if attack is None:
        yield
        return
    number, moment = attack
    count = 0

    def pass_moment():
        nonlocal count
        count += 1
        if count == moment:
            os.kill(os.getpid(), number)

    def around(plain):
        def call(*arguments, **keywords):
            pass_moment()
            result = plain(*arguments, **keywords)
            pass_moment()
            return result

        return call

    def in_halves(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            pass_moment()
            return file.write(content[len(content) // 2 :])

    with (
        mock.patch.object(Path, "replace", around(Path.replace)),
        mock.patch.object(Path, "write_bytes", in_halves),
        mock.patch.object(run_poseformer, "evaluate", around(run_poseformer.evaluate)),
    ):
        yield


def moments(with_intermediates: int) -> int:
    """Return how many placed moments a whole training has: 2 a validation, 3 a file."""
    return EPOCHS * (2 + 3 * (2 + with_intermediates)) + 3


def wait(ids: list[int]) -> list[int]:
    """Wait for processes; after the first that fails the others get SIGTERM, then SIGKILL.

    So does torchrun; a process that waits for one that will not come cannot answer a signal.

    Returns:
        The status of each; the negative signal of one that was killed.

    Raises:
        AssertionError: if one does not end.
    """
    statuses, deadline, patience_ends = {}, time.monotonic() + LIMIT_S, None
    while len(statuses) < len(ids):
        assert time.monotonic() < deadline, f"a process did not end within {LIMIT_S} s"
        for pid in set(ids) - set(statuses):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                statuses[pid] = os.waitstatus_to_exitcode(status)
                if statuses[pid] and patience_ends is None:
                    patience_ends = time.monotonic() + PATIENCE_S
                    for other in set(ids) - set(statuses):
                        os.kill(other, signal.SIGTERM)
        if patience_ends and time.monotonic() > patience_ends:
            for other in set(ids) - set(statuses):
                os.kill(other, signal.SIGKILL)
        time.sleep(0.005)
    return [statuses[pid] for pid in ids]


def free_port() -> int:
    """Return a free port that the system gives to nobody who asks for any: these lie higher."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def halt(ids: list[int]) -> None:
    """Stop processes where they are, until SIGCONT; those that have ended stay so."""
    for pid in ids:
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


# The campaign -----------------------------------------------------------------------------------


class Campaign:
    """Attacks trainings until its lists of signals are used up.

    Args:
        work: a folder.
        seed: of the moments.
    """

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.chance, self.counts = work, random.Random(seed), Counter()
        write_data(work / "data")
        self.references = {}
        for processes in (1, 2):
            folder = work / f"reference_{processes}"
            began = time.monotonic()
            ids, ready = launch(self.flags(folder, processes), processes, self.output(folder), None)
            assert wait(ids) == [0] * processes, self.output(folder).read_text()
            os.close(ready)
            self.references[processes] = folder, time.monotonic() - began

    def output(self, folder: Path) -> Path:
        return folder.with_suffix(".txt")

    def flags(self, folder: Path, processes: int) -> list[str]:
        flags = [*SMALL, "--data-dir", str(self.work / "data"), "-c", str(folder), "-g", "cpu"]
        flags += ["--precision", "fp32", "-b", "32", "-s", "4", "-e", str(EPOCHS), "-cf", "1"]
        flags += ["--wandb-mode", "disabled", *(RANDOM if processes == 1 else ())]
        return [*flags, "--resume", LAST] if (folder / LAST).is_file() else flags

    def run(self, attacks: list[int]) -> None:
        """Send each signal to some training."""
        self.chance.shuffle(attacks)
        number = 0
        while attacks:
            number += 1
            processes, folder = 1 + number % 2, self.work / f"training_{number}"
            part, attacks = attacks[:ATTACKS_A_TRAINING], attacks[ATTACKS_A_TRAINING:]
            try:
                for attack in part:
                    self.attack(folder, processes, attack)
                self.finish(folder, processes)
            except Exception as error:
                text = self.output(folder).read_text()
                raise AssertionError(f"training {number}: {error}\n{text}") from error
            shutil.rmtree(folder)

    def attack(self, folder: Path, processes: int, number: int) -> None:
        """Start or resume a training, send it a signal, see that it ends and what it leaves."""
        is_placed = self.chance.random() < 0.5
        moment = (number, self.chance.randint(1, moments(2))) if is_placed else None
        flags, done = self.flags(folder, processes), epochs_in(folder)
        ids, ready = launch(flags, processes, self.output(folder), moment)
        epochs_before = None
        if not is_placed:
            for _ in ids:
                assert os.read(ready, 1), "a process did not begin"
            whole = self.references[processes][1]
            time.sleep(self.chance.uniform(0, whole * (EPOCHS - done) / EPOCHS))
            halt(ids)  # else epochs could pass between the count and the signal
            epochs_before = epochs_in(folder)
            # A signal comes to one process, or from a terminal and torchrun to each, twice.
            chosen = [self.chance.choice(ids)] if self.chance.random() < 0.5 else ids * 2
            first = len(ids) if number != signal.SIGKILL else 1
            for pid in chosen[:first]:
                os.kill(pid, number)
            for pid in ids:
                os.kill(pid, signal.SIGCONT)
            for pid in chosen[first:] if number != signal.SIGKILL else ():
                os.kill(pid, number)  # a process that has ended stays until it is waited for
        statuses = wait(ids)
        os.close(ready)
        self.counts[signal.Signals(number).name, processes, is_placed] += 1
        expected = {0, 128 + number, -number}
        if processes > 1:  # who loses another says so, or gets SIGTERM, as from torchrun
            expected |= {2, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL}
        assert set(statuses) <= expected, f"{signal.Signals(number).name}: ended with {statuses}"
        if number != signal.SIGKILL and set(statuses) == {0}:
            late = is_placed or epochs_before >= EPOCHS - 1
            assert late, f"the signal was lost after epoch {epochs_before}"
        for path in folder.glob("[!.]*.bin"):
            load_checkpoint(path)

    def finish(self, folder: Path, processes: int) -> None:
        """Resume to the end, and compare with the training that was left alone."""
        ids, ready = launch(self.flags(folder, processes), processes, self.output(folder), None)
        statuses = wait(ids)
        os.close(ready)
        assert statuses == [0] * processes, f"the resume ended with {statuses}"
        reference = self.references[processes][0]
        names = sorted(path.name for path in reference.iterdir())
        assert sorted(path.name for path in folder.iterdir()) == names
        for name in names:
            if name.endswith(".bin"):
                assert_same(load_checkpoint(folder / name), load_checkpoint(reference / name), name)
        for ours, theirs in zip(log_of(folder), log_of(reference), strict=True):
            for key in ("epoch", "lr", "valid_mpjpe_mm"):
                assert ours[key] == theirs[key], f"{key} of the log: {ours} is not {theirs}"
            # The processes' sums of losses are added in another order after a resume.
            ratio = ours["train_mpjpe_mm"] / theirs["train_mpjpe_mm"]
            assert abs(ratio - 1) < 1e-9, f"the log's {ours} is not {theirs}"


def assert_same(ours, theirs, name):
    """Weights, moments, step counts, errors and place are the same to the last bit."""
    for key, weight in theirs["model_pos"].items():
        assert torch.equal(ours["model_pos"][key], weight), f"{name}: {key}"
    for index, moments_ in theirs["optimizer"]["state"].items():
        for key, value in moments_.items():
            assert torch.equal(ours["optimizer"]["state"][index][key], value), f"{name}: {key}"
    for key in ("epoch", "lr", "min_loss"):
        assert ours[key] == theirs[key], f"{name}: {key} is {ours[key]}, not {theirs[key]}"
    for key in ("step", "samples", "is_best"):
        assert ours["progress"][key] == theirs["progress"][key], f"{name}: {key}"


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def epochs_in(folder: Path) -> int:
    return len(log_of(folder)) if (folder / "log.jsonl").is_file() else 0


# Disks ------------------------------------------------------------------------------------------

IN_NEW_MOUNTS = """
set -e
mount -t tmpfs -o size=$SIZE none "$DIR"
"$@" > "$DIR.txt" 2>&1 &
if [ "$THEN" ]; then
    while ! [ -e "$DIR/last_epoch.bin" ]; do sleep 0.05; kill -0 $! || break; done
    eval "$THEN"
fi
wait $! && status=0 || status=$?
cp "$DIR"/*.bin "$DIR"/log.jsonl "$DIR.kept" 2>/dev/null || true
exit $status
"""


UNTIL_WARNED = 'while kill -0 $! && ! grep -q warning "$DIR.txt"; do sleep 0.01; done'


def disk(campaign: Campaign, name: str, size: str, then: str = "") -> int | None:
    """Train on a small file system of its own; return the status, None where mounts are refused.

    Args:
        campaign: gives folders and flags.
        name: of the folder.
        size: of the file system.
        then: what the shell does after the first save.
    """
    folder = campaign.work / name
    for path in (folder, campaign.work / f"{name}.kept"):
        path.mkdir()
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        if subprocess.run([*shell, "mount -t tmpfs none /mnt"], capture_output=True).returncode:
            return None
    except FileNotFoundError:
        return None
    command = [sys.executable, str(REPOSITORY / "run_poseformer.py"), *campaign.flags(folder, 1)]
    environment = os.environ | {"DIR": str(folder), "SIZE": size, "THEN": then}
    result = subprocess.run([*shell, IN_NEW_MOUNTS, "sh", *command], env=environment, timeout=240)
    for path in (campaign.work / f"{name}.kept").glob("[!.]*.bin"):
        load_checkpoint(path)
    return result.returncode


def attack_disks(campaign: Campaign) -> list[str]:
    """Train on disks that are full, full for a while, and read-only after the first save."""
    size = (campaign.references[1][0] / LAST).stat().st_size // 1024
    files = EPOCHS + 2  # last, best and an epoch_N.bin for each
    whole = f"{size * (files + 2)}k"
    filled = f'head -c {size * (files - 1)}k /dev/zero > "$DIR/x" || true'
    cases = {
        "full": (f"{size * 2 + 200}k", "", 2),
        "full_for_a_while": (whole, f'{filled}; {UNTIL_WARNED}; rm "$DIR/x"', 0),
        "read_only": (whole, 'mount -o remount,ro "$DIR"', 2),
    }
    told = []
    for name, (space, then, expected) in cases.items():
        status = disk(campaign, name, space, then)
        if status is None:
            return ["disks: not tried, as mounts are not permitted here"]
        text = (campaign.work / f"{name}.txt").read_text()
        assert status == expected, f"{name}: status {status}\n{text}"
        assert "Traceback" not in text, text
        told.append(f"disk {name}: as expected")
    return told


# Data -------------------------------------------------------------------------------------------


def write_data(folder: Path) -> None:
    """Write a body that sways, seen by four cameras, of three subjects."""
    chance = np.random.default_rng(0)
    body = chance.normal(0, 0.3, (32, 3)) + (0, 0, 1)
    positions_3d, positions_2d = {}, {}
    for subject in ("S1", "S5", "S9"):
        phase = np.linspace(0, chance.uniform(1, 4), 40)[:, None, None]
        sway = 0.1 * np.sin(phase + chance.uniform(0, 6, (32, 3)))
        positions = (body + sway).astype(np.float32)
        positions_3d[subject] = {"Walking 1": positions}
        positions_2d[subject] = {
            "Walking 1": [
                (p[..., :2] / p[..., 2:] * c.intrinsics[:2] + c.intrinsics[2:4]).astype(np.float32)
                for p, c in zip(cameras_poses(positions, subject), load_cameras()[subject])
            ]
        }
    folder.mkdir()
    write_positions_3d(folder / "data_3d_h36m.npz", positions_3d)
    write_positions_2d(folder / "data_2d_h36m_vitpose.npz", positions_2d)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs")
    parser.add_argument("--sigterms", type=int, default=30)
    parser.add_argument("--sigints", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--no-disks", action="store_true")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    numbers = {"kills": signal.SIGKILL, "sigterms": signal.SIGTERM, "sigints": signal.SIGINT}
    attacks = [number for name, number in numbers.items() for _ in range(vars(arguments)[name])]
    with tempfile.TemporaryDirectory() as work:
        campaign = Campaign(Path(work), arguments.seed)
        campaign.run(attacks)
        for (name, processes, is_placed), count in sorted(campaign.counts.items()):
            where = "placed" if is_placed else "random"
            print(f"{count:4d} {name}, {processes} process(es), {where} moments")
        if not arguments.no_disks:
            print("\n".join(attack_disks(campaign)))
    print("nothing was lost")


if __name__ == "__main__":
    main()
