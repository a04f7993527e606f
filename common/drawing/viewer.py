"""One html file in which one can turn the poses: no network, no other file, any browser."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.drawing.films import Film, side_by_side
from common.drawing.panels import SIDE_COLORS
from common.files.output import atomic_output
from common.files.video import small_mp4
from common.skeleton import BONES, SIDES


def write_viewer(
    path: Path,
    films: Sequence[Film],
    fps: float,
    video: Path | None = None,
    even_times: bool = False,
) -> None:
    """Write a page with all people of a recording, and the video in step with them.

    The page holds, as JSON: `title`; `fps` of the recording; `first` and `last`, numbers of its
    frames; `azimuth`, from where the poses look like the picture; `bones`, pairs of joints;
    `colors` of the joints; `people`, each with `name`, `first` and `step` of its frame numbers,
    `poses_mm` (frames, 51), z up, and `pale` for a true pose; `video`, an mp4 in base 64, or null.

    The films are of each person, with the predicted and perhaps the true pose; their frame numbers
    count the recording, `fps` frames a second, and so `video`, where it is given; if `even_times`,
    they count its pictures at even times.
    """
    first = int(min(film.frame_numbers[0] for film in films))
    last = int(max(film.frame_numbers[-1] for film in films))
    shifts = side_by_side(films)
    people = [_person(film, film.predicted_m + shift) for film, shift in zip(films, shifts)]
    truths = [film for film in films if film.truth_m is not None]
    people += [_person(film, film.truth_m) | {"pale": True} for film in truths]
    small = small_mp4(video, first, last, fps, even_times) if video else None
    data = {
        "title": films[0].title if len(films) == 1 else path.stem,
        "fps": fps,
        "first": first,
        "last": last,
        "azimuth": films[0].azimuth,
        "bones": BONES,
        "colors": [SIDE_COLORS[side] for side in SIDES],
        "people": people,
        "video": small and base64.b64encode(small).decode(),
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    with atomic_output(path) as temporary:
        temporary.write_text(template.replace("/*DATA*/null", text), encoding="utf-8")


def _person(film: Film, poses_m: np.ndarray) -> dict[str, Any]:
    numbers = np.asarray(film.frame_numbers)
    return {
        "name": film.title,
        "first": int(numbers[0]),
        "step": int(numbers[1] - numbers[0]) if len(numbers) > 1 else 1,
        "poses_mm": np.rint(1000 * poses_m).astype(int).reshape(len(poses_m), -1).tolist(),
    }
