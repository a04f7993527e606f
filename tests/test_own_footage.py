"""Own footage through the main script: from data_2d_custom_NAME.npz to measures, films, files."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from raw_trees import assert_one_line_error, call, untouched
from test_lift import SIZE, moving, random_model

import run_poseformer
from common.camera import quaternion_rotate
from common.checkpoint import (
    save_checkpoint,
)
from common.footage import stand
from common.h36m_cameras import load_cameras
from common.lift import lift
from common.motion import on_floor, smooth
from common.npz_io import write_custom_2d, write_npz
from common.video import count_frames, write_video

FRAMES = 30


@pytest.fixture(scope="module")
def model():
    return random_model(number_of_frames=9)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A checkpoint, a file of one sequence at 50 frames a second, one of two at 30."""
    folder = tmp_path_factory.mktemp("own")
    state = {"model_pos": model.state_dict(), "config": asdict(model.config), "epoch": 1}
    save_checkpoint(folder / "random.bin", state)

    def write(name, fps, **starts):
        info = {"w": SIZE[0], "h": SIZE[1], "fps": fps}
        positions = {
            sequence: {"custom": [moving(FRAMES, seed).astype(np.float32)]}
            for seed, sequence in enumerate(starts)
        }
        metadata = {s: {**info, "person": 1, "first_frame": f} for s, f in starts.items()}
        write_custom_2d(folder / f"data_2d_custom_{name}.npz", positions, metadata)

    write("dance", 50, dance=0)
    write("pair", 30, pair_person1=0, pair_person2=4)
    return folder


@pytest.fixture
def lift_file(folder, tmp_path):
    def run(*arguments, keypoints="dance"):
        fixed = ("-d", "custom", "-k", keypoints, "--data-dir", folder, "-g", "cpu")
        fixed += ("--evaluate", folder / "random.bin", "--precision", "fp32")
        return call(run_poseformer.main, *fixed, *arguments)

    return run


def exported(lift_file, tmp_path, *arguments, **keywords):
    """Return the exported positions; the small strip beside them is the fastest picture."""
    paths = ("--viz-output", tmp_path / "strip.png", "--viz-export", tmp_path / "poses.npz")
    result = lift_file("--render", *paths, *arguments, **keywords)
    assert result.status == 0, result.stderr
    assert (tmp_path / "strip.png").is_file()
    with np.load(tmp_path / "poses.npz") as arrays:
        return dict(arrays), result


def test_without_truth_there_are_measures_and_no_metric(lift_file):
    result = lift_file()
    assert result.status == 0, result.stderr
    measures = (
        r"dance: 30 frames at 50 fps; bones vary by \d+\.\d%, jitter \d+\.\d m/s³, \d+\.\d px"
    )
    assert re.search(measures, result.stdout)
    assert "MPJPE" not in result.stdout


def test_what_is_exported_is_the_lifted_pose_upright_on_the_floor(lift_file, model, tmp_path):
    arrays, _ = exported(lift_file, tmp_path)
    poses = lift(moving(FRAMES).astype(np.float32), model, size=SIZE)
    expected, _ = stand(poses, 50, "auto", None)
    np.testing.assert_allclose(arrays["positions_m"], expected, atol=1e-5)
    assert arrays["fps"] == 50 and arrays["axes"] == "z up"
    assert arrays["frames"].tolist() == list(range(FRAMES))


def test_a_cameras_orientation_or_a_level_one_may_be_given(lift_file, model, tmp_path):
    poses = lift(moving(FRAMES).astype(np.float32), model, size=SIZE).astype(np.float64)
    camera = load_cameras()["S9"][2]
    arrays, _ = exported(lift_file, tmp_path, "--viz-camera", "58860488")
    expected = on_floor(quaternion_rotate(camera.orientation, poses), 50)
    np.testing.assert_allclose(arrays["positions_m"], expected, atol=1e-5)
    arrays, _ = exported(lift_file, tmp_path, "--up", "level")
    expected = on_floor(poses[..., [0, 2, 1]] * [1, 1, -1], 50)
    np.testing.assert_allclose(arrays["positions_m"], expected, atol=1e-5)


