"""Writing mp4 and gif, and reading videos, through the ffmpeg that imageio-ffmpeg ships.

Frames go through a pipe one at a time: ffmpeg encodes in its own process while the next frame is
drawn, so two cores are at work, and memory does not grow with the number of frames.
"""

import errno
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.console import InputError, progress
from common.files import atomic_output, check_output

VIDEO_SUFFIXES = (".mp4", ".gif")
# gif counts in hundredths of a second, and browsers slow down what is shown for one hundredth.
MAX_GIF_FPS = 50
_GIF_COLORS = 128
_PALETTE_FRAMES = 8
_PIPE_BYTES = 1 << 20  # the largest that Linux grants everybody


def parse_size(text: str) -> tuple[int, int]:
    """Read a video's size in pixels, such as "1700x400".

    Raises:
        InputError: if it is not of this form, odd (mp4 stores colours for 2 × 2 pixels), smaller
            than 320x180 or larger than 7680x4320.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise InputError(f"size '{text}': give WIDTHxHEIGHT in pixels, such as 1700x400")
    size = int(width), int(height)
    if size[0] % 2 or size[1] % 2:
        raise InputError(f"size '{text}': width and height must be even")
    if not (320 <= size[0] <= 7680 and 180 <= size[1] <= 4320):
        raise InputError(f"size '{text}': must lie between 320x180 and 7680x4320")
    return size


def write_video(
    path: Path | str,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    total: int | None = None,
    bitrate_kbit: int | None = None,
) -> None:
    """Write frames to an mp4 (H.264) or a gif, atomically.

    Args:
        path: the output; its ending decides on the format.
        frames: arrays (height, width, 4), uint8, RGB and a byte that is not used, all of one
            size, height and width even. Each is taken when its predecessor is on its way, so one
            buffer may serve for all.
        fps: frames a second, when shown.
        total: how many frames there are, for the progress bar.
        bitrate_kbit: average rate of an mp4 in kbit/s; None for constant quality.

    Raises:
        InputError: if the ending or the folder is wrong, there is no frame, a gif is to be shown
            faster than 50 frames a second, or ffmpeg fails.
        OSError: if the disk is full or read-only.
    """
    path = check_output(path, VIDEO_SUFFIXES)
    if path.suffix.lower() == ".gif" and fps > MAX_GIF_FPS:
        raise InputError(f"{path}: a gif shows at most {MAX_GIF_FPS} frames a second, not {fps:g}")
    frames = iter(progress(frames, total=total, desc=path.name, unit="frame"))
    first = next(frames, None)
    if first is None:
        raise InputError(f"{path}: there are no frames to draw")
    with atomic_output(path) as temporary, tempfile.TemporaryDirectory() as folder:
        raw = _raw_input(first.shape, fps)
        if path.suffix.lower() == ".gif":
            # The first frames are kept, so that the palette is known before any is encoded.
            kept = [first.copy(), *(f.copy() for f in islice(frames, _PALETTE_FRAMES - 1))]
            palette = Path(folder) / "palette.png"
            _ffmpeg(path, [*raw, *_palette_output(palette)], kept)
            _ffmpeg(path, [*raw, *_gif_output(palette, temporary)], chain(kept, frames))
        else:
            _ffmpeg(path, [*raw, *_mp4_output(bitrate_kbit, temporary)], chain([first], frames))


def _raw_input(shape: tuple[int, ...], fps: float) -> list[str]:
    size = f"{shape[1]}x{shape[0]}"
    return ["-f", "rawvideo", "-pix_fmt", "rgb0", "-s", size, "-r", f"{fps:g}", "-i", "pipe:0"]


def _mp4_output(bitrate_kbit: int | None, path: Path) -> list[str]:
    # Players take an unmarked video's colours for BT.601 or for BT.709, as they like.
    colors = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    quality = ["-crf", "18"] if bitrate_kbit is None else ["-b:v", f"{bitrate_kbit}k"]
    return [
        *("-vf", "scale=out_color_matrix=bt709:out_range=tv"),
        *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-threads", "2"),
        # x264's fastest preset; the two options cost little time and shrink its files by a third.
        *("-preset", "ultrafast", "-x264-params", "cabac=1:aq-mode=1"),
        *quality,
        *colors,
        *("-movflags", "+faststart", _url(path)),
    ]


def _palette_output(palette: Path) -> list[str]:
    return ["-vf", f"palettegen=max_colors={_GIF_COLORS}", "-frames:v", "1", _url(palette)]


def _gif_output(palette: Path, path: Path) -> list[str]:
    # Without dithering, what does not move stays as it is and costs nothing.
    choose = "paletteuse=dither=none:diff_mode=rectangle"
    return ["-i", _url(palette), "-lavfi", choose, "-loop", "0", _url(path)]


def _url(path: Path | str) -> str:
    """Mark a path as one: ffmpeg would take the beginning of "a:b.mp4" for a protocol."""
    return f"file:{path}"


def _ffmpeg(path: Path, arguments: Sequence[str], frames: Iterable[np.ndarray]) -> None:
    """Run ffmpeg on frames through its standard input; errors are reported for `path`."""
    command = [_ffmpeg_executable(), "-y", "-nostdin", "-loglevel", "error", *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, pipesize=_PIPE_BYTES)
        try:
            _feed(process.stdin, frames)
            status = process.wait()
        finally:
            process.kill()  # does nothing once it has ended
            process.wait()
        if status != 0:
            raise _ffmpeg_error(path, log)


def _feed(pipe: BinaryIO, frames: Iterable[np.ndarray]) -> None:
    """Write frames; if ffmpeg has gone, its log says why, not the broken pipe."""
    try:
        for frame in frames:
            pipe.write(frame.data)
        pipe.close()
    except BrokenPipeError:
        return


def _ffmpeg_error(path: Path, log: BinaryIO) -> Exception:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    if any("No space left on device" in line for line in lines):
        return OSError(errno.ENOSPC, "No space left on device", str(path))
    # A line begins with the part of ffmpeg that wrote it and its address: "[in#0 @ 0x55…] ".
    reason = re.sub(r"^(\[[^]]*\] )+", "", lines[0]) if lines else "it says nothing"
    return InputError(f"{path}: ffmpeg failed: {reason}; choose another video or format")


def _ffmpeg_executable() -> str:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError as error:
        raise InputError("videos need a package: pip install imageio-ffmpeg") from error
    return get_ffmpeg_exe()


def read_video(
    path: Path | str, crop: tuple[float, float, float, float], size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Yield a part of each of a video's frames, scaled.

    Args:
        path: the video.
        crop: left, top, right, bottom of the part, as shares of the width and of the height.
        size: (width, height) in pixels to which the part is scaled.

    Yields:
        (height, width, 3), uint8, RGB, read-only.

    Raises:
        InputError: if there is no such file, or ffmpeg cannot read it as a video.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    left, top, right, bottom = crop
    region = f"iw*{right - left:.6f}:ih*{bottom - top:.6f}:iw*{left:.6f}:ih*{top:.6f}:exact=1"
    command = [_ffmpeg_executable(), "-nostdin", "-loglevel", "error", "-i", _url(path)]
    command += ["-vf", f"format=rgb24,crop={region},scale={size[0]}:{size[1]}"]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, pipesize=_PIPE_BYTES
        )
        try:
            while data := process.stdout.read(size[0] * size[1] * 3):
                yield np.frombuffer(data, np.uint8).reshape(size[1], size[0], 3)
            if process.wait() != 0:
                raise _ffmpeg_error(Path(path), log)
        finally:
            process.kill()  # does nothing once it has ended
            process.wait()
            process.stdout.close()
