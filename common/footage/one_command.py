"""From a video to its npz file in one step: detection, then preparation, or what is there."""

import re
import tempfile
from pathlib import Path

from common.files.npz import read_custom_2d
from common.files.video import probe_video
from common.footage.detection import detect
from common.footage.preparation import Preparation, prepare


def prepare_recording(
    video: Path | None,
    *,
    keypoints: Path | None,
    estimator: str,
    size: tuple[int, int] | None,
    fps: float | None,
    data_dir: Path,
) -> Path:
    """Write data_2d_custom_<name>.npz, with confidences if there are any, and return its path.

    Keypoints that were found in the same video before are taken again, and so is a file that
    data/prepare_2d_custom.py wrote under the video's name.

    Args:
        video: names the file; None if there are only keypoints.
        keypoints: what another program found; None to find them with the estimator.
        estimator: one of `detection.INSTALL`.
        size: width and height of the picture in pixels, where there is no video.
        fps: frames a second; None for the video's own.
        data_dir: where the npz file goes.

    Raises:
        InputError: if the video or the keypoints are bad, or nobody is found.
    """
    name = re.sub(r"[^\w.-]+", "_", (video or keypoints).stem)
    how = {"name": name, "video": video, "size": size, "fps": fps, "data_dir": data_dir}
    how["keep_conf"] = None
    if keypoints:
        return prepare(Preparation(keypoints, source=keypoints.name, **how))
    probe_video(video)
    path = data_dir / f"data_2d_custom_{name}.npz"
    source = f"{estimator}, {video.name}, {video.stat().st_size} bytes, {fps or 'own'} fps"
    if path.is_file():
        there = next(iter(read_custom_2d(path)[1].values())).get("source")
        if there in (source, None):
            by = "its keypoints of an earlier run" if there else "written by prepare_2d_custom.py"
            print(f"{path}: {by}; delete it to find the keypoints again")
            return path
        print(f"{path}: was made of {there}; is made of {source} now")
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / f"{name}_{estimator}.npy"
        if estimator == "mediapipe":
            print("MediaPipe finds one person; of several give what another program found")
        detect(video, estimator, found)
        return prepare(Preparation(found, source=source, **how))