def test_other_rates_are_resampled_unless_told_not_to(lift_file, model, tmp_path):
    pixels = moving(FRAMES).astype(np.float32)
    arguments = ("-a", "pair_person1", "--up", "level")
    for flags, fps in ((), 30), (("--no-resample",), 50):
        arrays, _ = exported(lift_file, tmp_path, *arguments, *flags, keypoints="pair")
        poses = lift(pixels, model, size=SIZE, fps=fps).astype(np.float64)
        expected = on_floor(poses[..., [0, 2, 1]] * [1, 1, -1], 30)
        np.testing.assert_allclose(arrays["positions_m"], expected, atol=1e-5)
        assert arrays["fps"] == 30


def test_causal_and_smoothed(lift_file, model, tmp_path):
    arguments = ("--up", "level", "--causal", "--smooth", "5")
    arrays, result = exported(lift_file, tmp_path, *arguments)
    poses = lift(moving(FRAMES).astype(np.float32), model, size=SIZE, causal=True)
    smoothed = smooth(poses, 50, 5).astype(np.float64)
    expected = on_floor(smoothed[..., [0, 2, 1]] * [1, 1, -1], 50)
    np.testing.assert_allclose(arrays["positions_m"], expected, atol=1e-5)
    jitters = [float(j) for j in re.findall(r"jitter (\d+\.\d)", result.stdout)]
    assert len(jitters) == 2 and jitters[1] < jitters[0]
    assert re.search(r"smoothed at 5 Hz: .* joints moved by \d+\.\d mm on average", result.stdout)
    assert "smoothed at 6 Hz" in lift_file("--smooth").stdout


def test_every_sequence_gets_a_film_and_a_file(lift_file, tmp_path):
    outputs = ("--viz-output", tmp_path / "film.mp4", "--viz-export", tmp_path / "poses.json")
    result = lift_file("--render", *outputs, "--viz-downsample", "10", keypoints="pair")
    assert result.status == 0, result.stderr
    for person, first in (("person1", 0), ("person2", 4)):
        assert count_frames(tmp_path / f"film_pair_{person}.mp4") == 3
        content = json.loads((tmp_path / f"poses_pair_{person}.json").read_text())
        assert content["frames"] == [first, first + 10, first + 20]


def test_one_sequence_is_chosen(lift_file):
    result = lift_file("-a", "pair_person2", keypoints="pair")
    assert result.stdout.count("bones vary") == 1 and "pair_person2:" in result.stdout
    result = lift_file("-a", "Walking", keypoints="pair")
    assert_one_line_error(result, "no sequence 'Walking'", "pair_person1, pair_person2")


def test_the_video_lies_under_the_keypoints_from_the_sequences_first_frame(lift_file, tmp_path):
    video = tmp_path / "own.mp4"
    pictures = [np.full((SIZE[1], SIZE[0], 4), 200, np.uint8)] * (FRAMES + 4)
    write_video(video, pictures, fps=30)
    arguments = ("--render", "--viz-downsample", "7", "--viz-video", video, "-a", "pair_person2")
    arguments += ("--up", "level")
    output = ("--viz-output", tmp_path / "film.mp4")
    result = lift_file(*arguments, *output, keypoints="pair")
    assert result.status == 0, result.stderr
    write_video(video, pictures[:30], fps=30)  # four frames less than the sequence needs
    with untouched(tmp_path):
        assert_one_line_error(lift_file(*arguments, *output, keypoints="pair"), video)


