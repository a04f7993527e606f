"""A video to 2D keypoints, through an estimator that you install for it.

  mediapipe    make detector (once; an environment of its own, .venv-detector, in which this script
               then runs); one person; the model is in the package
  rtmlib       pip install rtmlib onnxruntime; several people; fetches RTMPose at the first use
  ultralytics  pip install ultralytics; several people, followed; fetches YOLO at the first use

The output is what prepare_2d_custom.py reads: an npy file of dicts {frame, bbox (5,), keypoints
(17, 3)} in COCO's layout, in pixels.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.files.console import ArgumentParser, InputError, progress, run_script
from common.files.output import atomic_output, check_distinct, check_output
from common.files.video import count_frames, probe_video, read_video
from common.footage.detection import INSTALL, detector_python
from common.footage.layouts import body_points

# Takes a picture (height, width, 3), RGB; yields a tuple for each person: keypoints (17, 3), the
# box (5,) with its score or None, and the identity or None.
Found = tuple[np.ndarray, np.ndarray | None, int | None]
Estimator = Callable[[np.ndarray], Iterator[Found]]


def main() -> None:
    """Run the estimator on every frame and write what it finds."""
    arguments = parse_arguments()
    output = arguments.output or Path(f"{arguments.video.stem}_{arguments.estimator}.npy")
    check_distinct([check_output(output, (".npy",))], [arguments.video])
    size, frames = probe_video(arguments.video)[0], count_frames(arguments.video)
    try:
        estimate = ESTIMATORS[arguments.estimator]()
    except ImportError as error:
        python = detector_python()
        if arguments.estimator == "mediapipe" and python:
            os.dup2(sys.stderr.fileno(), 2)
            os.execv(python, [str(python), *sys.argv])  # this script again, as the same process
        told = f"--estimator {arguments.estimator}: {error}; install it: "
        raise InputError(told + INSTALL[arguments.estimator]) from error
    pictures = read_video(arguments.video, (0, 0, 1, 1), size)
    bar = progress(pictures, total=frames, desc=arguments.estimator, unit="frame")
    people = []
    for frame, picture in enumerate(bar):
        try:
            found = list(estimate(picture))
        except Exception as error:
            told = f"frame {frame}: the estimator failed ({type(error).__name__}: {error})"
            raise InputError(f"{arguments.video}: {told}; nothing is written") from error
        for keypoints, box, identity in found:
            if box is None:
                xy, confidences = keypoints[:, :2], keypoints[:, 2]
                box = np.r_[xy.min(axis=0), xy.max(axis=0), confidences.mean()]
            person = {"frame": frame, "bbox": box, "keypoints": keypoints.astype(np.float32)}
            people.append(person if identity is None else {**person, "track_id": identity})
    if not people:
        raise InputError(f"{arguments.video}: {arguments.estimator} found no person in any frame")
    content = np.fromiter(people, dtype=object, count=len(people))
    with atomic_output(output) as temporary:
        np.save(temporary, content, allow_pickle=True)
    found = len({person["frame"] for person in people})
    print(f"wrote {output}: {len(people):,} people in {found:,} of {frame + 1:,} frames")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    summary, details = __doc__.split("\n\n", 1)
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--video", type=Path, required=True, metavar="FILE")
    add("--estimator", choices=ESTIMATORS, required=True)
    add("--output", type=Path, metavar="FILE", help="an npy file; VIDEO_ESTIMATOR.npy if not given")
    return parser.parse_args()


def load_mediapipe() -> Estimator:
    """MediaPipe's Pose, the model of medium size, which its wheel holds."""
    from mediapipe import solutions

    pose = solutions.pose.Pose(model_complexity=1)

    def estimate(picture: np.ndarray) -> Iterator[Found]:
        landmarks = pose.process(picture).pose_landmarks
        if landmarks is not None:
            height, width = picture.shape[:2]
            points = [[p.x * width, p.y * height, p.visibility] for p in landmarks.landmark]
            yield body_points(np.array(points), "mediapipe"), None, None

    return estimate


def load_rtmlib() -> Estimator:
    """RTMPose through rtmlib."""
    from rtmlib import Body

    body = Body(mode="balanced", backend="onnxruntime", device="cpu")

    def estimate(picture: np.ndarray) -> Iterator[Found]:
        picture = np.ascontiguousarray(picture[..., ::-1])  # BGR
        boxes = body.det_model(picture)
        if len(boxes) == 0:  # for none its `__call__` takes the whole picture for a person
            return
        keypoints, scores = body.pose_model(picture, bboxes=boxes)
        for points, confidences in zip(keypoints, scores):
            yield np.concatenate([points, confidences[:, None]], axis=-1), None, None

    return estimate


def load_ultralytics() -> Estimator:
    """YOLO11's pose model through Ultralytics, with its tracker's identities."""
    from ultralytics import YOLO

    model = YOLO("yolo11m-pose.pt")

    def estimate(picture: np.ndarray) -> Iterator[Found]:
        result = model.track(np.ascontiguousarray(picture[..., ::-1]), persist=True, verbose=False)
        keypoints, boxes = result[0].keypoints.data.cpu().numpy(), result[0].boxes.cpu().numpy()
        identities = [None] * len(boxes) if boxes.id is None else boxes.id.astype(int).tolist()
        for points, box, score, identity in zip(keypoints, boxes.xyxy, boxes.conf, identities):
            yield points, np.append(box, score), identity

    return estimate


ESTIMATORS = {"mediapipe": load_mediapipe, "rtmlib": load_rtmlib, "ultralytics": load_ultralytics}


def silence_libraries() -> None:
    """Leave standard error to Python: MediaPipe's C++ writes a dozen lines there each time."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)


if __name__ == "__main__":
    silence_libraries()
    run_script(main)
