"""Writing mp4 and gif, and reading videos, through the ffmpeg of imageio-ffmpeg.

Frames go through a pipe one at a time: ffmpeg encodes in its own process while the next frame is
drawn, so two cores are at work, and memory does not grow with the number of frames.
"""

import errno
import logging
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from common.files.console import InputError, progress
from common.files.output import atomic_output, check_output

VIDEO_SUFFIXES = (".mp4", ".gif")
MAX_GIF_FPS = 50  # it counts hundredths of a second, and browsers slow down what is shown for one
# How much of a frame may wait in the pipe, the most that Linux grants everybody: with the usual
# 64 KiB drawing waits for ffmpeg, which costs a third more time.
_PIPE_BYTES = 1 << 20
_NOT_SHOWN = 4  # ffmpeg's flag of a packet before the beginning that an edited video has

# Players take an unmarked video's colours for BT.601 or for BT.709, as they like. Two options more
# than x264's fastest preset has cost little time and shrink its files by a third.
_MP4 = (
    *("-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709"),
    *("-color_primaries", "bt709", "-color_trc", "bt709", "-movflags", "+faststart"),
    *("-preset", "ultrafast", "-x264-params", "cabac=1:aq-mode=1", "-threads", "2"),
)
# The palette is that of the first frames, so no more than these wait for it. Without dithering,
# what does not move stays as it is and costs nothing.
_GIF_FILTER = (
    "split[first][all];[first]trim=end_frame=8,palettegen=max_colors=128[palette];"
    "[all][palette]paletteuse=dither=none:diff_mode=rectangle"
)
_GIF = ("-vcodec", "gif", "-pix_fmt", "pal8", "-lavfi", _GIF_FILTER, "-loop", "0")


def parse_size(text: str) -> tuple[int, int]:
    """Read a video's size in pixels, such as "1700x400"; mp4 stores colours for 2 × 2 pixels."""
    width, height = parse_picture_size(text)
    if width % 2 or height % 2:
        raise InputError(f"size '{text}': width and height must be even")
    if not (320 <= width <= 7680 and 180 <= height <= 4320):
        raise InputError(f"size '{text}': must lie between 320x180 and 7680x4320")
    return width, height


def parse_picture_size(text: str) -> tuple[int, int]:
    """Read a picture's size in pixels, such as "1920x1080"."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text.lower())
    if not match:
        raise InputError(f"size '{text}': give WIDTHxHEIGHT in pixels, such as 1920x1080")
    return int(match[1]), int(match[2])


def write_video(
    path: Path | str,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    total: int | None = None,
    bitrate_kbit: int | None = None,
) -> None:
    """Write frames to an mp4 (H.264) or a gif, by the suffix of the path, atomically.

    Frames are arrays (height, width, 4), uint8, RGB and a byte that is not used, all of one size,
    height and width even. Each is written before the next is taken, so one buffer may serve for
    all; `total` is how many there are, for the progress bar. `bitrate_kbit` is the average rate of
    an mp4 in kbit/s, None for constant quality.
    """
    path = check_output(path, VIDEO_SUFFIXES)
    gif = path.suffix.lower() == ".gif"
    if gif and fps > MAX_GIF_FPS:
        raise InputError(f"{path}: a gif shows at most {MAX_GIF_FPS} frames a second, not {fps:g}")
    frames = iter(progress(frames, total=total, desc=path.name, unit="frame"))
    first = next(frames)
    rate = ("-b:v", f"{bitrate_kbit}k") if bitrate_kbit else ("-crf", "18")
    coding = _GIF if gif else ("-vcodec", "libx264", "-pix_fmt", "yuv420p", *rate, *_MP4)
    shape = ("-s", f"{first.shape[1]}x{first.shape[0]}", "-pix_fmt", "rgb0")
    timing = ("-r", str(Fraction(fps).limit_denominator()))
    command = [_imageio_ffmpeg().get_ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo"]
    command += [*shape, *timing, "-i", "-", "-an", *coding]
    with atomic_output(path) as temporary, tempfile.TemporaryFile() as log:
        pipes = {"stdin": subprocess.PIPE, "stderr": log, "pipesize": _PIPE_BYTES, "bufsize": 0}
        pipes["start_new_session"] = True  # Ctrl-C does not reach it: it ends with its pipe
        with subprocess.Popen([*command, _url(temporary)], **pipes) as ffmpeg:
            for frame in chain([first], frames):
                left = memoryview(frame).cast("B")
                try:
                    while left:  # a signal may cut a write short
                        left = left[ffmpeg.stdin.write(left) :]
                except BrokenPipeError:  # it has ended; its log says why
                    break
        log.seek(0)
        message = log.read().decode(errors="replace")
        if message or ffmpeg.returncode:
            raise _ffmpeg_error(path, message)


def probe_video(path: Path | str) -> tuple[tuple[int, int], float]:
    """Return a video's (width, height) in pixels, as shown, and its frames a second."""
    about = _about(path)
    return about["size"], about["fps"]


def promised_frames(path: Path | str) -> int:
    """Return about how many frames a video should have, by its duration; 0 if it does not say."""
    about = _about(path)
    return round(about["duration"] * about["fps"])


def _about(path: Path | str) -> dict[str, Any]:
    frames = _frames(path)
    about = next(frames)
    frames.close()
    return about


def count_frames(path: Path | str) -> int:
    """Return how many frames of a video can be decoded, at least one."""
    probe_video(path)  # has the better messages
    frames, _ = _imageio_ffmpeg().count_frames_and_secs(_url(path))
    if not frames:
        raise InputError(f"{path}: the video has no frames; choose another")
    return frames


