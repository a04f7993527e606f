"""Pose files that other programs read."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.bvh import safe_name, write_bvh
from common.console import InputError
from common.files import atomic_output, check_output
from common.skeleton import JOINT_NAMES, NUM_JOINTS, PARENTS

POSE_SUFFIXES = (".npy", ".npz", ".json", ".csv", ".trc", ".bvh")
# What the axes are, and which of them, with which sign, become x, y, z where y is up.
_AXES = {
    "z": ("z up", (0, 2, 1), (1, 1, -1)),
    "-y": ("x right, y down, z forward", (0, 1, 2), (1, -1, -1)),
}


class _Recording(NamedTuple):
    """What is exported; see `export_poses`."""

    poses_m: np.ndarray
    y_up_m: np.ndarray
    frame_of_reference: str
    axes: str
    fps: float
    numbers: np.ndarray
    time_s: np.ndarray

    def exported_fps(self, path: Path) -> float:
        """Return the frames a second of frames that must be at equal distances."""
        steps = np.unique(np.diff(self.numbers)) if len(self.numbers) > 1 else [1]
        if len(steps) > 1:
            raise InputError(f"{path}: this format has one frame rate; export every n-th frame")
        return self.fps / float(steps[0])


def export_poses(
    output: Path | str,
    poses_m: np.ndarray,
    frame_of_reference: str,
    fps: float,
    frame_numbers: Sequence[int] | None = None,
    *,
    up: str = "z",
) -> None:
    """Write poses to a file that says which joint, unit, axes and frame rate they have.

    - `.npy`: a structured array with one record for each frame, which `np.load` reads without
      pickle: `frame`, `time_s`, `frame_of_reference`, `axes`, then the 17 joints by name, each
      (3,), metres.
    - `.npz`: the arrays `positions_m` (frames, 17, 3), `joints`, `parents` (-1 for the hip),
      `frames`, `time_s`, `fps`, `unit`, `frame_of_reference`, `axes`.
    - `.json`: the same names, `positions` for the first.
    - `.csv`: one line for each frame with columns named as the records' fields, the joints'
      as `RFoot_x_m`.
    - `.trc`: a marker file of Motion Analysis and OpenSim: millimetres, y up.
    - `.bvh`: a skeleton and its rotations: metres, y up, as Blender's importer takes it by
      default (`common.bvh`); its bones do not change their length, so its joints differ from
      `poses_m`.

    Args:
        output: the file.
        poses_m: (frames, 17, 3), metres.
        frame_of_reference: such as "world" or "camera 55011271, relative to the hip".
        fps: frames a second of the recording.
        frame_numbers: (frames,), which frames of the recording these are; None for 0, 1, ….
        up: which axis points up: "z" in the world, "-y" in camera coordinates.

    Raises:
        InputError: if the suffix is none of these or the folder is missing, or the frames of a
            trc or bvh are not at equal distances.
        OSError: if the disk is full or read-only.
    """
    output = check_output(output, POSE_SUFFIXES)
    numbers = np.arange(len(poses_m)) if frame_numbers is None else np.asarray(frame_numbers)
    axes, order, signs = _AXES[up]
    y_up_m, time_s = poses_m[..., order] * np.float64(signs), numbers / fps
    recording = _Recording(poses_m, y_up_m, frame_of_reference, axes, fps, numbers, time_s)
    write = {".npy": _write_npy, ".npz": _write_npz, ".json": _write_json, ".csv": _write_csv}
    write |= {".trc": _write_trc, ".bvh": _write_bvh}
    with atomic_output(output) as temporary:
        write[output.suffix.lower()](temporary, output, recording)


def _write_npy(path: Path, _: Path, recording: _Recording) -> None:
    texts = {"frame_of_reference": recording.frame_of_reference, "axes": recording.axes}
    fields = [("frame", "<i8"), ("time_s", "<f8")]
    fields += [(name, f"<U{len(text)}") for name, text in texts.items()]
    fields += [(joint, "<f4", (3,)) for joint in JOINT_NAMES]
    records = np.empty(len(recording.poses_m), fields)
    columns = {"frame": recording.numbers, "time_s": recording.time_s, **texts}
    columns |= zip(JOINT_NAMES, recording.poses_m.swapaxes(0, 1))
    for name, column in columns.items():
        records[name] = column
    np.save(path, records, allow_pickle=False)


def _description(recording: _Recording) -> dict:
    """Return what the npz and the json hold beside the positions."""
    return {
        "frame_of_reference": recording.frame_of_reference,
        "axes": recording.axes,
        "unit": "m",
        "fps": recording.fps,
        "joints": JOINT_NAMES,
        "parents": PARENTS,
        "frames": recording.numbers.tolist(),
        "time_s": recording.time_s.tolist(),
    }


def _write_npz(path: Path, _: Path, recording: _Recording) -> None:
    with path.open("wb") as file:
        np.savez(file, positions_m=recording.poses_m, **_description(recording))


def _write_json(path: Path, _: Path, recording: _Recording) -> None:
    positions = np.round(recording.poses_m.astype(np.float64), 6).tolist()
    path.write_text(json.dumps(_description(recording) | {"positions": positions}))


def _write_csv(path: Path, _: Path, recording: _Recording) -> None:
    columns = [f"{joint}_{axis}_m" for joint in JOINT_NAMES for axis in "xyz"]
    poses = recording.poses_m.reshape(-1, 3 * NUM_JOINTS)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "time_s", "frame_of_reference", "axes", *columns])
        for number, time_s, pose in zip(recording.numbers.tolist(), recording.time_s, poses):
            row = [number, f"{time_s:g}", recording.frame_of_reference, recording.axes]
            writer.writerow([*row, *(f"{value:.6f}" for value in pose)])


def _write_trc(path: Path, output: Path, recording: _Recording) -> None:
    """Write the header's three lines, two lines that name the columns, an empty one, the data.

    The format: https://opensimconfluence.atlassian.net/wiki/spaces/OpenSim/pages/53089972
    """
    frames, rate = len(recording.numbers), f"{recording.exported_fps(output):g}"
    values = (rate, rate, frames, NUM_JOINTS, "mm", f"{recording.fps:g}", 1, frames)
    names = "DataRate CameraRate NumFrames NumMarkers Units OrigDataRate OrigDataStartFrame "
    coordinates = [f"{axis}{marker}" for marker in range(1, NUM_JOINTS + 1) for axis in "XYZ"]
    lines = [
        ("PathFileType", 4, "(X/Y/Z)", output.name),
        (names + "OrigNumFrames").split(),
        values,
        ("Frame#", "Time", *(f"{safe_name(joint)}\t\t" for joint in JOINT_NAMES)),
        ("", "", *coordinates),
        (),
    ]
    poses_mm = 1000 * recording.y_up_m.reshape(frames, -1)
    with path.open("w") as file:
        file.writelines("\t".join(map(str, line)) + "\n" for line in lines)
        for index, (time_s, pose) in enumerate(zip(recording.time_s, poses_mm), 1):
            row = "\t".join(f"{value:.3f}" for value in pose)
            file.write(f"{index}\t{time_s:.6f}\t{row}\n")


def _write_bvh(path: Path, output: Path, recording: _Recording) -> None:
    write_bvh(path, recording.y_up_m, recording.exported_fps(output))
