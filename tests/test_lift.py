"""lift.py: own footage and the dataset's sequences, to measures, films, pose files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from raw_trees import assert_one_line_error, call, untouched
from test_lifting import SIZE, moving, random_model, save
from test_visualize import data  # noqa: F401

import lift as script
from common.camera import load_cameras, quaternion_rotate, world_to_camera
from common.files.console import InputError
from common.files.npz import write_custom_2d, write_npz
from common.files.video import count_frames, write_video
from common.footage.lifting import lift, lift_normalized
from common.footage.sequences import footage_of_dataset, load_own_footage, place_together
from common.h36m_dataset import load_sequences
from common.motion import lowpass, place_on_floor

FRAMES = 30


def upright(frames, seed=0):
    """Return moving points (frames, 17, 2), pixels, whose thorax is above their feet."""
    pixels = moving(frames, seed)
    for joint, y in ((3, 440), (6, 440), (8, 40)):
        pixels[:, joint] = (320, y)
    return pixels


@pytest.fixture(scope="module")
def model():
    return random_model(number_of_frames=9)


@pytest.fixture(scope="module")
def folder(model, data):
    """A data folder, a checkpoint; own footage: `dance` at 50 frames a second, `pair` at 30."""
    folder = data
    save(model, folder / "random.bin")
    pair = {"pair_person1": 0, "pair_person2": 4}
    for name, fps, starts in (("dance", 50, {"dance": 0}), ("pair", 30, pair)):
        keypoints = {s: upright(FRAMES, seed).astype(np.float32) for seed, s in enumerate(starts)}
        positions = {sequence: {"custom": [pixels]} for sequence, pixels in keypoints.items()}
        info = {"w": SIZE[0], "h": SIZE[1], "fps": fps}
        people = enumerate(starts.items(), 1)
        metadata = {s: {**info, "person": n, "first_frame": f} for n, (s, f) in people}
        write_custom_2d(folder / f"data_2d_custom_{name}.npz", positions, metadata)
    return folder


@pytest.fixture
def run_lift(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        fixed = ("--data-dir", folder, "-g", "cpu", "--precision", "fp32")
        return call(script.main, *fixed, "--checkpoint", folder / "random.bin", *arguments)

    return run


def exported(run_lift, *arguments, keypoints="dance"):
    """Return the exported arrays, and the run's result."""
    result = run_lift("-k", keypoints, "--export", "poses.npz", "--in-place", *arguments)
    assert result.status == 0, result.stderr
    with np.load("poses.npz") as arrays:
        return dict(arrays), result


def level_on_floor(poses, fps):
    return place_on_floor(poses.astype(np.float64)[..., [0, 2, 1]] * [1, 1, -1], fps)


def test_what_is_exported_is_the_lifted_pose_upright_on_the_floor(run_lift, model, folder):
    arrays, result = exported(run_lift)
    measures = r"bones vary by \d+\.\d%, jitter \d+\.\d m/s³, \d+\.\d px"
    assert re.search(rf"dance: 30 frames at 50 fps; {measures}", result.stdout)
    poses = lift(upright(FRAMES).astype(np.float32), model, size=SIZE)
    (footage,) = load_own_footage(folder / "data_2d_custom_dance.npz")
    [expected], _, _ = place_together([poses], [footage])
    np.testing.assert_allclose(arrays["positions_m"], expected, atol=1e-5)
    assert arrays["fps"] == 50 and arrays["axes"] == "z up"
    assert arrays["frames"].tolist() == list(range(FRAMES))


def test_a_cameras_orientation_or_a_level_one_may_be_given(run_lift, model):
    poses = lift(upright(FRAMES).astype(np.float32), model, size=SIZE).astype(np.float64)
    for flag, subject in (("58860488", "S9"), ("S11:2", "S11")):
        camera = load_cameras()[subject][2]
        arrays, _ = exported(run_lift, "--as-camera", flag)
        expected = place_on_floor(quaternion_rotate(camera.orientation, poses), 50)
        np.testing.assert_allclose(arrays["positions_m"], expected, atol=1e-5)
    arrays, _ = exported(run_lift, "--up", "level")
    np.testing.assert_allclose(arrays["positions_m"], level_on_floor(poses, 50), atol=1e-5)


