"""Drawing poses: videos with one panel for each estimate, strips of single frames.

What does not move (frames, titles, ticks, legend) is drawn once. Of each frame only strokes are
drawn, all those of a panel in one call, from arrays that are overwritten in place; text that
changes is pasted from letters that were drawn once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from common.console import InputError
from common.figures import INK, PAPER, save_figure
from common.files import check_output
from common.panels import (
    FOLLOW_SECONDS,
    FRAME,
    SIDE_COLORS,
    TRUTH_STRENGTH,
    ImagePanel,
    Limits,
    View,
    WorldPanel,
    equal_scales,
    image_limits,
    side_colors,
)
from common.skeleton import SIDES
from common.video import probe_video, read_video, write_video

PANEL_WIDTH_PX, PICTURE_HEIGHT_PX = 560, 400
_ALPHABET = "0123456789. abcdefghijklmnopqrstuvwxyzMPJE"
# By how much a video's width / height, and its frame rate, may differ from the recording's: the
# cameras of Human3.6M have 1000 and 1002 rows, and 29.97 frames a second are often called 30.
_SAME_SHAPE, _SAME_RATE = 0.02, 0.01


class Scene:
    """Panels side by side under one title, to be drawn for one frame after another.

    `size` is (width, height) of the picture in pixels, None for what suits this many panels:
    1700x400 for three; `truth` says whether the legend explains the paler strokes.
    """

    def __init__(
        self,
        panels: Sequence[ImagePanel | WorldPanel],
        size: tuple[int, int] | None,
        title: str,
        truth: bool,
    ) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if size is None:
            size = PANEL_WIDTH_PX * len(panels) + 20, PICTURE_HEIGHT_PX
        self._panels, self._size = panels, size
        # Everything scales with the picture: at 400 px of height a point is 1/72 of 100 px.
        self._unit = min(size[0] / (PANEL_WIDTH_PX * len(panels)), size[1] / PICTURE_HEIGHT_PX)
        dpi = 100 * self._unit
        # matplotlib cuts a fraction of a pixel off: 0.01 keeps rounding errors from costing one.
        inches = (size[0] + 0.01) / dpi, (size[1] + 0.01) / dpi
        figure = Figure(figsize=inches, dpi=dpi, facecolor=PAPER)
        canvas = FigureCanvasAgg(figure)
        # All panels are of one size, so that equal limits mean equal scales.
        width, height, gap = size[0] / self._unit, size[1] / self._unit, 22
        wspace = gap / ((width - 38 - 16 + gap) / len(panels) - gap)
        place = {"left": 38 / width, "right": 1 - 16 / width, "wspace": wspace}
        place |= {"bottom": 22 / height, "top": 1 - 60 / height}
        self._axes = figure.subplots(1, len(panels), squeeze=False, gridspec_kw=place)[0]
        self._lines = [_attach(p, axes, animated=True) for p, axes in zip(panels, self._axes)]
        for axes in self._axes[1:]:  # the first panel's numbers hold for all
            axes.tick_params(labelleft=False)
        style = {"size": 10.5, "weight": "bold", "color": INK, "parse_math": False}
        figure.text(16 / width, 1 - 24 / height, title, **style)
        _add_legend(figure, truth, (1 - 120 / width, 1 - 20 / height))
        canvas.draw()
        self._renderer = canvas.get_renderer()
        self._buffer = np.asarray(canvas.buffer_rgba())
        self._background = self._buffer.copy()
        self._letters = _draw_letters(12.5 * self._unit)

    def picture_part(self) -> tuple[tuple[float, ...], tuple[int, int]]:
        """Return which part of the camera's picture the 2D panels show, and how large.

        Returns:
            (left, top, right, bottom) as shares of the picture; (width, height) in pixels of the
            scene, the size of the `picture` that `draw` takes.
        """
        (low, high), image_size = self._picture_corners(0)
        corners = self._axes[0].transData.transform([low, high])
        width, height = np.rint(np.abs(corners[1] - corners[0])).astype(int)
        return (*(low / image_size), *(high / image_size)), (int(width), int(height))

    def _picture_corners(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the top left and bottom right pixel that a 2D panel shows, and the image size."""
        axes, image_size = self._axes[index], np.array(self._panels[index].image_size)
        corners = np.stack([axes.get_xlim(), axes.get_ylim()[::-1]], axis=-1)
        return np.clip(corners, 0, image_size), image_size

    def draw(self, frame: int, label: str, picture: np.ndarray | None = None) -> np.ndarray:
        """Draw one of the panels' frames, with a label at the top right.

        A picture (height, width, 3) is laid under the strokes of the 2D panels; its size and what
        it shows are those of `picture_part`.

        Returns:
            (height, width, 4), uint8, RGBA; overwritten by the next call.
        """
        self._buffer[:] = self._background
        for index, (panel, axes, lines) in enumerate(zip(self._panels, self._axes, self._lines)):
            if picture is not None and isinstance(panel, ImagePanel):
                top_left = self._picture_corners(index)[0][0]
                x, y = np.rint(axes.transData.transform(top_left)).astype(int)
                row = self._size[1] - y
                self._buffer[row : row + len(picture), x : x + picture.shape[1], :3] = picture
            panel.update(frame)
            lines.set_color(panel.strokes.colors)
            lines.draw(self._renderer)
            if panel.reading is not None:
                bottom = self._size[1] - axes.bbox.y1 - 4 * self._unit
                self._write(panel.reading(frame), axes.bbox.x1, bottom)
        self._write(label, self._size[0] - 16 * self._unit, 27 * self._unit)
        return self._buffer

    def _write(self, text: str, right: float, bottom: float) -> None:
        """Write `text` so that it ends at (right, bottom)."""
        letters = np.concatenate([self._letters[letter] for letter in text], axis=1)
        height, width = letters.shape[:2]
        right, top = round(right), round(bottom) - height
        self._buffer[top : top + height, right - width : right, :3] = letters


