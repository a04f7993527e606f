"""Any estimator's keypoints of a video of your own to data_2d_custom_<name>.npz.

The input is recognised by its content: MMPose, COCO results, AlphaPose, OpenPose (a folder),
Ultralytics' and rtmlib's arrays, MediaPipe, VideoPose3D's Detectron files, and what
prepare_2d_estimation.py reads. Each person becomes a sequence without gaps, in Human3.6M's joints.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.files import console
from common.files.console import DATA_DIR
from common.files.npz import FPS_RANGE
from common.files.video import parse_picture_size
from common.footage.layouts import LAYOUTS
from common.footage.preparation import Preparation, prepare


def main() -> None:
    """Prepare what the command line names."""
    prepare(Preparation(**vars(parse_arguments())))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = console.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--input", type=Path, required=True, metavar="FILE", help="the keypoints; or a folder")
    is_name = re.compile(r"[\w.-]+").fullmatch
    name = console.Check(str, is_name, "of letters, digits, '_', '-' and '.'")
    add("--name", type=name, required=True, help="the output is data_2d_custom_NAME.npz")
    add("--video", type=Path, metavar="FILE", help="tells the picture's size and the frame rate")
    size = "the picture that the keypoints were found in (default: the video's)"
    add("--size", type=parse_picture_size, metavar="WxH", help=size)
    low, high = FPS_RANGE
    rate = console.Check(float, lambda x: low <= x <= high, f"a frame rate from {low} to {high}")
    fps = "without --video: frames a second; with it: instead of the video's own rate"
    add("--fps", type=rate, help=fps)
    add("--layout", choices=LAYOUTS, help="what the keypoints are (default: by their number)")
    person = "only these people, by the file's identities or the numbers that are printed "
    person += "(default: all of them)"
    add("--person", metavar="N,M", help=person)
    min_frames = "leave out people who are found in fewer frames, unless nobody is left"
    add("--min-frames", type=console.positive_int, default=10, metavar="N", help=min_frames)
    max_gap = "interpolate gaps up to this long; a longer one cuts the sequence in two"
    add("--max-gap", type=console.non_negative_int, default=20, metavar="FRAMES", help=max_gap)
    add("--fill-gaps", action="store_true", help="interpolate gaps of any length")
    add("--keep-conf", action="store_true", help="keep the confidences; the file ends in _w_conf")
    sides = "leave left and right as they are where the estimator exchanges them in some frames"
    add("--keep-sides", action="store_true", help=sides)
    min_confidence = "interpolate points of less confidence (default: 0.05 for MediaPipe, "
    min_confidence += "OpenPose and detect_2d.py, else 0.1); 0 keeps also points that jump"
    share = console.Check(float, lambda x: x >= 0, "a number from 0 up")
    add("--min-confidence", type=share, metavar="X", help=min_confidence)
    first_frame = "number of the video's first frame in COCO's or AlphaPose's results"
    add("--first-frame", type=console.non_negative_int, default=0, metavar="N", help=first_frame)
    add("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="where the npz file goes")
    return parser.parse_args()


if __name__ == "__main__":
    console.run_script(main)
