"""Write a licence-free stand-in for Human3.6M's raw files, from a seed, without any download.

An articulated body performs Human3.6M's 15 actions, twice for each of the seven subjects, in front
of the dataset's own four cameras. Four simulated 2D estimators find its keypoints. The files have
the formats of the originals:

    <data-dir>/preprocess/cdf_files/<SUBJECT>/MyPoseFeatures/D3_Positions/<ACTION>.cdf
    <data-dir>/preprocess/h36m_<ESTIMATOR>/<SUBJECT>/<ACTION>_<CAMERA>_pose_sequence.npy

Results on these files say nothing about real people; do not publish them as results on Human3.6M.
"""

import os
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.camera import CAMERA_IDS, load_cameras
from common.files import console
from common.files.console import DATA_DIR, InputError, progress
from common.h36m_dataset import ACTIONS, SUBJECTS, SUBJECTS_FLAG, action_class
from common.skeleton import NUM_JOINTS_32
from common.synthetic.acting import perform
from common.synthetic.bodies import make_bodies
from common.synthetic.estimators import ESTIMATORS, look

# The numbers of an action's two files (a space: the name has none), where they are not " 1".
_OTHER_NUMBERS = {
    "12": "S1 Sitting, S5 Directions, S5 Greeting, S5 Waiting, S6 Eating, S6 Sitting, S7 Waiting, "
    "S7 Walking, S8 WalkTogether, S9 Discussion, S11 Discussion",
    "23": "S5 Discussion, S11 Phoning",
    " 2": "S1 Eating, S1 SittingDown, S5 Photo, S6 Posing, S7 Phoning, S11 Greeting, S11 Smoking",
    " 3": "S6 Waiting",
}
_S1_SPELLING = {"Photo": "TakingPhoto", "WalkDog": "WalkingDog"}
_MANIFEST = "made_by_make_sample.txt"


def main() -> None:
    """Write the sample and print what was written."""
    args = parse_arguments()
    preprocess = args.data_dir / "preprocess"
    folders = ["cdf_files", *(f"h36m_{estimator.name}" for estimator in ESTIMATORS)]
    check_replaceable(preprocess, folders)
    clips = list(plan_clips(args.subjects, args.frames, args.seed))
    preprocess.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=preprocess, prefix=".sample-") as temporary:
        write_clips(Path(temporary), clips)
        install(Path(temporary), preprocess, folders)
    frames = sum(clip.frames for clip in clips)
    seen = f"{len(ESTIMATORS)} estimators in {len(CAMERA_IDS)} cameras"
    wrote = f"{len(clips)} sequences of {len(args.subjects)} subjects, {frames:,} frames at 50 Hz"
    print(f"{preprocess}: wrote {wrote}, as CDF and as seen by {seen}")


def parse_arguments() -> Namespace:
    """Return the parsed flags."""
    parser = console.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    folder = "the files go into preprocess/ in this folder; an earlier sample is replaced"
    add("--data-dir", type=Path, default=DATA_DIR / "sample", help=folder)
    add("--frames", type=console.positive_int, default=100, help="length of each sequence")
    add("--seed", type=console.non_negative_int, default=0, help="same seed, same sample")
    add("--subjects", **SUBJECTS_FLAG | {"help": "which subjects"})
    return parser.parse_args()


class Clip(NamedTuple):
    """A sequence to be made."""

    seed: int
    subject: str
    name: str  # of the file, without its ending
    number: int  # among the subject's 30
    frames: int


def file_names(subject: str) -> list[str]:
    """Return the names of a subject's 30 files as Human3.6M spells them: "TakingPhoto 1"."""
    names = []
    for action in ACTIONS:
        spelled = _S1_SPELLING.get(action, action) if subject == "S1" else action
        here = f"{subject} {action}"
        others = (n for n, where in _OTHER_NUMBERS.items() if here in where.split(", "))
        names += [f"{spelled} {number}".rstrip() for number in next(others, " 1")]
    return names


def plan_clips(subjects: Sequence[str], frames: int, seed: int) -> Iterator[Clip]:
    """Yield the clips of these subjects."""
    for subject in subjects:
        for number, name in enumerate(file_names(subject)):
            yield Clip(seed, subject, name, number, frames)


def write_clips(folder: Path, clips: Sequence[Clip]) -> None:
    """Make and write all clips, one process per core."""
    with ProcessPoolExecutor(os.cpu_count(), initializer=console.leave_signals_to_parent) as pool:
        try:
            finished = pool.map(partial(write_clip, folder), clips)
            list(progress(finished, total=len(clips), desc="sample", unit="file"))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_clip(folder: Path, clip: Clip) -> None:
    """Make one sequence; write its CDF and its estimators' files."""
    subject, cameras = SUBJECTS.index(clip.subject), load_cameras()[clip.subject]
    of_all = np.random.default_rng(clip.seed)  # no two subjects are of the same height
    people = make_bodies(of_all, of_all.permutation(np.linspace(1.60, 1.86, len(SUBJECTS))))
    random = np.random.default_rng([clip.seed, subject, clip.number])
    frames = clip.frames + 1  # the first camera's videos are longer than the motion capture
    joints = perform(random, action_class(clip.name), people[subject], frames, cameras)
    found = look(random, joints, cameras)
    cdf = folder / "cdf_files" / clip.subject / "MyPoseFeatures/D3_Positions" / f"{clip.name}.cdf"
    write_cdf(cdf, 1000 * joints[: clip.frames, :NUM_JOINTS_32])
    for estimator, arrays in found.items():
        path = folder / f"h36m_{estimator}" / clip.subject
        path.mkdir(parents=True, exist_ok=True)
        for camera, array in zip(CAMERA_IDS, arrays):
            np.save(path / f"{clip.name}_{camera}_pose_sequence.npy", array, allow_pickle=True)


def write_cdf(path: Path, positions_mm: np.ndarray) -> None:
    """Write (frames, 32, 3) as Human3.6M does: variable Pose, (1, frames, 96), float32."""
    from cdflib.cdfwrite import CDF

    path.parent.mkdir(parents=True, exist_ok=True)
    pose = positions_mm.astype(np.float32).reshape(1, -1, 96)
    description = {"Variable": "Pose", "Data_Type": CDF.CDF_FLOAT, "Num_Elements": 1}
    description |= {"Rec_Vary": True, "Dim_Sizes": list(pose.shape[1:]), "Compress": 0}
    with CDF(path) as file:  # not compressed: gzip would write the time
        file.write_var(description, var_data=pose)


def check_replaceable(preprocess: Path, folders: Sequence[str]) -> None:
    """Refuse to replace folders that hold anything but an earlier sample."""
    for folder in (preprocess / name for name in folders):
        manifest = folder / _MANIFEST
        made = manifest.read_text().splitlines() if manifest.is_file() else []
        if folder.exists() and not (folder.is_dir() and set(_list_files(folder)) <= set(made)):
            raise InputError(
                f"{folder}: holds files that are not an earlier sample, and they would be lost; "
                "move them away or choose another --data-dir"
            )


def _list_files(folder: Path) -> list[str]:
    """Return "size path" of every file in a folder but the manifest."""
    files = (path for path in folder.rglob("*") if not path.is_dir() and path.name != _MANIFEST)
    return sorted(f"{path.lstat().st_size} {path.relative_to(folder)}" for path in files)


def install(temporary: Path, preprocess: Path, folders: Sequence[str]) -> None:
    """Move finished folders to their place, each with a list of its files."""
    for new, old in ((temporary / name, preprocess / name) for name in folders):
        (new / _MANIFEST).write_text("\n".join(_list_files(new)) + "\n")
        if old.exists():
            shutil.rmtree(old)
        new.rename(old)


if __name__ == "__main__":
    console.run_script(main)