def _draw_letters(size_px: float) -> dict[str, np.ndarray]:
    """Return the pictures (height, its width, 3), uint8, of all letters, alike in height."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size_px)
    ascent, descent = font.getmetrics()
    pictures = {}
    for letter in _ALPHABET:
        size = round(font.getlength(letter)), ascent + descent
        picture = Image.new("RGB", size, PAPER)
        ImageDraw.Draw(picture).text((0, ascent), letter, fill=INK, font=font, anchor="ls")
        pictures[letter] = np.asarray(picture)
    return pictures


def _attach(panel: ImagePanel | WorldPanel, axes: Any, animated: bool) -> Any:
    """Put a panel on matplotlib's axes; return the collection that draws its strokes."""
    from matplotlib.collections import LineCollection

    aspect = axes.bbox.width / axes.bbox.height
    image_size = panel.image_size if isinstance(panel, ImagePanel) else None
    left, right, bottom, top = equal_scales(panel.limits, aspect, image_size)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.spines[:].set(color=FRAME, linewidth=0.8)
    axes.set_title(panel.title, loc="left", size=9, color=INK, pad=5, parse_math=False)
    panel.decorate(axes)
    # matplotlib keeps arrays of floats as they are, so the collection follows `segments`.
    style = {"linewidths": panel.strokes.widths, "colors": panel.strokes.colors}
    style |= {"capstyle": "round", "snap": False, "animated": animated}
    lines = LineCollection(panel.strokes.segments, **style)
    axes.add_collection(lines, autolim=False)
    return lines


def _add_legend(figure: Any, truth: bool, position: tuple[float, float]) -> None:
    """Explain the colours in one line that ends at `position`."""
    from matplotlib.lines import Line2D

    style = {"linewidth": 3, "solid_capstyle": "round"}
    handles = [Line2D([], [], color=c, label=side, **style) for side, c in SIDE_COLORS.items()]
    if truth:
        pale = side_colors([SIDES.index("middle")], TRUTH_STRENGTH)[0]
        handles.append(Line2D([], [], color=pale, label="ground truth", linewidth=5))
    place = {"loc": "center right", "bbox_to_anchor": position, "ncols": len(handles)}
    look = {"fontsize": 8.5, "labelcolor": INK, "frameon": False, "borderaxespad": 0}
    gaps = {"handlelength": 1.2, "handletextpad": 0.6, "columnspacing": 1.6}
    figure.legend(handles=handles, **place, **look, **gaps)


