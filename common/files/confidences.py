"""How certain an estimator is of its keypoints: the third channel of its 2D file."""

from pathlib import Path

import numpy as np

from common.files.console import InputError
from common.files.npz import Positions2d, read_positions_2d

# Names of 2D files that hold confidences end in it.
WITH_CONFIDENCE = "_w_conf"
# A heat map's peak can pass 1 by a little; confidences beyond this are no probabilities.
LARGEST_PROBABILITY = 1.5


def scale_logits(logits: np.ndarray) -> np.ndarray:
    """Divide one sequence's logits by their maximum; negative ones become zero.

    It puts an estimator like PCT, whose confidences are logits, on the scale of those whose
    confidences are probabilities (Mehraban, Qin and Taati, FG 2024): (frames, joints), in [0, 1].
    """
    largest = logits.max()
    return np.maximum(logits, 0) / largest if largest > 0 else np.zeros_like(logits)


def largest_confidence(positions: Positions2d) -> float:
    """Return the largest confidence; beyond `LARGEST_PROBABILITY` they are logits."""
    sequences = (cameras for actions in positions.values() for cameras in actions.values())
    return max(float(view[..., 2].max()) for cameras in sequences for view in cameras)


def check_channel(path: Path, positions: Positions2d) -> None:
    """Raise an InputError if there are no confidences."""
    cameras = next(iter(next(iter(positions.values())).values()))
    if cameras[0].shape[-1] != 3:
        name = path.stem.removeprefix("data_2d_h36m_").removesuffix(WITH_CONFIDENCE)
        own = name.startswith("data_2d_custom_")
        script = "custom.py" if own else f"estimation.py --detector {name}"
        raise InputError(
            f"{path}: holds no confidences; write it again with prepare_2d_{script} --keep-conf"
        )


def read_estimates(path: Path) -> Positions2d:
    """Read `data_2d_<dataset>_<name>.npz` as a network's input.

    Returns:
        {subject: {action: [four arrays (frames, 17, channels)]}}: pixels, and a third channel,
        from 0 to 1, if the file's name ends in `_w_conf`. Logits are scaled by `scale_logits`.

    Raises:
        InputError: if the file is bad, or its name promises confidences that it does not hold.
    """
    positions = read_positions_2d(path)
    confident = path.stem.endswith(WITH_CONFIDENCE)
    if confident:
        check_channel(path, positions)
    logits = confident and largest_confidence(positions) > LARGEST_PROBABILITY

    def channels(view: np.ndarray) -> np.ndarray:
        if not confident:
            return view[..., :2]
        scaled = scale_logits(view[..., 2]) if logits else np.clip(view[..., 2], 0, 1)
        return np.dstack([view[..., :2], scaled])

    return {
        subject: {action: list(map(channels, cameras)) for action, cameras in actions.items()}
        for subject, actions in positions.items()
    }
