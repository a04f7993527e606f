from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from common.files import video
from common.files.console import InputError
from common.files.video import count_frames, probe_video, read_video, write_video

WHOLE = (0, 0, 1, 1)


def decode(path, size):
    return np.stack(list(read_video(path, WHOLE, size))).astype(int)


def decode_gif(path):
    with Image.open(path) as gif:
        frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
        return np.stack(frames).astype(int), gif.info


def grey_frames(count, size):
    """Yield frames, each of one grey, all through one buffer as a scene does."""
    buffer = np.zeros((size[1], size[0], 4), np.uint8)
    for index in range(count):
        buffer[:] = 5 * index % 250
        yield buffer


def test_each_frame_is_written_before_the_next_is_drawn(tmp_path):
    for name in ("grey.mp4", "grey.gif"):
        write_video(tmp_path / name, grey_frames(12, (64, 48)), fps=20)
    from_gif, info = decode_gif(tmp_path / "grey.gif")
    assert (info["duration"], info["loop"]) == (50, 0)
    for frames in (decode(tmp_path / "grey.mp4", (64, 48)), from_gif):
        assert len(frames) == 12
        for index, frame in enumerate(frames[:8]):  # the gif's palette knows the first eight
            assert abs(frame.mean() - 5 * index) < 3
    assert len(list(tmp_path.iterdir())) == 2


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
    for name, message in (
        ("a.avi", "the ending must be .mp4 or .gif"),
        ("missing/a.mp4", "no such folder"),
        ("a.gif", "at most 50 frames a second"),
    ):
        with pytest.raises(InputError, match=message):
            write_video(tmp_path / name, grey_frames(1, (64, 48)), fps=60)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_named(tmp_path, monkeypatch):
    (tmp_path / "full.mp4").symlink_to("/dev/full")
    monkeypatch.setattr(video, "atomic_output", lambda _: nullcontext(tmp_path / "full.mp4"))
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_video(tmp_path / "a.mp4", grey_frames(50, (640, 360)), fps=25)
    assert caught.value.filename == str(tmp_path / "a.mp4")


def test_any_path_and_nothing_on_standard_error(tmp_path, capfd):
    path = tmp_path / "a: b 'c' %d.mp4"
    write_video(path, grey_frames(3, (64, 48)), fps=29.97)
    assert probe_video(path) == ((64, 48), 29.97)
    assert count_frames(path) == len(decode(path, (16, 12))) == 3
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_of_a_frame_is_read_and_scaled(tmp_path):
    quarters = np.zeros((48, 64, 4), np.uint8)
    quarters[:24, 32:] = 200
    write_video(tmp_path / "a.mp4", [quarters], fps=25)
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
