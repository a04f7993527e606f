"""A prediction as a video, as a strip of some frames, and as a pose file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.console import InputError
from common.export import POSE_SUFFIXES, export_poses
from common.files import check_distinct, check_output
from common.video import VIDEO_SUFFIXES
from common.visualization import render_prediction, save_prediction_strip


@dataclass(frozen=True)
class RenderOptions:
    """What is drawn and exported; each field is a flag of the same name, --viz-….

    Raises:
        InputError: if an output cannot be written.
    """

    output: Path | None = None
    export: Path | None = None
    skip: int = 0
    downsample: int = 1
    limit: int | None = None
    size: tuple[int, int] | None = None
    bitrate: int | None = None
    no_ground_truth: bool = False
    video: Path | None = None

    def __post_init__(self) -> None:
        if self.output:
            check_output(self.output, (*VIDEO_SUFFIXES, ".png"))
            if self.output.suffix.lower() == ".png":
                for name in ("size", "bitrate", "no_ground_truth", "video"):
                    if getattr(self, name):
                        flag = f"--viz-{name.replace('_', '-')}"
                        raise InputError(f"{flag} is for videos, not for {self.output}")
            if self.output.suffix.lower() == ".gif" and self.bitrate:
                raise InputError(f"--viz-bitrate is for mp4, not for {self.output}")
        if self.export:
            check_output(self.export, POSE_SUFFIXES)
        self._check_distinct(self.output, self.export)

    def _check_distinct(self, *outputs: Path | None) -> None:
        """Refuse to draw a video over itself."""
        check_distinct(filter(None, outputs), filter(None, [self.video]))

    def frames(self, length: int) -> range:
        """Return which of a sequence's frames are drawn.

        Raises:
            InputError: if none is left.
        """
        frames = range(self.skip, length, self.downsample)[: self.limit]
        if not frames:
            raise InputError(
                f"--viz-skip {self.skip}: the sequence has {length} frames, so none is left"
            )
        return frames

    def write(
        self,
        name: str,
        keypoints_px: Mapping[str, np.ndarray],
        predicted_m: np.ndarray,
        truth_m: np.ndarray | None = None,
        *,
        place: str,
        frame_numbers: Sequence[int],
        recorded_fps: float,
        counts_video: bool = False,
        fps: float,
        title: str,
        azimuth: float,
        image_size: tuple[int, int],
        part: str | None = None,
    ) -> None:
        """Export and draw a prediction, and print what was written.

        The arguments are those of `render_prediction`, and:

        - `name`: of the video where no output was named;
        - `place`: what the exported positions are relative to;
        - `frame_numbers`, `recorded_fps`: the frames' numbers in the recording, and its rate;
        - `counts_video`: whether the numbers count the video's own frames, whatever its rate;
        - `part`: is added to the files' names, where there are several sequences.
        """
        output = _with_part(self.output or Path(f"{name}.mp4"), part if self.output else None)
        self._check_distinct(output)
        look = {"azimuth": azimuth, "image_size": image_size, "frame_numbers": frame_numbers}
        if self.export:
            export = _with_part(self.export, part)
            export_poses(export, predicted_m, place, recorded_fps, frame_numbers)
            print(f"wrote {export}")
        if output.suffix.lower() == ".png":
            pixels = next(iter(keypoints_px.values()))
            save_prediction_strip(output, pixels, predicted_m, truth_m, **look)
        else:
            render_prediction(
                output,
                keypoints_px,
                predicted_m,
                None if self.no_ground_truth else truth_m,
                title=title,
                fps=fps,
                size=self.size,
                bitrate_kbit=self.bitrate,
                video=self.video,
                recorded_fps=None if counts_video else recorded_fps,
                **look,
            )
        print(f"wrote {output} ({len(frame_numbers)} frames)")


def _with_part(path: Path, part: str | None) -> Path:
    return path.with_stem(f"{path.stem}_{part}") if part else path
