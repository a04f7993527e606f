"""Running an estimator on a video in a process of its own, where its package is installed."""

import signal
import subprocess
import sys
from pathlib import Path

from common.files.console import EXIT_BAD_INPUT, REPOSITORY, InputError

DETECTOR = REPOSITORY / ".venv-detector"  # of `make detector`
SCRIPT = REPOSITORY / "data" / "detect_2d.py"
# {estimator: how to install it}; only MediaPipe cannot be beside PyTorch and wandb.
INSTALL = {
    "mediapipe": "make detector",
    "rtmlib": "pip install rtmlib onnxruntime",
    "ultralytics": "pip install ultralytics",
}


def detector_python() -> Path | None:
    """Return the Python of `make detector`; None if there is none, or this is it."""
    python = DETECTOR / "bin" / "python"
    return python if python.is_file() and Path(sys.prefix) != DETECTOR else None


def detect(video: Path, estimator: str, output: Path) -> None:
    """Write the keypoints that an estimator finds in a video, by data/detect_2d.py.

    An estimator that crashes takes its own process with it, not this one.

    Raises:
        InputError: if it did not come to the end.
        SystemExit: if it has told the reason itself, in one line.
    """
    flags = ("--video", video, "--estimator", estimator, "--output", output)
    status = subprocess.run([sys.executable, SCRIPT, *flags], stdout=subprocess.DEVNULL).returncode
    if status == EXIT_BAD_INPUT:
        raise SystemExit(EXIT_BAD_INPUT)
    if status:
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise InputError(f"{video}: {estimator} broke off ({how}); nothing is written. Run again")