def test_other_rates_are_resampled_unless_told_not_to(run_lift, model):
    pixels = upright(FRAMES).astype(np.float32)
    arguments = ("--sequences", "pair_person1", "--up", "level")
    for flags, fps in ((), 30), (("--no-resample",), 50):
        arrays, _ = exported(run_lift, *arguments, *flags, keypoints="pair")
        poses = lift(pixels, model, size=SIZE, fps=fps)
        np.testing.assert_allclose(arrays["positions_m"], level_on_floor(poses, 30), atol=1e-5)
        assert arrays["fps"] == 30


def test_causal_and_smoothed(run_lift, model):
    arrays, result = exported(run_lift, "--up", "level", "--causal", "--smooth", "5")
    poses = lift(upright(FRAMES).astype(np.float32), model, size=SIZE, causal=True)
    expected = level_on_floor(lowpass(poses, 50, 5), 50)
    np.testing.assert_allclose(arrays["positions_m"], expected, atol=1e-5)
    assert re.search(r"smoothed at 5 Hz: .* joints moved by \d+\.\d mm on average", result.stdout)
    assert "smoothed at 6 Hz" in exported(run_lift, "--smooth")[1].stdout


def test_everybody_gets_every_pose_file_and_all_of_them_one_film(run_lift, tmp_path):
    files = ("--output", "film.mp4", "--export", "poses.json", "--export", "poses.bvh")
    result = run_lift("-k", "pair", *files, "--downsample", "10", "--size", "640x240")
    assert result.status == 0, result.stderr
    assert count_frames(tmp_path / "film.mp4") == 4
    for person, frames in (("person1", [0, 10, 20]), ("person2", [10, 20, 30])):
        content = json.loads((tmp_path / f"poses_pair_{person}.json").read_text())
        assert content["frames"] == frames
        assert (tmp_path / f"poses_pair_{person}.bvh").read_text().startswith("HIERARCHY")
    result = run_lift("-k", "pair", "--sequences", "pair_person2", "--limit", "2")
    assert result.stdout.count("bones vary") == 1 and "pair_person2:" in result.stdout
    assert count_frames(tmp_path / "pair_person2_3d.mp4") == 2


def test_the_video_lies_under_the_keypoints_from_the_sequences_first_frame(run_lift, tmp_path):
    pictures = [np.full((48, 64, 4), 200, np.uint8)] * (FRAMES + 4)
    write_video("own.mp4", pictures, fps=30)
    arguments = ("-k", "pair", "--sequences", "pair_person2", "--downsample", "7", "--size")
    arguments += ("1200x400", "--video", "own.mp4", "--output", "film.mp4")
    result = run_lift(*arguments)
    assert result.status == 0, result.stderr
    write_video("own.mp4", pictures[:30], fps=30)  # four frames less than the sequence needs
    with untouched(tmp_path):
        assert_one_line_error(run_lift(*arguments, "--up", "level"), "own.mp4: ends before frame")


def test_the_users_video_is_not_drawn_over(run_lift, tmp_path):
    for name in ("dance.mp4", "dance_3d.mp4"):  # the second is the default output's name
        Path(name).write_bytes(b"a film")
    for flags in (("--video", "dance.mp4", "--output", "dance.mp4"), ("--video", "dance_3d.mp4")):
        with untouched(tmp_path):
            assert_one_line_error(run_lift("-k", "dance", *flags), "is the same file as")


def test_a_sequence_of_the_dataset_is_drawn_and_exported_at_the_true_hip(run_lift, folder):
    result = run_lift(
        *("-k", "vitpose", "--subject", "S9", "--action", "TakingPhoto 1", "--camera", "2"),
        *("--skip", "2", "--downsample", "2", "--limit", "4"),
        *("--output", "out.mp4", "--export", "poses.json"),
    )
    assert result.status == 0, result.stderr
    assert count_frames("out.mp4") == 4
    poses = json.loads(Path("poses.json").read_text())
    assert poses["frames"] == [2, 4, 6, 8]
    with np.load(folder / "data_3d_h36m.npz", allow_pickle=True) as arrays:
        hip = arrays["positions_3d"].item()["S9"]["Photo 1"][2:9:2, 0]
    np.testing.assert_allclose(np.array(poses["positions"])[:, 0], hip, atol=1e-5)


