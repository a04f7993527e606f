"""Small raw inputs for the tests of the data scripts, and a way to run those in this process."""

import contextlib
import io
import itertools
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

from common.camera import CAMERA_IDS
from common.files.console import run_script

# As in the dataset: the takes' numbers differ, and two actions have names of their own.
RAW_ACTIONS = (
    *("Directions", "Directions 1", "Discussion", "Discussion 2", "Eating", "Eating 1"),
    *("Greeting", "Greeting 2", "Phoning", "Phoning 1", "Posing", "Posing 1"),
    *("Purchases", "Purchases 1", "Sitting 1", "Sitting 2", "SittingDown", "SittingDown 1"),
    *("Smoking", "Smoking 2", "TakingPhoto", "TakingPhoto 1", "Waiting", "Waiting 1"),
    *("Walking", "Walking 1", "WalkingDog", "WalkingDog 1", "WalkTogether", "WalkTogether 2"),
)
CDF_REAL4, CDF_DOUBLE = 44, 45


def call(main, *arguments):
    """Run a script's `main` as its command line would; return its status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        mock.patch.object(sys, "argv", [main.__module__, *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run_script(main)
        except SystemExit as exit_:
            status = exit_.code
        finally:  # `run` leaves a process that is about to end, which this one is not
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return SimpleNamespace(status=status, stdout=out.getvalue(), stderr=err.getvalue())


def assert_one_line_error(result, *parts):
    """Check the form of an error, and that it says each of `parts`."""
    assert result.status == 2, result.stdout + result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert str(part) in result.stderr, result.stderr


@contextlib.contextmanager
def untouched(folder: Path):
    """Check that a folder's files, hidden ones too, are byte for byte the same afterwards."""

    def snapshot():
        return {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}

    before = snapshot()
    yield
    assert snapshot() == before


def world_poses(frames, seed=0):
    """Return (frames, 32, 3), mm, float32: points in the middle of the room, as no body moves."""
    random = np.random.default_rng(seed)
    return random.uniform([-800, -800, 0], [800, 800, 1800], (frames, 32, 3)).astype(np.float32)


def write_cdf(path: Path, pose, variable="Pose", data_type=CDF_REAL4, by_record=False):
    """Write one variable, as one record of all frames like the dataset, or a record a frame."""
    from cdflib.cdfwrite import CDF

    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    records = pose if by_record else pose[None]
    description = {
        **{"Variable": variable, "Data_Type": data_type, "Num_Elements": 1, "Rec_Vary": True},
        **{"Dim_Sizes": list(records.shape[1:]), "Compress": 6},
    }
    cdf = CDF(path, cdf_spec={"Majority": "row_major", "Encoding": 6})
    cdf.write_var(description, var_data=records)
    cdf.close()


def write_cdf_tree(folder: Path, subjects, frames=3):
    """Write 30 files for each subject; return {(subject, file's name): poses}."""
    written = {}
    for key in itertools.product(subjects, RAW_ACTIONS):
        written[key] = world_poses(frames, seed=len(written))
        write_cdf(cdf_path(folder, *key), written[key].reshape(frames, 96))
    return written


def cdf_path(folder: Path, subject, action) -> Path:
    return folder / subject / "MyPoseFeatures" / "D3_Positions" / f"{action}.cdf"


def write_npy(path: Path, content):
    """Write what estimators publish: an object array of a list's items, a dict, or an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = np.fromiter(content, dtype=object, count=len(content))
    np.save(path, content, allow_pickle=True)


def npy_path(folder: Path, subject, action, camera) -> Path:
    return folder / subject / f"{action}_{camera}_pose_sequence.npy"


def write_detections_tree(folder: Path, subjects):
    """Write plain arrays of 30 actions and four cameras; return them by subject, action, camera."""
    written = {}
    for key in itertools.product(subjects, RAW_ACTIONS, CAMERA_IDS):
        written[key] = random_keypoints(3, seed=len(written))
        write_npy(npy_path(folder, *key), written[key])
    return written


def random_keypoints(frames, channels=3, seed=0):
    """Return (frames, 17, channels), float32: pixels in a picture, then a confidence."""
    random = np.random.default_rng(seed)
    high = [1000, 1000, 1][:channels]
    return random.uniform(0, high, (frames, 17, channels)).astype(np.float32)


def person(frame, score, keypoints):
    box = np.array([10, 20, 30, 40, score], dtype=np.float32)
    return {"frame": frame, "bbox": box, "keypoints": keypoints}


def npy_bytes(pickled, shape=()):
    """Return an npy file of objects around a pickle that may be anything."""
    file = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + pickled


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments
