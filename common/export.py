"""Pose files that other programs read."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.files import atomic_output, check_output
from common.skeleton import JOINT_NAMES

POSE_SUFFIXES = (".npy", ".json", ".csv")


def export_poses(
    output: Path | str,
    poses_m: np.ndarray,
    frame_of_reference: str,
    fps: float,
    frame_numbers: Sequence[int] | None = None,
) -> None:
    """Write poses to a file that says which joint, unit and frame of reference they have.

    - `.npy`: a structured array with one record for each frame, which `np.load` reads without
      pickle: `frame`, `time_s`, `frame_of_reference`, then the 17 joints by name, each (3,).
    - `.json`: `frame_of_reference`, `unit`, `fps`, `joints`, `frames`, and `positions`
      (frames, 17, 3).
    - `.csv`: one line for each frame with columns named as the records' fields, the joints'
      as `RFoot_x_m`.

    Args:
        output: the file.
        poses_m: (frames, 17, 3), metres.
        frame_of_reference: such as "world" or "camera 55011271, relative to the hip".
        fps: frames a second of the recording.
        frame_numbers: (frames,), which frames of the recording these are; None for 0, 1, ….

    Raises:
        InputError: if the ending is none of these three or the folder is missing.
        OSError: if the disk is full or read-only.
    """
    output = check_output(output, POSE_SUFFIXES)
    numbers = np.arange(len(poses_m)) if frame_numbers is None else np.asarray(frame_numbers)
    write = {".npy": _write_pose_npy, ".json": _write_pose_json, ".csv": _write_pose_csv}
    with atomic_output(output) as temporary:
        write[output.suffix.lower()](temporary, poses_m, frame_of_reference, fps, numbers)


def _write_pose_npy(
    path: Path, poses_m: np.ndarray, frame_of_reference: str, fps: float, numbers: np.ndarray
) -> None:
    fields = [("frame", "<i8"), ("time_s", "<f8")]
    fields += [("frame_of_reference", f"<U{len(frame_of_reference)}")]
    records = np.empty(len(poses_m), fields + [(joint, "<f4", (3,)) for joint in JOINT_NAMES])
    records["frame"], records["time_s"] = numbers, numbers / fps
    records["frame_of_reference"] = frame_of_reference
    for index, joint in enumerate(JOINT_NAMES):
        records[joint] = poses_m[:, index]
    np.save(path, records, allow_pickle=False)


def _write_pose_json(
    path: Path, poses_m: np.ndarray, frame_of_reference: str, fps: float, numbers: np.ndarray
) -> None:
    content = {
        "frame_of_reference": frame_of_reference,
        "unit": "m",
        "fps": fps,
        "joints": JOINT_NAMES,
        "frames": numbers.tolist(),
        "positions": np.round(poses_m.astype(np.float64), 6).tolist(),
    }
    path.write_text(json.dumps(content))


def _write_pose_csv(
    path: Path, poses_m: np.ndarray, frame_of_reference: str, fps: float, numbers: np.ndarray
) -> None:
    columns = [f"{joint}_{axis}_m" for joint in JOINT_NAMES for axis in "xyz"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "time_s", "frame_of_reference", *columns])
        for number, pose in zip(numbers.tolist(), poses_m.reshape(len(poses_m), -1)):
            row = [f"{value:.6f}" for value in pose]
            writer.writerow([number, f"{number / fps:g}", frame_of_reference, *row])
