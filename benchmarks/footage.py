"""How well a checkpoint lifts real video: three cameras, six estimators, a triangulated truth.

python benchmarks/footage.py [--checkpoint FILE] [--true-focal]

The footage is tests/data/real_footage (see its README). Keypoints are prepared as lift.py prepares
them. Data sets disagree about spine, neck and head, so the 12 limb joints are compared, about the
middle of the hips.
"""

import contextlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from common.files import console
from common.files.npz import read_custom_2d
from common.files.tables import format_markdown
from common.footage.lifting import lift_normalized, load_lifter, normalize, relative_focal
from common.footage.preparation import Preparation, prepare
from common.loss import align_scale, mpjpe, n_mpjpe, p_mpjpe
from common.motion import jitter_m_s3
from common.skeleton import JOINT_NAMES, LEFT_JOINTS, RIGHT_JOINTS
from common.training.checkpoint import find_checkpoint
from common.training.device import choose_device, resolve_precision

FOOTAGE = REPOSITORY / "tests" / "data" / "real_footage"
CAMERAS = ("cam01", "cam02", "cam03")
# {name in the table: end of the file's name}
ESTIMATORS = {
    "MediaPipe heavy": "mp_heavy.npy",
    "MediaPipe full": "mp_full.npy",
    "MediaPipe lite": "mp_lite.npy",
    "MoveNet thunder": "thunder.json",
    "MoveNet lightning": "lightning.json",
    "MoveNet multipose": "multipose.json",
}
TRUTH, STILL = "the truth's own 2D", "the truth's mean pose, held still"
COLUMNS = ("MPJPE, mm", "N-MPJPE, mm", "P-MPJPE, mm", "size", "jitter, m/s³")
_LIMBS = [*LEFT_JOINTS, *RIGHT_JOINTS]
_HIPS = [JOINT_NAMES.index("LHip"), JOINT_NAMES.index("RHip")]


def main() -> None:
    """Print a table: the mean over the cameras, then each camera."""
    parser = console.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", default="footage.bin", metavar="FILE", help="(default: footage.bin)")
    focal = "give the cameras' true focal length in place of lift.py's guess"
    add("--true-focal", action="store_true", help=focal)
    add("-g", "--gpu", default="cpu", metavar="N", help="which GPU (default: cpu)")
    args = parser.parse_args()
    device = choose_device(args.gpu)
    model = load_lifter(find_checkpoint(args.checkpoint), device=device)
    how = {"device": device, "precision": resolve_precision("auto", device)}
    rows = {}
    for camera in CAMERAS:
        with np.load(FOOTAGE / f"{camera}_truth.npz") as file:
            truth = dict(file)
        for name in (TRUTH, *ESTIMATORS):
            inputs = normalize(keypoints_px(camera, name, truth), truth["size"])
            px = float(truth["focal_px"][0]) if args.true_focal else None
            how |= {"fps": float(truth["fps"]), "causal": False}
            how["focal"] = relative_focal(truth["size"], px)
            poses = lift_normalized(inputs, model, **how)
            rows[name, camera] = measure(poses, truth["camera_m"], how["fps"])
        still = np.broadcast_to(truth["camera_m"].mean(axis=0), truth["camera_m"].shape)
        rows[STILL, camera] = measure(still, truth["camera_m"], how["fps"])
    names = list(dict.fromkeys(name for name, _ in rows))
    means = {name: np.mean([rows[name, c] for c in CAMERAS], axis=0) for name in names}
    print(table(means, "mean of the cameras"), end="\n\n")
    print(table({f"{c}, {n}": rows[n, c] for n in names for c in CAMERAS}, "each camera"))


def keypoints_px(camera: str, estimator: str, truth: dict[str, np.ndarray]) -> np.ndarray:
    """Return keypoints (frames, 17, 2), pixels: the projected truth, or prepared by lift.py."""
    if estimator == TRUTH:
        return truth["pixels"]
    size, fps = tuple(truth["size"].tolist()), float(truth["fps"])
    path = FOOTAGE / f"{camera}_{ESTIMATORS[estimator]}"
    with tempfile.TemporaryDirectory() as folder:
        how = Preparation(path, name="x", size=size, fps=fps, data_dir=Path(folder))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            (positions,) = read_custom_2d(prepare(how))[0].values()
    return positions[..., :2]


def measure(poses_m: np.ndarray, truth_m: np.ndarray, fps: float) -> tuple[float, ...]:
    """Return `COLUMNS` of poses (frames, 17, 3), metres; size is that of the pose over the true."""
    poses, truth = (
        torch.from_numpy((p - p[:, _HIPS].mean(axis=1, keepdims=True))[:, _LIMBS]).double()
        for p in (poses_m, truth_m)
    )
    flat = poses.reshape(1, -1, 3)
    size = flat.norm() / align_scale(flat, truth.reshape(1, -1, 3)).norm()
    errors = (1000 * float(metric(poses, truth)) for metric in (mpjpe, n_mpjpe, p_mpjpe))
    return (*errors, float(size), jitter_m_s3(poses.numpy(), fps))


def table(rows: dict[str, tuple[float, ...]], title: str) -> str:
    """Return a Markdown table of rows of `COLUMNS`."""
    digits = (1, 1, 1, 2, 0)
    cells = [[name, *(f"{x:.{n}f}" for x, n in zip(row, digits))] for name, row in rows.items()]
    return format_markdown([[title, *COLUMNS], *cells])


if __name__ == "__main__":
    console.run_script(main)
