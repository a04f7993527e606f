"""Drawing poses: videos with one panel for each estimate, strips of single frames.

What does not move (frames, titles, ticks, legend) is drawn once. For each frame only strokes are
drawn, all those of a panel in one call, from arrays that are overwritten in place; text that
changes is pasted from letters that were drawn once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from common.drawing.figures import COLORS, INK, PAPER, save_figure
from common.drawing.panels import (
    FRAME,
    SIDE_COLORS,
    TRUTH_STRENGTH,
    ImagePanel,
    Panel,
    View,
    WorldPanel,
    equal_scales,
    image_limits,
    joint_colors,
)
from common.files.console import InputError
from common.files.video import probe_video, read_video, write_video
from common.skeleton import NUM_JOINTS, ROOT, SIDES

PANEL_WIDTH_PX, PICTURE_HEIGHT_PX = 560, 400
STRIP_COLUMNS = 6
_FOLLOW_SECONDS = 0.5
_ALPHABET = "0123456789. abcdefghijklmnopqrstuvwxyzMPJE"
# By how much a video's width / height, and its frame rate, may differ from the recording's: the
# cameras of Human3.6M have 1000 and 1002 rows, and 29.97 frames a second are often called 30.
_SAME_SHAPE, _SAME_RATE = 0.02, 0.01
_APART_M = 1.2  # between people whose place in the room is not known


@dataclass(frozen=True, eq=False)
class Film:
    """What is drawn of one sequence in one camera; all arrays hold the same frames.

    Several people's joints stand one after another, NaN where a person is not there.
    """

    title: str
    keypoints_px: Mapping[str, np.ndarray]  # {estimator: (frames, 17, 2)}, pixels, a panel each
    image_size: tuple[int, int]  # width and height of the camera's picture in pixels
    azimuth: float  # direction in degrees from which the poses are seen (`Camera.azimuth`)
    frame_numbers: Sequence[int]  # what the frames are called, increasing
    fps: float  # frames a second, when shown
    predicted_m: np.ndarray | None = None  # (frames, 17, 3), metres, world (z up)
    truth_m: np.ndarray | None = None  # (frames, 17, 3), metres, world
    truth_px: np.ndarray | None = None  # (frames, 17, 2), pixels
    people: Sequence[str] = ("1",)  # whose joints these are

    def panels(self) -> list[Panel]:
        """Return estimates of 2D over the truth, the true 2D, and the same of 3D, where given."""
        true_px = [] if self.truth_px is None else [self.truth_px]
        poses = [poses for poses in (self.predicted_m, self.truth_m) if poses is not None]
        view = View(poses, self.azimuth, _FOLLOW_SECONDS * self.fps)
        place = image_limits([*true_px, *self.keypoints_px.values()]), self.image_size
        panels = [ImagePanel(n, p, *place, *true_px) for n, p in self.keypoints_px.items()]
        panels += [ImagePanel("Ground truth 2D", pixels, *place) for pixels in true_px]
        if self.predicted_m is not None:
            panels.append(WorldPanel("Predicted 3D", self.predicted_m, view, self.truth_m))
        if self.truth_m is not None:
            panels.append(WorldPanel("Ground truth 3D", self.truth_m, view))
        return panels

    def at(self, frames: Sequence[int]) -> "Film":
        """Return a film of some of the frames."""
        arrays = {n: getattr(self, n) for n in ("predicted_m", "truth_m", "truth_px")}
        arrays = {name: a if a is None else a[frames] for name, a in arrays.items()}
        arrays["keypoints_px"] = {name: px[frames] for name, px in self.keypoints_px.items()}
        return replace(self, frame_numbers=np.asarray(self.frame_numbers)[frames], **arrays)


def together(films: Sequence[Film], title: str, frame_numbers: np.ndarray) -> Film:
    """Return one film of all people of a video, of frames whose numbers are increasing.

    `films` are of one person each, with one estimator's keypoints; who appears again has several.
    """
    people = list(dict.fromkeys(film.people[0] for film in films))
    shape = len(frame_numbers), len(people), NUM_JOINTS
    pixels, poses = (np.full((*shape, axes), np.nan, np.float32) for axes in (2, 3))
    for film, shift in zip(films, side_by_side(films)):
        rows, person = np.searchsorted(frame_numbers, film.frame_numbers), film.people[0]
        ((name, pixels[rows, people.index(person)]),) = film.keypoints_px.items()
        poses[rows, people.index(person)] = film.predicted_m + shift
    return replace(
        films[0],
        title=title,
        keypoints_px={name: pixels.reshape(len(pixels), -1, 2)},
        predicted_m=poses.reshape(len(poses), -1, 3),
        frame_numbers=frame_numbers,
        people=people,
    )


def side_by_side(films: Sequence[Film]) -> np.ndarray:
    """Return by how much to move each film's poses, (films, 3), metres.

    People who all stand above the origin come to stand beside each other; others stay.
    """
    people = list(dict.fromkeys(film.people[0] for film in films))
    shifts = np.zeros((len(films), 3))
    if max(np.abs(film.predicted_m[:, ROOT, :2]).max() for film in films) < 1e-3:
        places = np.array([people.index(film.people[0]) for film in films])
        shifts[:, 0] = _APART_M * (places - (len(people) - 1) / 2)
    return shifts


def choose_frames(length: int, skip: int, downsample: int = 1, limit: int | None = None) -> range:
    """Return which of a sequence's frames are drawn, at least one."""
    frames = range(skip, length, downsample)[:limit]
    if not frames:
        raise InputError(f"--skip {skip}: the sequence has {length} frames, so none is left")
    return frames


