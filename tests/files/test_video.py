from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.files import video
from common.files.console import InputError
from common.files.video import parse_size, probe_video, read_video, write_video

WHOLE = (0, 0, 1, 1)


def decode(path, size):
    return np.stack(list(read_video(path, WHOLE, size))).astype(int)


def decode_gif(path):
    with Image.open(path) as gif:
        frames = []
        for index in range(gif.n_frames):
            gif.seek(index)
            frames.append(np.array(gif.convert("RGB")))
        return np.stack(frames).astype(int), gif.info


def grey_frames(count, size, buffer=None):
    """Yield frames, each of one grey, all through one buffer as a scene does."""
    buffer = np.zeros((size[1], size[0], 4), np.uint8)
    for index in range(count):
        buffer[:] = 5 * index % 250
        yield buffer


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_each_frame_is_written_before_the_next_is_drawn(tmp_path, suffix):
    output = tmp_path / f"grey{suffix}"
    write_video(output, grey_frames(12, (64, 48)), fps=20)
    if suffix == ".mp4":
        frames = decode(output, (64, 48))
    else:
        frames, info = decode_gif(output)
        assert info["duration"] == 50
        assert info["loop"] == 0
    assert len(frames) == 12
    for index, frame in enumerate(frames[:8]):  # the gif's palette knows the first eight
        assert abs(frame.mean() - 5 * index) < 3
    assert list(tmp_path.iterdir()) == [output]


def test_a_failure_leaves_the_earlier_video_and_nothing_else(tmp_path):
    output = tmp_path / "a.mp4"
    output.write_bytes(b"earlier")

    def failing():
        yield from grey_frames(5, (64, 48))
        raise RuntimeError("drawing failed")

    with pytest.raises(RuntimeError, match="drawing failed"):
        write_video(output, failing(), fps=25)
    with pytest.raises(InputError, match="ffmpeg failed"):  # odd sizes cannot be encoded
        write_video(output, grey_frames(5, (63, 47)), fps=25)
    assert output.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [output]


def test_refused_outputs(tmp_path):
    def write(name, count=1, fps=25):
        write_video(tmp_path / name, grey_frames(count, (64, 48)), fps=fps)

    for name, count, message in (
        ("a.avi", 1, "the ending must be .mp4 or .gif"),
        ("missing/a.mp4", 1, "no such folder"),
        ("a.mp4", 0, "no frames"),
    ):
        with pytest.raises(InputError, match=message):
            write(name, count)
    with pytest.raises(InputError, match="at most 50 frames a second"):
        write("a.gif", fps=60)
    assert list(tmp_path.iterdir()) == []


def test_sizes():
    assert parse_size("1700x400") == (1700, 400)
    for text in ("1700", "ax400", "1701x400", "1700x401", "100x100", "9000x400", "-2x400"):
        with pytest.raises(InputError, match="size"):
            parse_size(text)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    full = tmp_path / "full.mp4"
    full.symlink_to("/dev/full")

    @contextmanager
    def output_on_full_disk(path):
        yield full

    monkeypatch.setattr(video, "atomic_output", output_on_full_disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_video(tmp_path / "a.mp4", grey_frames(50, (640, 360)), fps=25)
    assert caught.value.filename == str(tmp_path / "a.mp4")


def test_any_path_and_nothing_on_standard_error(tmp_path, capfd):
    path = tmp_path / "a: b 'c' %d.mp4"
    write_video(path, grey_frames(3, (64, 48)), fps=29.97)
    assert probe_video(path) == ((64, 48), 29.97)
    assert len(list(read_video(path, (0, 0, 0.5, 0.5), (16, 12)))) == 3
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_of_a_frame_is_read_and_scaled(tmp_path):
    def quarters():
        frame = np.zeros((48, 64, 4), np.uint8)
        frame[:24, 32:] = 200
        yield frame

    write_video(tmp_path / "a.mp4", quarters(), fps=25)
    (frame,) = read_video(tmp_path / "a.mp4", (0.5, 0, 1, 1), (64, 96))
    assert frame.shape == (96, 64, 3)
    assert np.abs(frame[:40].astype(int) - 200).max() < 12
    assert frame[56:].max() < 12


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for name, message in (("text.mp4", r"text\.mp4: ffmpeg failed"), ("none.mp4", "no such file")):
        for read in (probe_video, lambda path: list(read_video(path, WHOLE, (16, 12)))):
            with pytest.raises(InputError, match=message):
                read(tmp_path / name)