def test_the_users_video_is_not_drawn_over(lift_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dance.mp4", "dance_3d.mp4"):  # the second is the default output's name
        write_video(tmp_path / name, [np.zeros((480, 640, 4), np.uint8)] * FRAMES, fps=50)
    (tmp_path / "link.mp4").symlink_to("dance.mp4")
    for flags in (
        ("--viz-video", "dance.mp4", "--viz-output", "dance.mp4"),
        ("--viz-video", "dance.mp4", "--viz-output", "link.mp4"),
        ("--viz-video", "dance_3d.mp4", "--up", "level"),
    ):
        with untouched(tmp_path):
            assert_one_line_error(lift_file("--render", *flags), "is the same file as")


def test_a_bvh_and_a_trc_come_out(lift_file, tmp_path):
    for suffix, start in ((".bvh", "HIERARCHY"), (".trc", "PathFileType")):
        path = tmp_path / f"poses{suffix}"
        outputs = ("--viz-output", tmp_path / "strip.png", "--viz-export", path)
        assert lift_file("--render", *outputs).status == 0
        assert path.read_text().startswith(start)


def test_a_file_without_a_frame_rate_is_taken_for_50(lift_file, folder):
    metadata = {"layout_name": "h36m", "video_metadata": {"old": {"w": 640, "h": 480}}}
    positions = {"old": {"custom": [moving(5).astype(np.float32)]}}
    write_npz(folder / "data_2d_custom_old.npz", positions_2d=positions, metadata=metadata)
    result = lift_file(keypoints="old")
    assert "old: 5 frames at 50 fps" in result.stdout
    assert "does not tell its frame rate" in result.stderr


# ---- wrong usage ----


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--by-subject",), "--by-subject is not for -d custom"),
        (("--report", "a.json"), "--report is not for -d custom"),
        (("--downsample", "2"), "--downsample is not for -d custom"),
        (("--std", "5"), "--std is not for -d custom"),
        (("--up", "level", "--viz-camera", "0"), "--up and --viz-camera"),
        (("--smooth", "0"), "--smooth"),
        (("--smooth", "-3"), "--smooth"),
        (("--viz-output", "a.mp4"), "--viz-output goes with --render"),
        (("-k", "dance+pair"), "one file's keypoints"),
        (("-k", "nothing"), "there are: dance"),
        (("--render", "--viz-skip", "30"), "none is left"),
        (("--render", "--viz-output", "a.avi"), "a.avi"),
    ],
)
def test_wrong_usage_is_named(lift_file, tmp_path, arguments, says):
    with untouched(tmp_path):
        assert_one_line_error(lift_file(*arguments), says)


def test_flags_of_own_footage_need_its_dataset(folder):
    for flag in ("--causal", "--no-resample", "--smooth"):
        result = call(run_poseformer.main, "--evaluate", "x.bin", flag)
        assert_one_line_error(result, f"{flag} goes with -d custom")
    result = call(run_poseformer.main, "-d", "custom", "-k", "dance", "--data-dir", folder)
    assert_one_line_error(result, "no true 3D to train on")


def test_a_checkpoint_of_several_estimators_is_refused(lift_file, tmp_path):
    model = random_model(number_of_frames=9, in_chans=6)
    state = {"model_pos": model.state_dict(), "config": asdict(model.config)}
    save_checkpoint(tmp_path / "three.bin", state)
    result = lift_file("--evaluate", tmp_path / "three.bin")
    assert_one_line_error(result, "2 channels", "three.bin", "6")


def test_keypoints_of_another_layout_are_refused(lift_file, folder):
    metadata = {"layout_name": "coco", "video_metadata": {"a": {"w": 640, "h": 480}}}
    positions = {"a": {"custom": [moving(5).astype(np.float32)]}}
    write_npz(folder / "data_2d_custom_coco.npz", positions_2d=positions, metadata=metadata)
    assert_one_line_error(lift_file(keypoints="coco"), "data_2d_custom_coco.npz", "layout")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        *(("first_frame", value, "first frame") for value in ("x", None, [1], -5, 1.5, 10**30)),
        *(("fps", value, "frame rate") for value in (1e-9, 1e9, True, "30", float("nan"), 0)),
        *(("w", value, "width") for value in (1e-300, 1e300, True, None)),
    ],
)
def test_what_a_file_says_of_its_video_is_checked(lift_file, folder, tmp_path, key, value, says):
    metadata = {
        "layout_name": "h36m",
        "video_metadata": {"a": {"w": 640, "h": 480, "fps": 50, key: value}},
    }
    positions = {"a": {"custom": [moving(5).astype(np.float32)]}}
    write_npz(folder / "data_2d_custom_strange.npz", positions_2d=positions, metadata=metadata)
    with untouched(tmp_path):
        result = lift_file("--render", "--viz-export", tmp_path / "a.json", keypoints="strange")
    assert_one_line_error(result, "data_2d_custom_strange.npz", says)