def frame_times(path: Path | str) -> np.ndarray:
    """Return when a video's frames are shown, by the file: (frames,), seconds from the first."""
    log = _ask_ffmpeg(path, "-v", "error", "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "-")
    # Lines are "0, <decoding time>, <time>, <duration>, <bytes>, <checksum>[, F=<flags>]".
    unit = re.search(r"#tb 0: (\d+)/(\d+)", log)
    packets = re.findall(r"^0, *-?\d+, *(-?\d+),.*?(?:F=0x(\w+))?$", log, re.MULTILINE)
    shown = [int(time) for time, flags in packets if not int(flags or "0", 16) & _NOT_SHOWN]
    if unit is None or not shown:
        raise InputError(f"{path}: the video has no frames; choose another")
    times = np.sort(shown) * int(unit[1]) / int(unit[2])
    return times - times[0]


def stored_rotation(path: Path | str) -> int:
    """Return by how many degrees, counter-clockwise, a player turns the stored pictures."""
    turn = re.search(r"[Dd]isplay ?[Mm]atrix: rotation of (-?[\d.]+)", _ask_ffmpeg(path))
    return round(float(turn[1])) % 360 if turn else 0


def pixel_shape(path: Path | str) -> float:
    """Return the ratio of a pixel's width to its height in a video, 1 where it is not known."""
    stream = r"^ *Stream .* Video: .*\bSAR ([1-9]\d*):([1-9]\d*)"
    ratio = re.search(stream, _ask_ffmpeg(path), re.MULTILINE)
    return int(ratio[1]) / int(ratio[2]) if ratio else 1.0


def _ask_ffmpeg(path: Path | str, *options: str) -> str:
    """Return all that ffmpeg prints about a video, errors too."""
    command = [_imageio_ffmpeg().get_ffmpeg_exe(), "-hide_banner", "-i", _url(path), *options]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    return (result.stdout + result.stderr).decode(errors="replace")


def read_video(
    path: Path | str,
    crop: tuple[float, float, float, float],
    size: tuple[int, int],
    even_fps: float | None = None,
) -> Iterator[np.ndarray]:
    """Yield a part of each of a video's frames, (height, width, 3), uint8, RGB, read-only.

    `crop` is left, top, right, bottom of the part, as shares of the picture's size; it is scaled to
    `size`, (width, height). With `even_fps`, so many frames come for each second.
    """
    left, top, right, bottom = crop
    region = f"iw*{right - left:.6f}:ih*{bottom - top:.6f}:iw*{left:.6f}:ih*{top:.6f}:exact=1"
    filters = f"format=rgb24,crop={region},scale={size[0]}:{size[1]}"
    if even_fps:
        filters = f"setpts=PTS-STARTPTS,fps={even_fps:.6f}," + filters
    frames = _frames(path, "-vf", filters, "-fps_mode", "passthrough")
    next(frames)
    for data in frames:
        yield np.frombuffer(data, np.uint8).reshape(size[1], size[0], 3)


def small_mp4(path: Path | str, first: int, last: int, fps: float, even: bool = False) -> bytes:
    """Return some of a video's frames as a small mp4 (H.264), which every browser plays.

    Frame n of the video is shown from (n - first) / fps seconds, whatever the video's own times.
    With `even`, the frames are those of even times, `fps` for each second, as of `read_video`.
    """
    filters = f"setpts=PTS-STARTPTS,fps={fps:.6f}," if even else ""
    filters += f"select=between(n\\,{first}\\,{last}),setpts=N/{fps}/TB,scale=-2:360"
    coding = ("-vcodec", "libx264", "-pix_fmt", "yuv420p", "-crf", "28", "-g", str(round(fps) or 1))
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        command = [_imageio_ffmpeg().get_ffmpeg_exe(), "-y", "-v", "error", "-i", _url(path)]
        command += ["-an", "-vf", filters, "-r", str(Fraction(fps).limit_denominator(100_000))]
        command += [*coding, "-movflags", "+faststart", file.name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise _ffmpeg_error(path, done.stderr)
        return Path(file.name).read_bytes()


def _frames(path: Path | str, *options: str) -> Iterator[Any]:
    """Yield what is known of a video, then the bytes of each frame."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    params = {"input_params": ["-hide_banner", "-nostats"], "output_params": list(options)}
    try:
        yield from _imageio_ffmpeg().read_frames(_url(path), **params)
    except (OSError, RuntimeError) as error:
        raise _ffmpeg_error(path, str(error)) from error


def _url(path: Path | str) -> str:
    """Mark a path as one: ffmpeg would take the beginning of "a:b.mp4" for a protocol."""
    return f"file:{path}"


def _ffmpeg_error(path: Path | str, log: str) -> Exception:
    """Return an error with ffmpeg's first message; imageio-ffmpeg puts a headline before it."""
    if "No space left on device" in log:
        return OSError(errno.ENOSPC, "No space left on device", str(path))
    if " Audio: " in log and " Video: " not in log:
        return InputError(f"{path}: holds sound, but no pictures; choose a video")
    lines = log.split("=== stderr ===")[-1].strip().splitlines()
    lines = [line for line in lines if "misdetection possible" not in line] or ["it says nothing"]
    # A line begins with the part of ffmpeg that wrote it and its address: "[in#0 @ 0x55…] ".
    reason = re.sub(r"^(\[[^]]*\] )+", "", lines[0])
    return InputError(f"{path}: ffmpeg failed: {reason}; choose another video or format")


def _imageio_ffmpeg() -> Any:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise InputError("videos need a package: pip install imageio-ffmpeg") from error
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns that frames are scaled
    return imageio_ffmpeg
