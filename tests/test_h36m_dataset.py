import numpy as np
import pytest
from raw_trees import RAW_ACTIONS, random_keypoints, world_poses
from scipy.spatial.transform import Rotation

from common import h36m_dataset
from common.camera import CAMERA_IDS, load_cameras
from common.files.console import InputError
from common.files.npz import write_positions_2d, write_positions_3d
from common.h36m_dataset import (
    ACTIONS,
    SUBJECTS,
    action_class,
    average_pose,
    canonical_action,
    downsample,
    is_corrupt,
    keypoints_path,
    load_sequences,
    parse_subjects,
    positions_3d_path,
    select_actions,
    subset,
    wrong_takes,
)
from common.skeleton import JOINTS_32_TO_17
from common.training.recipe import Recipe
from common.training_data import noisy

NAMES = ("Sitting", "Sitting 1", "SittingDown", "WalkDog")


# ---- facts ----


def test_actions_are_the_literature_s():
    literature = "Dire. Disc. Eat Greet Phone Photo Pose Purch. Sit SitD. Smoke Wait WalkD. Walk"
    abbreviations = [h36m_dataset.ACTION_ABBREVIATIONS[action] for action in ACTIONS]
    assert abbreviations == [*literature.split(), "WalkT."]
    assert {action_class(action) for action in RAW_ACTIONS} == set(ACTIONS)
    corrupt = [(s, a) for s in SUBJECTS for a in RAW_ACTIONS if is_corrupt(s, a)]
    assert corrupt == [("S11", "Directions")]


def test_action_names_become_canonical():
    names = ["TakingPhoto 1", "WalkingDog", "Walking 1", "SittingDown 2"]
    assert list(map(canonical_action, names)) == ["Photo 1", "WalkDog", "Walking 1", names[3]]
    assert list(map(action_class, names)) == ["Photo", "WalkDog", "Walking", "SittingDown"]


def test_two_takes_of_each_action_are_expected():
    assert wrong_takes(RAW_ACTIONS) == []
    assert wrong_takes(set(RAW_ACTIONS) - {"Walking 1"}) == ["1 of 2 takes of Walking"]
    assert wrong_takes([*RAW_ACTIONS, "Walking 2"]) == ["3 of 2 takes of Walking"]
    assert wrong_takes([*RAW_ACTIONS, "Running"]) == ["unknown action Running"]
    assert wrong_takes([*RAW_ACTIONS, "Photo"]) == ["Photo under two names"]
    assert len(wrong_takes([])) == 15


def test_subjects_are_parsed():
    assert parse_subjects("S9, S1") == ("S1", "S9")
    for text in ("S2", "S1,S10", "", ","):
        with pytest.raises(InputError, match="S1, S5, S6"):
            parse_subjects(text)


def test_cameras_are_the_published_ones():
    first = load_cameras()["S1"][0]
    np.testing.assert_allclose(first.intrinsics[:4], [1145.0494, 1143.7811, 512.5415, 515.4515])
    np.testing.assert_allclose(first.translation_m, [1.84110703, 4.95528462, 1.5634454], atol=1e-6)
    assert tuple(load_cameras()) == SUBJECTS
    for cameras in load_cameras().values():
        assert tuple(camera.id for camera in cameras) == CAMERA_IDS
        assert [camera.height for camera in cameras] == [1002, 1000, 1000, 1002]


# ---- loading ----


@pytest.fixture
def files(tmp_path):
    """3D of five frames; two estimators, the second with confidence and some frames more."""
    subjects = ("S1", "S9")
    poses = {s: {a: world_poses(5, i) / 1000 for i, a in enumerate(NAMES)} for s in subjects}
    first = {s: {a: [random_keypoints(5, 2, c) for c in range(4)] for a in NAMES} for s in subjects}
    more = {s: {a: [random_keypoints(7, 3, c) for c in range(4)] for a in NAMES} for s in subjects}
    write_positions_3d(tmp_path / "data_3d_h36m.npz", poses)
    write_positions_2d(tmp_path / "data_2d_h36m_one.npz", first)
    write_positions_2d(tmp_path / "data_2d_h36m_two.npz", more)
    return tmp_path, poses, first


def load(folder, names=("one",), subjects=("S1", "S9"), actions=None):
    paths = [folder / f"data_2d_h36m_{name}.npz" for name in names]
    return load_sequences(folder / "data_3d_h36m.npz", paths, subjects, actions)


