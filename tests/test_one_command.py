"""lift.py with a video, or with another program's keypoints: one command from end to end."""

import base64
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from raw_trees import assert_one_line_error, call, untouched
from test_lifting import SIZE, moving, random_model, save

import lift as script
from common.files import console
from common.files.npz import read_custom_2d
from common.files.video import count_frames, read_video, write_video
from common.footage import detection
from data import prepare_2d_custom

FRAMES, FPS = 14, 25
# Stands for data/detect_2d.py: writes keypoints that lie beside it.
STAND_IN = """
import shutil, sys
shutil.copy({source!r}, sys.argv[sys.argv.index("--output") + 1])
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A checkpoint; a video whose brightness is the frame's number times 15; its keypoints."""
    folder = tmp_path_factory.mktemp("recording")
    save(random_model(number_of_frames=9), folder / "random.bin")
    save(random_model(number_of_frames=9, in_chans=4), folder / "two.bin")
    pictures = [np.full((SIZE[1], SIZE[0], 4), 15 * i, np.uint8) for i in range(FRAMES)]
    write_video(folder / "my dance.mp4", pictures, fps=FPS)
    np.save(folder / "found.npy", moving(FRAMES))
    np.save(folder / "two.npy", np.stack([moving(FRAMES), moving(FRAMES, 1) + [200, 0]], axis=1))
    return folder


@pytest.fixture
def run(recording, tmp_path, monkeypatch):
    """Run lift.py in an empty folder, the data in its `data/`; the detector is a stand-in."""
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detection, "SCRIPT", recording / "detector.py")

    def run(*arguments, detector="", checkpoint="random.bin"):
        (recording / "detector.py").write_text(detector)
        fixed = ("--data-dir", "data", "-g", "cpu", "--precision", "fp32")
        fixed += ("--checkpoint", recording / checkpoint)
        return call(script.main, *fixed, *arguments)

    return run


def finds(path):
    return STAND_IN.format(source=str(path))


def exported(path):
    with np.load(path) as arrays:
        return arrays["positions_m"]


def test_a_video_alone_gives_a_film_and_what_is_exported(run, recording):
    video = recording / "my dance.mp4"
    detector = finds(recording / "found.npy")
    result = run(video, "--export", "a.npz", "--export", "a.bvh", detector=detector)
    assert result.status == 0, result.stderr
    assert count_frames("my_dance_3d.mp4") == FRAMES and Path("a.bvh").is_file()
    # By hand, in two steps.
    steps = ("--input", recording / "found.npy", "--video", video, "--name", "b")
    assert call(prepare_2d_custom.main, *steps, "--data-dir", "data").status == 0
    assert run("-k", "b", "--export", "b.npz").status == 0
    np.testing.assert_array_equal(exported("a.npz"), exported("b.npz"))


def test_keypoints_are_found_once_for_a_video(run, recording, tmp_path):
    video = tmp_path / "v.mp4"
    video.write_bytes((recording / "my dance.mp4").read_bytes())
    page = ("--output", "page.html")
    assert run(video, *page, detector=finds(recording / "found.npy")).status == 0
    result = run(video, *page, detector="raise SystemExit(1)")
    assert result.status == 0 and "earlier run; delete it" in result.stdout
    result = run(video, "--person", "2", *page)
    assert_one_line_error(result, "no person '2'; there are: 1")
    pictures = [np.zeros((SIZE[1], SIZE[0], 4), np.uint8)] * FRAMES  # another video of this name
    write_video(video, pictures, fps=FPS)
    result = run(video, "--person", "2", *page, detector=finds(recording / "two.npy"))
    assert result.status == 0 and "was made of mediapipe, v.mp4" in result.stdout


def test_what_another_program_found_with_and_without_the_video(run, recording):
    found = ("--keypoints", recording / "found.npy")
    html = ("--output", "a.html")
    assert run(recording / "my dance.mp4", *found, "--export", "a.npz", *html).status == 0
    size = ("--size", f"{SIZE[0]}x{SIZE[1]}")
    assert run(*found, *size, "--fps", FPS, "--export", "b.npz", *html).status == 0
    np.testing.assert_array_equal(exported("a.npz"), exported("b.npz"))


def test_confidences_are_kept_and_weight_where_the_hip_is(run, recording):
    confidences = np.random.default_rng(0).uniform(0.2, 1, (FRAMES, 17, 1))
    np.save("sure.npy", np.concatenate([moving(FRAMES), confidences], axis=-1))
    for name, channels in (("sure.npy", 3), (recording / "found.npy", 2)):
        assert run(recording / "my dance.mp4", "-k", name, "--export", "a.npz").status == 0
        (keypoints,), _ = map(dict.values, read_custom_2d("data/data_2d_custom_my_dance.npz"))
        assert keypoints.shape == (FRAMES, 17, channels)
        Path("a.npz").rename(f"{channels}.npz")
    poses = exported("3.npz"), exported("2.npz")
    relative, other = (p - p[:, :1] for p in poses)
    np.testing.assert_allclose(relative, other, atol=1e-5)
    assert np.abs(poses[0] - poses[1]).max() > 0.01


def read_page(path):
    text = Path(path).read_text()
    assert "http" not in text.split("const data = ")[0]  # nothing is fetched
    return json.loads(text.split("const data = ")[1].split(";\n")[0])