class Scene:
    """A film's panels side by side under its title, to be drawn for one frame after another.

    `size` is (width, height) in pixels, None for what suits the panels: 1700x400 for three.
    """

    def __init__(self, film: Film, size: tuple[int, int] | None = None) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        panels = film.panels()
        size = size or (PANEL_WIDTH_PX * len(panels) + 20, PICTURE_HEIGHT_PX)
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
        for panel, axes in zip(panels, self._axes):
            axes.set_title(panel.title, loc="left", size=9, color=INK, pad=5, parse_math=False)
            axes.tick_params(labelleft=axes is self._axes[0])  # whose numbers hold for all
        style = {"size": 10.5, "weight": "bold", "color": INK, "parse_math": False}
        figure.text(16 / width, 1 - 24 / height, film.title, **style)
        _add_legend(figure, film, (1 - 120 / width, 1 - 20 / height))
        canvas.draw()
        # Top left and bottom right of what the 2D panels show of the camera's picture, in its px.
        corners = np.stack([self._axes[0].get_xlim(), self._axes[0].get_ylim()[::-1]], axis=-1)
        self._shown_px = np.clip(corners, 0, film.image_size)
        self._renderer = canvas.get_renderer()
        self._buffer = np.asarray(canvas.buffer_rgba())
        self._background = self._buffer.copy()
        self._letters = _draw_letters(12.5 * self._unit)

    def picture_part(self, image_size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        """Return which part of the camera's picture the 2D panels show, and how large.

        That is (left, top, right, bottom) as shares of the picture, and the (width, height) in
        pixels of the scene that the `picture` has which `draw` takes.
        """
        low, high = self._axes[0].transData.transform(self._shown_px)
        width, height = np.rint(np.abs(high - low)).astype(int).tolist()
        return (self._shown_px / image_size).ravel(), (width, height)

    def draw(self, frame: int, label: str, picture: np.ndarray | None = None) -> np.ndarray:
        """Draw one of the panels' frames, with a label at the top right.

        A picture (height, width, 3), as `picture_part` says, is laid under the strokes of the 2D
        panels. Returns (height, width, 4), uint8, RGBA, which the next call overwrites.
        """
        self._buffer[:] = self._background
        for panel, axes, lines in zip(self._panels, self._axes, self._lines):
            if picture is not None and isinstance(panel, ImagePanel):
                x, y = np.rint(axes.transData.transform(self._shown_px[0])).astype(int)
                row = self._size[1] - y
                self._buffer[row : row + len(picture), x : x + picture.shape[1], :3] = picture
            panel.update(frame)
            lines.set_color(panel.strokes.colors)
            lines.draw(self._renderer)
            bottom = self._size[1] - axes.bbox.y1 - 4 * self._unit
            self._write(panel.reading(frame), axes.bbox.x1, bottom)
        self._write(label, self._size[0] - 16 * self._unit, 27 * self._unit)
        return self._buffer

    def _write(self, text: str, right: float, bottom: float) -> None:
        """Write `text` so that it ends at (right, bottom)."""
        if text:
            picture = np.concatenate([self._letters[letter] for letter in text], axis=1)
            (height, width), x, y = picture.shape[:2], round(right), round(bottom)
            self._buffer[y - height : y, x - width : x, :3] = picture


def _draw_letters(size_px: float) -> dict[str, np.ndarray]:
    """Return the pictures (height, its width, 3), uint8, of all letters, alike in height."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size_px)
    ascent, descent = font.getmetrics()
    pictures = {}
    for letter in _ALPHABET:
        picture = Image.new("RGB", (round(font.getlength(letter)), ascent + descent), PAPER)
        ImageDraw.Draw(picture).text((0, ascent), letter, fill=INK, font=font, anchor="ls")
        pictures[letter] = np.asarray(picture)
    return pictures


def _attach(panel: Panel, axes: Any, animated: bool) -> Any:
    """Put a panel on matplotlib's axes; return the collection that draws its strokes."""
    from matplotlib.collections import LineCollection

    aspect = axes.bbox.width / axes.bbox.height
    image_size = panel.image_size if isinstance(panel, ImagePanel) else None
    left, right, bottom, top = equal_scales(panel.limits, aspect, image_size)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.spines[:].set(color=FRAME, linewidth=0.8)
    panel.decorate(axes)
    # matplotlib keeps arrays of floats as they are, so the collection follows `segments`.
    style = {"linewidths": panel.strokes.widths, "colors": panel.strokes.colors}
    style |= {"capstyle": "round", "snap": False, "animated": animated}
    lines = LineCollection(panel.strokes.segments, **style)
    axes.add_collection(lines, autolim=False)
    return lines


def _add_legend(figure: Any, film: Film, position: tuple[float, float]) -> None:
    """Explain the colours in one line that ends at `position`."""
    from matplotlib.lines import Line2D

    style, names = {"linewidth": 3, "solid_capstyle": "round"}, SIDE_COLORS
    if len(film.people) > 1:
        names = {f"person {person}": color for person, color in zip(film.people, COLORS)}
    handles = [Line2D([], [], color=c, label=name, **style) for name, c in names.items()]
    if film.truth_m is not None:
        pale = joint_colors(NUM_JOINTS, TRUTH_STRENGTH)[SIDES.index("middle")]
        handles.append(Line2D([], [], color=pale, label="ground truth", linewidth=5))
    place = {"loc": "center right", "bbox_to_anchor": position, "ncols": len(handles)}
    look = {"fontsize": 8.5, "labelcolor": INK, "frameon": False, "borderaxespad": 0}
    gaps = {"handlelength": 1.2, "handletextpad": 0.6, "columnspacing": 1.6}
    figure.legend(handles=handles, **place, **look, **gaps)


def render_film(
    output: Path | str,
    film: Film,
    *,
    size: tuple[int, int] | None = None,
    bitrate_kbit: int | None = None,
    video: Path | str | None = None,
    recorded_fps: float | None = None,
    even_fps: float | None = None,
) -> None:
    """Write an mp4 or a gif of a film's panels.

    Args:
        output: the file.
        film: what is drawn.
        size: as in `Scene`.
        bitrate_kbit: as in `write_video`.
        video: the camera's video, of any size, whose frames are shown under the 2D keypoints.
        recorded_fps: frames a second of the recording that the film's numbers count, for a `video`
            of another frame rate; None where the numbers count the video's own frames.
        even_fps: frames a second that the numbers count, where the video's own rate varies.
    """
    scene = Scene(film, size)
    rates = recorded_fps, even_fps
    pictures = _read_pictures(video, scene, film, *rates) if video else repeat(None)
    frames = (
        scene.draw(frame, f"frame {number}", picture)
        for frame, (number, picture) in enumerate(zip(film.frame_numbers, pictures))
    )
    total = len(film.frame_numbers)
    write_video(output, frames, fps=film.fps, total=total, bitrate_kbit=bitrate_kbit)


def _read_pictures(
    video: Path | str,
    scene: Scene,
    film: Film,
    recorded_fps: float | None,
    even_fps: float | None,
) -> Iterator[np.ndarray]:
    """Yield the pictures of a video that belong to a film's frames, fit for the scene."""
    (width, height), fps = probe_video(video)
    wanted_width, wanted_height = film.image_size
    if abs(width * wanted_height / (height * wanted_width) - 1) > _SAME_SHAPE:
        raise InputError(
            f"{video}: its frames are {width}x{height} pixels, the keypoints' picture is "
            f"{wanted_width}x{wanted_height}; give the video that the keypoints were found in"
        )
    part, shown = scene.picture_part(film.image_size)
    if 0 in shown:
        raise InputError(f"{video}: no keypoint lies in its picture; check the picture's size")
    rate = fps / recorded_fps if fps and recorded_fps else 1.0
    if abs(rate - 1) < _SAME_RATE:
        rate = 1.0
    pictures = enumerate(read_video(video, part, shown, even_fps))
    index, picture = -1, None
    for number in film.frame_numbers:
        wanted = int(number * rate + 1e-6)
        while index < wanted:
            index, picture = next(pictures, (wanted, None))
        if picture is None:
            raise InputError(
                f"{video}: ends before frame {number}; draw fewer frames, or give the whole video"
            )
        yield picture


def save_strip(output: Path | str, film: Film) -> None:
    """Write a picture of six frames, a column each: input 2D, predicted 3D, true 3D.

    The frames are at even distances, of those in which somebody is there; of several estimators'
    keypoints, the first are drawn.
    """
    from matplotlib.figure import Figure

    first = next(iter(film.keypoints_px.values()))
    there = np.flatnonzero(np.isfinite(first).any(axis=(1, 2)))
    evenly = np.linspace(0, len(there) - 1, STRIP_COLUMNS)
    chosen = there[np.unique(evenly.round().astype(int))]
    still = replace(film.at(chosen), keypoints_px={"Input 2D": first[chosen]}, fps=0)
    # Each picture's middle is that of its people; its extent is that of the largest.
    low, high = np.nanmin(first[chosen], axis=1), np.nanmax(first[chosen], axis=1)
    half, middles = 0.58 * (high - low).max(), (low + high) / 2
    rows = len(still.panels())
    height = 1.91 * rows + 0.37
    figure = Figure(figsize=(1.62 * len(chosen) + 0.3, height), dpi=200, facecolor=PAPER)
    grid = figure.subplots(rows, len(chosen), squeeze=False)
    for column, number in enumerate(still.frame_numbers):
        panels, (x, y) = still.panels(), middles[column]
        panels[0].limits = x - half, x + half, y + half, y - half
        for panel, axes in zip(panels, grid[:, column]):
            _attach(panel, axes, animated=False)
            panel.update(column)
            title = f"frame {number}" if panel is panels[0] else panel.reading(column)
            axes.set_title(title, size=8, color=INK, pad=4)
            axes.set(xticks=[], yticks=[])
            if column == 0:
                axes.set_ylabel(panel.title, size=9, color=INK)
    _add_legend(figure, film, (0.99, 1 - 0.09 / height))
    top, bottom = 1 - 0.366 / height, 0.061 / height
    figure.subplots_adjust(left=0.035, right=0.99, top=top, bottom=bottom, wspace=0.05, hspace=0.12)
    save_figure(figure, output)