# Videos ------------------------------------------------------------------------------------------


def render_prediction(
    output: Path | str,
    keypoints_px: Mapping[str, np.ndarray],
    predicted_m: np.ndarray,
    truth_m: np.ndarray | None = None,
    *,
    azimuth: float,
    image_size: tuple[int, int],
    title: str,
    fps: float,
    size: tuple[int, int] | None = None,
    bitrate_kbit: int | None = None,
    frame_numbers: Sequence[int] | None = None,
    video: Path | str | None = None,
    recorded_fps: float | None = None,
) -> None:
    """Write a video of the input 2D, the predicted 3D over the true one, and the true 3D.

    The MPJPE above the prediction is the mean distance of `predicted_m` from `truth_m`, so both
    must have the same root for it to be the usual, root-relative figure.

    Args:
        output: the mp4 or gif.
        keypoints_px: {panel's title: (frames, 17, 2)}, pixels, one panel for each estimator.
        predicted_m: (frames, 17, 3), metres, world (z up), at the place of the true root.
        truth_m: the same of the truth; None to leave it out.
        azimuth: direction in degrees from which the poses are seen (`Camera.azimuth`).
        image_size: width and height of the camera's picture in pixels.
        title: what stands at the top.
        fps: frames a second, when shown.
        size: (width, height) of the video in pixels; None for what suits the panels.
        bitrate_kbit: average rate of an mp4 in kbit/s; None for constant quality.
        frame_numbers: (frames,), increasing, what the frames are called, and which frames of
            `video` belong to them; None for 0, 1, ….
        video: the camera's video, of any size, whose frames are shown under the 2D keypoints.
        recorded_fps: frames a second of the recording that `frame_numbers` count, for a `video`
            of another frame rate; None where the numbers count the video's own frames.

    Raises:
        InputError: as `write_video`, if `size` is too small for the panels, and if `video` cannot
            be read, has another shape than `image_size`, or is too short.
        OSError: as `write_video`.
    """
    limits = image_limits(keypoints_px.values())
    truth = [] if truth_m is None else [truth_m]
    view = View([predicted_m, *truth], azimuth, FOLLOW_SECONDS * fps)
    panels = [
        *(ImagePanel(name, px, limits, image_size) for name, px in keypoints_px.items()),
        WorldPanel("Predicted 3D", predicted_m, view, truth_m),
        *(WorldPanel("Ground truth 3D", t, view) for t in truth),
    ]
    scene = Scene(panels, size, title, truth=truth_m is not None)
    numbers = range(len(predicted_m)) if frame_numbers is None else frame_numbers
    pictures = repeat(None)
    if video is not None:
        pictures = _read_pictures(Path(video), scene, image_size, numbers, recorded_fps)
    render_panels(output, scene, numbers, fps=fps, bitrate_kbit=bitrate_kbit, pictures=pictures)


def render_panels(
    output: Path | str,
    scene: Scene,
    numbers: Sequence[int],
    *,
    fps: float,
    bitrate_kbit: int | None = None,
    pictures: Iterable[np.ndarray | None] = repeat(None),
) -> None:
    """Write a scene's frames, which are called `numbers`, as `write_video` does; raises the same.

    `pictures` are what lies under each frame's 2D keypoints, as `Scene.draw` takes it.
    """
    frames = (
        scene.draw(frame, f"frame {number}", picture)
        for frame, (number, picture) in enumerate(zip(numbers, pictures))
    )
    write_video(output, frames, fps=fps, total=len(numbers), bitrate_kbit=bitrate_kbit)