def test_the_page_holds_all_people_and_the_video_in_step(run, recording, tmp_path):
    arguments = ("--keypoints", recording / "two.npy", "--export", "p.npz", "--skip", "3")
    result = run(recording / "my dance.mp4", *arguments, "--output", "d.html")
    assert result.status == 0, result.stderr
    assert not list(tmp_path.glob("*.mp4"))
    page = read_page("d.html")
    assert (page["first"], page["last"], page["fps"]) == (3, FRAMES - 1, FPS)
    one, two = (np.reshape(person["poses_mm"], (-1, 17, 3)) for person in page["people"])
    for poses, name in (one, "p_my_dance_person1.npz"), (two, "p_my_dance_person2.npz"):
        relative = exported(name) - exported(name)[:, :1]
        np.testing.assert_allclose((poses - poses[:, :1]) / 1000, relative, atol=2e-3)
    assert np.abs(one[:, 0] - two[:, 0]).max() > 300  # they do not stand in each other
    Path("v.mp4").write_bytes(base64.b64decode(page["video"]))
    levels = [picture.mean() / 15 for picture in read_video("v.mp4", (0, 0, 1, 1), (32, 24))]
    np.testing.assert_allclose(levels, range(3, FRAMES), atol=0.3)


def test_the_page_counts_the_recordings_frames(run, recording):
    arguments = ("--keypoints", recording / "found.npy", "--output", "d.html")
    size = ("--size", f"{SIZE[0]}x{SIZE[1]}", "--fps", "25")
    assert run(*arguments, *size, "--downsample", "3", "--skip", "1").status == 0
    page = read_page("d.html")
    (person,) = page["people"]
    assert (person["first"], person["step"], len(person["poses_mm"])) == (1, 3, 5)
    assert page["fps"] == 25 and page["video"] is None and page["title"] == "found"


def silence(path):
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 800, "NONE", ""))
        sound.writeframes(bytes(1600))


def test_bad_input_is_one_line_and_nothing_is_written(run, recording, tmp_path):
    dance, found = recording / "my dance.mp4", recording / "found.npy"
    silence("a.wav")
    write_video("short.mp4", [np.zeros((SIZE[1], SIZE[0], 4), np.uint8)] * 5, fps=FPS)
    Path("empty.json").write_text("[]")
    dies = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    cases = [
        ((dance,), {"detector": dies}, "mediapipe broke off (SIGKILL); nothing is written"),
        ((dance,), {"detector": "raise SystemExit(1)"}, "mediapipe broke off (status 1)"),
        ((dance,), {"checkpoint": "two.bin"}, "two.bin was trained with 4"),
        (("a.wav",), {}, "a.wav: holds sound, but no pictures"),
        ((dance, "-k", "empty.json"), {}, "empty.json: no person in any frame"),
        ((dance, "-k", "none.json"), {}, "none.json: no such file of keypoints"),
        (("-k", "none.npy", "--fps", "25"), {}, "none.npy: no such file of keypoints"),
        (("short.mp4", "-k", found), {}, "14 frames of keypoints, but the video has 5"),
        (("-k", found, "--fps", "25"), {}, "the picture's size is not known"),
        ((dance, "--output", dance), {}, "is the same file as"),
        ((dance, "-k", found, "--export", found), {}, "is the same file as"),
        ((dance, "--video", "short.mp4"), {}, "two videos"),
        ((dance, "--action", "Walking"), {}, "my dance.mp4 is for own footage"),
        (("-k", "dance", "--fps", "25"), {}, "--fps is for VIDEO"),
    ]
    for arguments, how, says in cases:
        with untouched(tmp_path), untouched(tmp_path / "data"):
            assert_one_line_error(run(*arguments, **how), says)
    # The detector has told the reason itself.
    with untouched(tmp_path), untouched(tmp_path / "data"):
        result = run(dance, detector="raise SystemExit(2)")
    assert (result.status, result.stderr) == (2, "")


def test_one_frame_and_keypoints_that_end_early(run, recording):
    write_video("one.mp4", [np.zeros((SIZE[1], SIZE[0], 4), np.uint8)], fps=FPS)
    np.save("one.npy", moving(1))
    result = run("one.mp4", "--export", "one.bvh", detector=finds("one.npy"))
    assert result.status == 0, result.stderr
    assert count_frames("one_3d.mp4") == 1
    result = run(recording / "my dance.mp4", "-k", "one.npy")
    assert result.status == 0 and "end 13 frames before the video does" in result.stderr


def test_the_footage_checkpoint_is_taken_where_none_is_named(tmp_path, monkeypatch, recording):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "CHECKPOINT_DIR", tmp_path)
    arguments = ("-g", "cpu", "--data-dir", tmp_path, "--keypoints", recording / "found.npy")
    arguments += ("--size", "640x480", "--fps", "25", "--export", "a.npz", "--output", "a.png")
    whole = (recording / "random.bin").read_bytes()
    for content in (None, whole[: len(whole) // 2]):  # not there, truncated
        if content:
            (tmp_path / "footage.bin").write_bytes(content)
        result = call(script.main, *arguments)
        assert_one_line_error(result, "footage.bin", "git checkout", "make footage-checkpoint")
    (tmp_path / "footage.bin").write_bytes(whole)
    assert call(script.main, *arguments).status == 0