def test_sequences_are_aligned_normalised_and_root_relative(files):
    """Also where the 3D file holds camera coordinates, here by SciPy's rotations."""
    folder, positions, first = files
    per_camera = {
        subject: {action: in_cameras(world, subject) for action, world in actions.items()}
        for subject, actions in positions.items()
    }
    from_world = load(folder)
    write_positions_3d(folder / "data_3d_h36m.npz", per_camera)
    for sequences in (from_world, load(folder)):
        assert len(sequences) == 2 * len(NAMES) * 4
        for s in sequences:
            pixels = first[s.subject][s.action][s.camera]
            shift = 1, load_cameras()[s.subject][s.camera].height / 1000
            np.testing.assert_allclose(s.keypoints, pixels / 500 - shift, atol=1e-6)
            expected = per_camera[s.subject][s.action][s.camera][:, JOINTS_32_TO_17]
            np.testing.assert_allclose(s.poses + s.root[:, None], expected, atol=2e-6)
            assert (s.poses[:, 0] == 0).all()
            assert s.keypoints.dtype == s.poses.dtype == np.float32


def in_cameras(world, subject):
    """Points (..., 3) in the coordinates of a subject's four cameras."""
    cameras = load_cameras()[subject]
    axes = [Rotation.from_quat(c.orientation, scalar_first=True).as_matrix() for c in cameras]
    return [np.float32((world - c.translation_m) @ a) for c, a in zip(cameras, axes)]


def test_estimators_are_concatenated_without_confidence_and_cut_to_3d(files):
    folder, *_ = files
    one, two, both = load(folder, ["one"]), load(folder, ["two"]), load(folder, ["one", "two"])
    for a, b, c in zip(one, two, both):
        assert b.keypoints.shape == (5, 17, 2)
        np.testing.assert_array_equal(c.keypoints, np.concatenate([a.keypoints, b.keypoints], -1))


def test_actions_are_selected_by_exact_name():
    selected = {"Sitting": NAMES[:2], "Sitting 1": NAMES[1:2], "SittingDown": NAMES[2:3]}
    for action, names in (selected | {"WalkingDog": NAMES[3:]}).items():
        assert select_actions("", NAMES, [action]) == list(names)
    assert select_actions("", NAMES, None) == list(NAMES)


def test_files_that_are_missing_or_do_not_fit_are_refused(files):
    folder, _, first = files
    less = {"S1": first["S1"], "S9": {"Sitting": first["S9"]["Sitting"]}}
    write_positions_2d(folder / "data_2d_h36m_less.npz", less)
    short = {s: {a: [k[:4] for k in views] for a, views in f.items()} for s, f in first.items()}
    write_positions_2d(folder / "data_2d_h36m_short.npz", short)
    for says, action in {
        "no action 'Sit'; there are: Sitting, Sitting 1": lambda: load(folder, actions=["Sit"]),
        "no action 'Sitting 3'": lambda: load(folder, actions=["Sitting", "Sitting 3"]),
        "data_3d_h36m.npz: lacks S5; it holds S1, S9": lambda: load(folder, subjects=["S1", "S5"]),
        "less.npz: S9 lacks Sitting 1, SittingDown, WalkDog": lambda: load(folder, ["less"]),
        "short.npz: S1 Sitting, camera 54138969: 4 .* but 5": lambda: load(folder, ["short"]),
        "three.npz: no such file.*one, short": lambda: keypoints_path(folder, "h36m", "three"),
        "data_3d_other.npz: no such file": lambda: positions_3d_path(folder, "other"),
    }.items():
        with pytest.raises(InputError, match=says):
            action()


def test_frames_are_left_out_evenly_or_as_one_piece(files):
    folder, *_ = files
    whole = load(folder)
    for a, b in zip(whole, downsample(whole, 2)):
        np.testing.assert_array_equal(b.keypoints, a.keypoints[[0, 2, 4]])
        np.testing.assert_array_equal(b.poses, a.poses[[0, 2, 4]])
    pieces = subset(whole, 0.6, seed=0)
    starts = set()
    for a, b in zip(whole, pieces):
        (start,) = (i for i in range(3) if (a.root[i] == b.root[0]).all())
        starts.add(start)
        np.testing.assert_array_equal(b.poses, a.poses[start : start + 3])
        np.testing.assert_array_equal(b.keypoints, a.keypoints[start : start + 3])
    assert starts == {0, 1, 2}
    for a, b in zip(pieces, subset(whole, 0.6, seed=0)):
        np.testing.assert_array_equal(a.root, b.root)


def test_noise_has_the_deviation_in_pixels(files):
    folder, *_ = files
    whole = load(folder)
    pairs = zip(whole, noisy(whole, Recipe(std=3.0)))
    noise_px = np.stack([(b.keypoints - a.keypoints) * 500 for a, b in pairs])
    np.testing.assert_allclose(noise_px.std(), 3, rtol=0.05)
    np.testing.assert_allclose(noise_px.mean(), 0, atol=0.15)


def test_the_mean_pose_weighs_frames_equally(files):
    folder, *_ = files
    whole = load(folder)
    parts = [*whole[:3], *downsample(whole[3:5], 3)]
    everything = np.concatenate([sequence.poses for sequence in parts])
    np.testing.assert_allclose(average_pose(parts), everything.mean(axis=0), atol=1e-6)