def _read_pictures(
    video: Path,
    scene: Scene,
    image_size: tuple[int, int],
    numbers: Sequence[int],
    recorded_fps: float | None,
) -> Iterator[np.ndarray]:
    """Yield the pictures of a video that belong to these frames, fit for the scene."""
    (width, height), fps = probe_video(video)
    if abs(width * image_size[1] / (height * image_size[0]) - 1) > _SAME_SHAPE:
        raise InputError(
            f"{video}: its frames are {width}x{height} pixels, the keypoints' picture is "
            f"{image_size[0]}x{image_size[1]}; give the video that the keypoints were found in"
        )
    part, shown = scene.picture_part()
    if 0 in shown:
        raise InputError(f"{video}: no keypoint lies in its picture; check the picture's size")
    rate = fps / recorded_fps if fps and recorded_fps else 1.0
    rate = 1.0 if abs(rate - 1) < _SAME_RATE else rate
    pictures = enumerate(read_video(video, part, shown))
    index, picture = -1, None
    for number in numbers:
        wanted = int(number * rate + 1e-6)
        while index < wanted:
            index, picture = next(pictures, (wanted, None))
        if picture is None:
            raise InputError(
                f"{video}: ends before frame {number}; draw fewer frames, or give the whole video"
            )
        yield picture


# Strips ------------------------------------------------------------------------------------------


def save_prediction_strip(
    output: Path | str,
    keypoints_px: np.ndarray,
    predicted_m: np.ndarray,
    truth_m: np.ndarray | None = None,
    *,
    azimuth: float,
    image_size: tuple[int, int],
    columns: int = 6,
    frame_numbers: Sequence[int] | None = None,
) -> None:
    """Write a PNG with a column for each of some frames: input 2D, predicted 3D, true 3D.

    There are `columns` frames at even distances. `keypoints_px` is (frames, 17, 2), pixels; the
    other arguments are those of `render_prediction`.

    Raises:
        InputError: if the suffix is not .png or the folder is missing.
        OSError: if the disk is full or read-only.
    """
    from matplotlib.figure import Figure

    output = check_output(output, (".png",))
    chosen = np.unique(np.linspace(0, len(predicted_m) - 1, columns).round().astype(int))
    numbers = np.arange(len(predicted_m)) if frame_numbers is None else np.asarray(frame_numbers)
    pixels, predicted = keypoints_px[chosen], predicted_m[chosen]
    truth = [] if truth_m is None else [truth_m[chosen]]
    names = ["Input 2D", "Predicted 3D", *("Ground truth 3D" for _ in truth)]
    height = 1.91 * len(names) + 0.37
    figure = Figure(figsize=(1.62 * len(chosen) + 0.3, height), dpi=200, facecolor=PAPER)
    grid = figure.subplots(len(names), len(chosen), squeeze=False)
    view = View([predicted, *truth], azimuth, follow_frames=0)
    for column, number in enumerate(numbers[chosen]):
        panels = [
            ImagePanel("", pixels, _centred_limits(pixels, column), image_size),
            WorldPanel("", predicted, view, *truth),
            *(WorldPanel("", t, view) for t in truth),
        ]
        for panel, axes, name in zip(panels, grid[:, column], [f"frame {number}", "", ""]):
            _attach(panel, axes, animated=False)
            panel.update(column)
            reading = panel.reading(column) if panel.reading else ""
            axes.set_title(name or reading, size=8, color=INK, pad=4)
            axes.set(xticks=[], yticks=[])
    for axes, name in zip(grid[:, 0], names):
        axes.set_ylabel(name, size=9, color=INK)
    _add_legend(figure, bool(truth), (0.99, 1 - 0.09 / height))
    top, bottom = 1 - 0.366 / height, 0.061 / height
    figure.subplots_adjust(left=0.035, right=0.99, top=top, bottom=bottom, wspace=0.05, hspace=0.12)
    save_figure(figure, output)


def _centred_limits(poses_px: np.ndarray, frame: int) -> Limits:
    """Return limits around one frame's person, of the same extent for every frame."""
    low, high = poses_px.min(axis=1), poses_px.max(axis=1)
    half = 0.58 * (high - low).max()
    x, y = (low[frame] + high[frame]) / 2
    return x - half, x + half, y + half, y - half