def test_the_defaults_of_a_sequence_and_a_strip(run_lift, tmp_path):
    assert run_lift("--action", "Walking", "--limit", "2").status == 0
    assert count_frames(tmp_path / "S9_Walking_55011271.mp4") == 2
    result = run_lift("-d", "h36m", "--output", "strip.png", "--no-ground-truth")
    assert result.status == 0 and (tmp_path / "strip.png").is_file()


def test_own_footage_and_the_dataset_give_the_same_poses(model, folder):
    paths = folder / "data_3d_h36m.npz", [folder / "data_2d_h36m_vitpose.npz"]
    sequence = load_sequences(*paths, ["S9"], ["Walking"])[1]
    of_dataset = footage_of_dataset(sequence, ["vitpose"])
    camera, pixels = of_dataset.camera, of_dataset.keypoints_px["vitpose"]
    own = lift(pixels, model, size=(camera.width, camera.height))
    how = {"fps": 50, "causal": False, "device": "cpu", "focal": 2.3}
    poses = lift_normalized(of_dataset.inputs, model, **how)
    np.testing.assert_allclose(poses, own, atol=1e-5)
    [in_world], _, _ = place_together([poses], [of_dataset])
    seen = world_to_camera(in_world, camera.orientation, camera.translation_m)
    np.testing.assert_allclose(seen - seen[:, :1], own, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing to lift"),
        (("-k", "vitpose"), "there are: dance, pair .*for a sequence of the dataset add --action"),
        (("-k", "dance", "--no-ground-truth"), "--no-ground-truth is for a sequence of the data"),
        (("-d", "custom", "--action", "Walking"), "--action is for a sequence of the dataset"),
        (("--action", "Walking", "--up", "level"), "--up is for own footage"),
        (("-k", "vitpose+gt", "--action", "Walking"), "4 channels .*random.bin was trained with 2"),
        (("-k", "pair", "--sequences", "Walking"), "no sequence 'Walking'.*person1, pair_person2"),
        (("-k", "dance", "--up", "level", "--as-camera", "0"), "--as-camera: not allowed with"),
        (("-k", "dance", "--as-camera", "S10:0"), "no subject 'S10'"),
        (("-k", "dance", "--skip", "30"), "--skip 30: the sequence has 30 frames"),
        (("-k", "dance", "--output", "a.avi"), "a.avi: the ending must be .mp4"),
        (("-k", "dance", "--export", "a.txt"), "a.txt: the ending must be .npy or .npz"),
        (("-k", "dance", "--output", "a.png", "--video", "a.mp4"), "--video is for videos"),
        (("-k", "dance", "--export", "a.bvh", "--size", "800x400"), "--size is for videos"),
        (("-k", "dance", "--output", "a.gif", "--bitrate", "9"), "--bitrate is for mp4"),
        (("-k", "dance", "--export", "a.npy", "--export", "a.npy"), "is the same file as"),
    ],
)
def test_wrong_usage_is_named(run_lift, tmp_path, arguments, says):
    with untouched(tmp_path):
        result = run_lift(*arguments)
    assert_one_line_error(result)
    assert re.search(says, result.stderr), result.stderr


def test_what_a_file_says_of_its_video(tmp_path, capsys):
    path, about = tmp_path / "old.npz", {"w": 640, "h": 480}
    positions = {"a": {"custom": [upright(5).astype(np.float32)]}}

    def read(layout="h36m", **said):
        metadata = {"layout_name": layout, "video_metadata": {"a": about | said}}
        write_npz(path, positions_2d=positions, metadata=metadata)
        return load_own_footage(path)[0]

    footage = read()
    assert (footage.fps, footage.first_frame) == (50, 0)
    assert "does not tell its frame rate" in capsys.readouterr().err
    wrong = {"layout": "posetrack18", "first frame": -5, "frame rate": "30", "width": None}
    names = {"first frame": "first_frame", "frame rate": "fps", "width": "w"}
    for says, value in wrong.items():
        with pytest.raises(InputError, match=rf"old\.npz.*{says}"):
            read(**{names.get(says, says): value})
