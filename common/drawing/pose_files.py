"""Pose files that other programs read."""

import csv
import json
from pathlib import Path

import numpy as np

from common.files.output import atomic_output, check_output
from common.skeleton import JOINT_NAMES, NUM_JOINTS, PARENTS, SAFE_NAMES

POSE_SUFFIXES = (".npy", ".npz", ".json", ".csv", ".trc", ".bvh")


def export_poses(
    output: Path | str,
    poses_m: np.ndarray,
    frame_of_reference: str,
    fps: float,
    frame_numbers: np.ndarray,
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
      default (`drawing.bvh`); its bones keep their length, so its joints differ from `poses_m`.

    Poses are (frames, 17, 3), metres, z up, `frame_of_reference` says in words relative to what;
    `fps` is the recording's, and `frame_numbers` (frames,), at equal distances, count its frames.
    """
    output = check_output(output, POSE_SUFFIXES)
    about = {
        "frame_of_reference": frame_of_reference,
        "axes": "z up",
        "unit": "m",
        "fps": fps,
        "joints": JOINT_NAMES,
        "parents": PARENTS,
        "frames": frame_numbers.tolist(),
        "time_s": (frame_numbers / fps).tolist(),
    }
    y_up_m = poses_m[..., (0, 2, 1)] * np.float64((1, 1, -1))
    rate = fps / np.ptp(frame_numbers[:2]) if len(frame_numbers) > 1 else fps
    with atomic_output(output) as temporary:
        match output.suffix.lower():
            case ".npy":
                _write_npy(temporary, poses_m, about)
            case ".npz":
                np.savez(temporary, positions_m=poses_m, **about)
            case ".json":
                positions = np.round(poses_m.astype(np.float64), 6).tolist()
                temporary.write_text(json.dumps(about | {"positions": positions}))
            case ".csv":
                _write_csv(temporary, poses_m, about)
            case ".trc":
                _write_trc(temporary, output.name, y_up_m, about, rate)
            case ".bvh":
                from common.drawing.bvh import write_bvh  # here: SciPy takes half a second

                write_bvh(temporary, y_up_m, rate)


def _write_npy(path: Path, poses_m: np.ndarray, about: dict) -> None:
    texts = {name: about[name] for name in ("frame_of_reference", "axes")}
    fields = [("frame", "<i8"), ("time_s", "<f8")]
    fields += [(name, f"<U{len(text)}") for name, text in texts.items()]
    fields += [(joint, "<f4", (3,)) for joint in JOINT_NAMES]
    records = np.empty(len(poses_m), fields)
    records["frame"], records["time_s"] = about["frames"], about["time_s"]
    for name, column in (*texts.items(), *zip(JOINT_NAMES, poses_m.swapaxes(0, 1))):
        records[name] = column
    np.save(path, records, allow_pickle=False)


def _write_csv(path: Path, poses_m: np.ndarray, about: dict) -> None:
    columns = [f"{joint}_{axis}_m" for joint in JOINT_NAMES for axis in "xyz"]
    texts = about["frame_of_reference"], about["axes"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "time_s", "frame_of_reference", "axes", *columns])
        for number, time_s, pose in zip(about["frames"], about["time_s"], poses_m):
            coordinates = (f"{value:.6f}" for value in pose.ravel())
            writer.writerow([number, f"{time_s:.6f}", *texts, *coordinates])


def _write_trc(path: Path, name: str, poses_m: np.ndarray, about: dict, fps: float) -> None:
    """Write the header's three lines, two lines that name the columns, an empty one, the data.

    The format: https://opensimconfluence.atlassian.net/wiki/spaces/OpenSim/pages/53089972
    """
    frames = len(poses_m)
    values = (f"{fps:g}", f"{fps:g}", frames, NUM_JOINTS, "mm", f"{about['fps']:g}", 1, frames)
    names = "DataRate CameraRate NumFrames NumMarkers Units OrigDataRate OrigDataStartFrame "
    coordinates = [f"{axis}{marker}" for marker in range(1, NUM_JOINTS + 1) for axis in "XYZ"]
    lines = [
        ("PathFileType", 4, "(X/Y/Z)", name),
        (names + "OrigNumFrames").split(),
        values,
        ("Frame#", "Time", *(f"{joint}\t\t" for joint in SAFE_NAMES)),
        ("", "", *coordinates),
        (),
    ]
    rows = [np.arange(1, frames + 1), about["time_s"], *1000 * poses_m.reshape(frames, -1).T]
    with path.open("w") as file:
        file.writelines("\t".join(map(str, line)) + "\n" for line in lines)
        forms = ["%d", "%.6f", *["%.3f"] * 3 * NUM_JOINTS]
        np.savetxt(file, np.stack(rows, axis=-1), forms, delimiter="\t")
