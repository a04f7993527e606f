import os
import subprocess
import sys
import time

import cdflib
import numpy as np
import pytest
from conftest import REPOSITORY
from raw_trees import assert_one_line_error, call

from common.camera import project, world_to_camera
from common.h36m_cameras import CAMERA_IDS, load_cameras
from common.h36m_dataset import ACTIONS, SUBJECTS, TEST_SUBJECTS, TRAIN_SUBJECTS, action_class
from common.skeleton import JOINTS_32_TO_17
from data import make_sample
from data.synthetic.body import make_body
from data.synthetic.geometry import two_bones
from data.synthetic.scene import make_motion, subjects_body

FRAMES = 150
MADE = ("S1", "S9")
# Human3.6M's tree of 32 joints.
PARENTS = [-1, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13, 14, 12, 16, 17, 18, 19, 20, 19, 22]
PARENTS += [12, 24, 25, 26, 27, 28, 27, 30]
# The rows of the 32 joints that COCO's keypoints 5 to 16 name.
COCO_LIMBS = [17, 25, 18, 26, 19, 27, 6, 1, 7, 2, 8, 3]
PEOPLE_LISTS = ("vitpose", "pct", "moganet")
ESTIMATORS = (*PEOPLE_LISTS, "transpose")


@pytest.fixture(scope="module")
def sample(run_script, tmp_path_factory):
    """A sample of two subjects, made from another working directory."""
    folder = tmp_path_factory.mktemp("sample")
    subjects = ",".join(MADE)
    arguments = ["--data-dir", folder, "--frames", FRAMES, "--subjects", subjects, "--seed", 3]
    result = run_script("data/make_sample.py", *arguments, cwd=folder)
    assert len(result.stdout.splitlines()) == 1 and "60 sequences" in result.stdout
    return folder / "preprocess"


@pytest.fixture(scope="module")
def positions(sample):
    """{(subject, file name): (frames, 32, 3)}, mm, read with cdflib alone."""
    return {
        (subject, path.stem): read_cdf(path)
        for subject in MADE
        for path in sorted(cdf_folder(sample, subject).glob("*.cdf"))
    }


@pytest.fixture(scope="module")
def errors(sample, positions):
    """{estimator: (errors, confidences, depths)}, each (n, 12): pixels, as written, mm."""
    result = {}
    for estimator in ESTIMATORS:
        rows = []
        for (subject, name), pose in positions.items():
            for camera in load_cameras()[subject]:
                truth, depth = seen(pose[:, COCO_LIMBS], camera)
                found = best_people(sample, estimator, subject, name, camera.id)
                frames = [frame for frame in found if frame < len(truth)]
                limbs = np.array([found[frame][5:] for frame in frames])
                error = np.linalg.norm(limbs[..., :2] - truth[frames], axis=-1)
                rows.append((error, limbs[..., 2], depth[frames]))
        result[estimator] = tuple(np.concatenate(column) for column in zip(*rows))
    return result


@pytest.fixture(scope="module")
def motions():
    """{(subject, file name): (frames, 17, 3)}, m, of all seven subjects."""
    return {
        (clip.subject, clip.name): make_motion(clip).joints[:, JOINTS_32_TO_17]
        for clip in make_sample.plan_clips(SUBJECTS, 250, seed=0)
    }


def cdf_folder(preprocess, subject):
    return preprocess / "cdf_files" / subject / "MyPoseFeatures" / "D3_Positions"


def read_cdf(path):
    pose = cdflib.CDF(path).varget("Pose")
    assert pose.dtype == np.float32 and pose.ndim == 3 and pose.shape[::2] == (1, 96)
    return pose.reshape(-1, 32, 3).astype(np.float64)


def load_detections(preprocess, estimator, subject, name, camera):
    name = f"{name}_{camera}_pose_sequence.npy"
    return np.load(preprocess / f"h36m_{estimator}" / subject / name, allow_pickle=True)


def best_people(preprocess, estimator, subject, name, camera):
    """{frame: keypoints (17, 3)} of whoever has the highest score."""
    content = load_detections(preprocess, estimator, subject, name, camera)
    if estimator == "transpose":
        return {frame: pose[0] for frame, pose in content.item().items() if pose is not None}
    by_score = sorted(content, key=lambda person: person["bbox"][4])
    return {person["frame"]: person["keypoints"] for person in by_score}


def seen(points_mm, camera):
    """Pixels and depths of world points."""
    points = world_to_camera(points_mm, camera.orientation, camera.translation_m * 1000)
    return project(points, camera.intrinsics), points[..., 2]


def flexion(poses, joint):
    """Angle in degrees by which the limb is bent at a joint, whose neighbours are beside it."""
    upper, lower = poses[:, joint] - poses[:, joint - 1], poses[:, joint + 1] - poses[:, joint]
    cosine = np.sum(upper * lower, -1) / np.linalg.norm(upper, axis=-1)
    return np.degrees(np.arccos(cosine / np.linalg.norm(lower, axis=-1)))


def heading_frame(poses):
    """Poses (frames, 17, 3) over the hip, turned so that the pelvis faces along x."""
    lateral = poses[:, 4] - poses[:, 1]
    angle = np.arctan2(-lateral[:, 0], lateral[:, 1])
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y, z = np.moveaxis(poses - poses[:, :1] * [1, 1, 0], -1, 0)
    return np.stack([c * x + s * y, c * y - s * x, z], axis=-1), angle


# --- files ---------------------------------------------------------------------------------------


def test_files_are_those_of_human36m(sample, positions, real_mocap):
    names = {path.name for path in cdf_folder(sample, "S1").iterdir()}
    assert names == {path.name for path in cdf_folder(real_mocap, "S1").iterdir()}
    assert len(positions) == 60
    for estimator in ESTIMATORS:
        files = list((sample / f"h36m_{estimator}").rglob("*.npy"))
        assert len(files) == 60 * 4


def test_every_action_has_two_files_named_as_the_subject_has_them():
    names = {subject: make_sample.file_names(subject) for subject in SUBJECTS}
    for of_subject in names.values():
        assert len(set(of_subject)) == 30
        assert sorted(map(action_class, of_subject)) == sorted(2 * ACTIONS)
    assert {"TakingPhoto", "TakingPhoto 1", "Eating", "Eating 2"} < set(names["S1"])
    assert {"Photo", "Photo 2", "Discussion 2", "Discussion 3"} < set(names["S5"])
    assert {"Waiting", "Waiting 3"} < set(names["S6"])
    assert {"Directions", "Phoning 2", "Phoning 3"} < set(names["S11"])


def test_frames_is_the_length_of_every_sequence(sample, positions):
    assert {len(pose) for pose in positions.values()} == {FRAMES}
    for camera, extra in zip(CAMERA_IDS, (1, 0, 0, 0)):
        detections = load_detections(sample, "transpose", "S9", "Walking", camera)
        assert list(detections.item()) == list(range(FRAMES + extra))


def test_full_lengths_add_up_to_the_published_counts():
    lengths = make_sample.full_lengths()
    assert len(lengths) == 210
    train = sum(n for (subject, _), n in lengths.items() if subject in TRAIN_SUBJECTS)
    test = sum(n for (subject, _), n in lengths.items() if subject in TEST_SUBJECTS)
    assert 4 * train == 1_559_752
    assert 4 * (test - lengths["S11", "Directions"]) == 543_344
    assert min(lengths.values()) > 900 and max(lengths.values()) < 7000
    planned = make_sample.plan_clips(SUBJECTS, None, seed=0)
    assert sum(clip.frames for clip in planned) == sum(lengths.values())


def test_detections_have_the_published_types(sample, real_mocap):
    for estimator in PEOPLE_LISTS:
        ours, real = (
            load_detections(root, estimator, "S1", "Walking", CAMERA_IDS[0])
            for root in (sample, real_mocap)
        )
        assert ours.dtype == real.dtype and ours.ndim == real.ndim
        for person in ours:
            assert person.keys() == real[0].keys()
            assert type(person["frame"]) is type(real[0]["frame"])
            for key in ("bbox", "keypoints"):
                assert person[key].dtype == real[0][key].dtype
                assert person[key].shape == real[0][key].shape
    array = load_detections(sample, "transpose", "S1", "Walking", CAMERA_IDS[0])
    types = {(p.shape, p.dtype.name) for p in array.item().values() if p is not None}
    assert array.shape == () and types == {((1, 17, 3), "float32")}


def test_the_seed_alone_decides_what_a_file_holds(sample, run_script, tmp_path):
    arguments = ["--data-dir", tmp_path, "--frames", FRAMES, "--subjects", "S9"]
    run_script("data/make_sample.py", *arguments, "--seed", 3)
    again = tmp_path / "preprocess"
    for path in [*again.rglob("S9/*.npy")][::13]:
        assert path.read_bytes() == (sample / path.relative_to(again)).read_bytes()
    for path in again.rglob("*.cdf"):
        np.testing.assert_array_equal(read_cdf(path), read_cdf(sample / path.relative_to(again)))
    # An earlier sample is replaced.
    run_script("data/make_sample.py", *arguments[:2], "--frames", 2, "--subjects", "S9")
    other = read_cdf(cdf_folder(again, "S9") / "Walking.cdf")
    assert len(other) == 2
    assert np.abs(other - read_cdf(cdf_folder(sample, "S9") / "Walking.cdf")[:2]).max() > 10


# --- the body ------------------------------------------------------------------------------------


def test_bones_keep_their_lengths(positions):
    lengths = {}
    for (subject, _), pose in positions.items():
        bones = np.linalg.norm(pose[:, 1:] - pose[:, PARENTS[1:]], axis=-1)
        assert np.ptp(bones, axis=0).max() < 0.01
        lengths.setdefault(subject, bones[0])
        np.testing.assert_allclose(bones[0], lengths[subject], atol=0.01)
    assert np.abs(lengths["S1"] - lengths["S9"])[[1, 2, 12, 17]].max() > 5


def test_joints_coincide_as_in_real_files(positions, real_mocap):
    def coincident(pose):
        distance = np.linalg.norm(pose[:, :, None] - pose[:, None], axis=-1).max(axis=0)
        return {(a, b) for a, b in np.argwhere(distance < 0.5).tolist() if a < b}

    real = read_cdf(cdf_folder(real_mocap, "S1") / "Walking.cdf")
    assert coincident(positions["S1", "Walking"]) == coincident(real)


def test_proportions_are_those_of_human36m(positions):
    # The offsets of Human3.6M's own skeleton, mm: hip, thigh, shin, foot, toes, spine, chest, neck,
    # head, collar bone, upper arm, forearm, thumb.
    joints = [1, 2, 3, 4, 5, 12, 13, 14, 15, 25, 26, 27, 29]
    real = [132.9, 442.9, 454.2, 162.8, 75.0, 233.4, 257.1, 121.1, 115.0, 151.0, 278.9, 251.7, 100]
    for pose in positions.values():
        bones = np.linalg.norm(pose[0, joints] - pose[0, [PARENTS[j] for j in joints]], axis=-1)
        np.testing.assert_allclose(bones, real, rtol=0.18)


def test_feet_stay_on_the_floor_and_do_not_slide(positions):
    for pose in positions.values():
        assert pose[..., 2].min() > -5
        feet = pose[:, [3, 4, 5, 8, 9, 10], 2]
        assert feet.min(axis=1).max() < 40
        for ball in (4, 9):
            lowest = pose[:, ball, 2].min()
            resting = (pose[:-1, ball, 2] < lowest + 1) & (pose[1:, ball, 2] < lowest + 1)
            speed = 50 * np.linalg.norm(np.diff(pose[:, ball, :2], axis=0), axis=-1)[resting]
            assert np.median(speed) < 20 and speed.max() < 250


def test_motion_is_smooth(positions):
    for name, pose in positions.items():
        velocity = 50 * np.diff(pose / 1000, axis=0)
        acceleration = 50 * np.diff(velocity, axis=0)
        assert np.linalg.norm(velocity, axis=-1).max() < 7, name
        assert np.linalg.norm(acceleration, axis=-1).max() < 150, name


def test_joints_bend_one_way_and_not_too_far(positions):
    for pose in positions.values():
        for knee in (2, 7):
            assert flexion(pose, knee).min() > 3 and flexion(pose, knee).max() < 150
            middle = (pose[:, knee - 1] + pose[:, knee + 1]) / 2
            toes = pose[:, knee + 2] - pose[:, knee + 1]
            ahead = np.sum((pose[:, knee] - middle) * (toes + np.array([0, 0, 200])), axis=-1)
            assert ahead.min() > 0
        for elbow in (18, 26):
            assert flexion(pose, elbow).min() > 5 and flexion(pose, elbow).max() < 152


def test_everybody_is_inside_all_four_pictures(positions):
    for (subject, _), pose in positions.items():
        for camera in load_cameras()[subject]:
            pixels, _ = seen(pose, camera)
            assert pixels.min() > 0
            assert (pixels.max(axis=(0, 1)) < [camera.width, camera.height]).all()


def test_two_bones_reach_their_target():
    rng = np.random.default_rng(0)
    root, direction, pole = rng.standard_normal((3, 50, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    target = root + direction * rng.uniform(0.3, 0.48, (50, 1))
    middle, end = two_bones(root, target, pole, 0.28, 0.25, (0.98, 0.99))
    np.testing.assert_allclose(end, target, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(middle - root, axis=-1), 0.28)
    np.testing.assert_allclose(np.linalg.norm(end - middle, axis=-1), 0.25)
    along = np.sum((middle - root) * direction, axis=-1, keepdims=True) * direction
    assert (np.sum((middle - root - along) * pole, axis=-1) > 0).all()
    _, far = two_bones(root, root + 3 * direction, pole, 0.28, 0.25, (0.98, 0.99))
    np.testing.assert_allclose(np.linalg.norm(far - root, axis=-1), 0.99 * 0.53, rtol=1e-3)


def test_people_differ():
    bodies = [subjects_body(subject, 0) for subject in SUBJECTS]
    assert len({round(body.thigh, 4) for body in bodies}) == 7
    assert len({round(body.step_time, 4) for body in bodies}) == 7
    assert make_body(np.random.default_rng(1), 1.7) == make_body(np.random.default_rng(1), 1.7)


# --- the actions ---------------------------------------------------------------------------------


def test_arms_swing_against_legs(motions):
    for (_, name), poses in motions.items():
        if action_class(name) == "Walking":
            ahead = heading_frame(poses)[0][..., 0]
            left_ankle, right_ankle, right_wrist = ahead[:, 6], ahead[:, 3], ahead[:, 16]
            assert np.corrcoef(right_wrist, left_ankle)[0, 1] > 0.6
            assert np.corrcoef(left_ankle, right_ankle)[0, 1] < -0.6


def test_sitting_is_low_and_standing_is_high(motions):
    descents = []
    for (_, name), poses in motions.items():
        leg = np.linalg.norm(poses[0, 2] - poses[0, 1]) + np.linalg.norm(poses[0, 3] - poses[0, 2])
        height = poses[:, 0, 2] / leg
        if action_class(name) in ("Sitting", "Eating"):
            assert height.max() < 0.8
        if action_class(name) in ("Walking", "Directions", "Waiting"):
            assert height.min() > 0.95
        if action_class(name) == "SittingDown":
            descents.append(np.ptp(poses[:, 0, 2]))
    assert np.median(descents) > 0.3


def test_actions_are_recognised_across_subjects(motions):
    """The nearest training clip has the right action most of the time, where chance is 1 / 15."""

    def features(poses):
        aligned, _ = heading_frame(poses)
        pace = np.linalg.norm(np.diff(poses[:, 0, :2], axis=0), axis=-1).mean() * 50
        return np.concatenate([aligned.mean(0).ravel(), 2 * aligned.std(0).ravel(), [pace]])

    known = {k: features(p) for k, p in motions.items() if k[0] in TRAIN_SUBJECTS}
    right = []
    for (subject, name), poses in motions.items():
        if subject in TEST_SUBJECTS:
            here = features(poses)
            nearest = min(known, key=lambda k: np.linalg.norm(known[k] - here))
            right.append(action_class(nearest[1]) == action_class(name))
    assert np.mean(right) > 0.5


def test_takes_differ_and_headings_are_spread(motions):
    headings = np.array([heading_frame(poses)[1][0] for poses in motions.values()])
    assert abs(np.exp(1j * headings).mean()) < 0.25
    first, second = motions["S9", "Walking"], motions["S9", "Walking 1"]
    assert np.abs(heading_frame(first)[0] - heading_frame(second)[0]).max() > 0.1


# --- the estimators ------------------------------------------------------------------------------


def test_errors_are_of_plausible_size(errors):
    means = {estimator: error.mean() for estimator, (error, _, _) in errors.items()}
    assert 3.5 < means["vitpose"] < 6.5
    assert means["vitpose"] < means["pct"] < means["moganet"] < means["transpose"] < 15


def test_confidence_tells_something_about_the_error(errors):
    for estimator, (error, confidence, _) in errors.items():
        rank_error, rank_confidence = (x.ravel().argsort().argsort() for x in (error, confidence))
        assert np.corrcoef(rank_error, rank_confidence)[0, 1] < -0.15, estimator
        sure = confidence > np.median(confidence)
        assert error[~sure].mean() > 1.25 * error[sure].mean(), estimator
        assert (confidence.max() > 2) == (estimator == "pct")


def test_the_far_side_is_harder(errors):
    """Where one knee is much further away than the other, it is the worse one."""
    for estimator, (error, _, depth) in errors.items():
        left, right = 8, 9
        sideways = np.abs(depth[:, left] - depth[:, right]) > 150
        left_is_far = depth[:, left] > depth[:, right]
        far = np.where(left_is_far, error[:, left], error[:, right])[sideways]
        near = np.where(left_is_far, error[:, right], error[:, left])[sideways]
        assert far.mean() > 1.1 * near.mean(), estimator


def test_errors_are_correlated_in_time_and_biased(sample, positions):
    camera = load_cameras()["S9"][1]
    truth, _ = seen(positions["S9", "Posing"][:, COCO_LIMBS], camera)
    people = best_people(sample, "vitpose", "S9", "Posing", camera.id)
    error = np.array([people[frame][5:, :2] - truth[frame] for frame in sorted(people)])
    centred = error - np.median(error, axis=0)
    calm = np.clip(centred, -15, 15)
    assert np.mean(calm[1:] * calm[:-1]) > 0.6 * np.mean(calm**2)
    assert np.abs(np.median(error, axis=0)).mean() > 0.5


def test_left_and_right_are_sometimes_swapped(sample, positions):
    swaps = frames = 0
    for (subject, name), pose in positions.items():
        camera = load_cameras()[subject][0]
        truth, _ = seen(pose[:, [7, 2]], camera)
        found = best_people(sample, "transpose", subject, name, camera.id)
        for frame, keypoints in found.items():
            if frame < len(truth) and np.linalg.norm(np.subtract(*truth[frame])) > 60:
                knees = keypoints[13:15, :2]
                straight = np.linalg.norm(knees - truth[frame], axis=-1).sum()
                swaps += np.linalg.norm(knees - truth[frame, ::-1], axis=-1).sum() < straight
                frames += 1
    assert 0.002 < swaps / frames < 0.1


@pytest.mark.parametrize("estimator", PEOPLE_LISTS)
def test_other_people_and_missing_frames(sample, positions, estimator):
    crowded = missing = 0
    for subject, name in positions:
        people = load_detections(sample, estimator, subject, name, CAMERA_IDS[2])
        frames = np.array([person["frame"] for person in people])
        scores = np.array([person["bbox"][4] for person in people])
        assert (np.diff(frames) >= 0).all() and frames.max() < FRAMES
        present, counts = np.unique(frames, return_counts=True)
        crowded += (counts > 1).sum()
        missing += FRAMES - len(present)
        assert np.diff([-1, *present, FRAMES]).max() <= 20
        best = np.array([scores[frames == frame].max() for frame in present])
        assert best.min() > 0.8
        assert sorted(scores)[len(scores) - len(present) - 1] < 0.7 or len(scores) == len(present)
    assert 0.005 < crowded / (60 * FRAMES) < 0.2
    assert 0.0005 < missing / (60 * FRAMES) < 0.05


def test_transpose_has_frames_without_a_detection(sample):
    empty = sum(
        pose is None
        for path in (sample / "h36m_transpose").rglob("*_55011271_pose_sequence.npy")
        for pose in np.load(path, allow_pickle=True).item().values()
    )
    assert empty > 20


# --- bad usage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--frames 0", "--frames"),
        ("--seed -1", "--seed"),
        ("--subjects S2", "'S2'"),
        ("--full --frames 10", "--full"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, arguments, says):
    result = call(make_sample.main, "--data-dir", tmp_path, *arguments.split())
    assert_one_line_error(result, says)
    assert list(tmp_path.iterdir()) == []


def test_sigterm_leaves_neither_files_nor_processes(tmp_path):
    arguments = [REPOSITORY / "data/make_sample.py", "--data-dir", tmp_path, "--frames", "500"]
    process = subprocess.Popen([sys.executable, *arguments], start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("preprocess/.sample-*/cdf_files/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=240) == 143
    assert list(tmp_path.rglob("*")) == [tmp_path / "preprocess"]
    with pytest.raises(ProcessLookupError):  # nobody is left in its group
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("folder", ["cdf_files", "h36m_pct"])
def test_files_of_others_are_never_touched(tmp_path, folder):
    precious = tmp_path / "preprocess" / folder / "S1" / "precious.cdf"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"years of work")
    arguments = ["--data-dir", tmp_path, "--frames", "2", "--subjects", "S1"]
    assert_one_line_error(call(make_sample.main, *arguments), precious.parents[1])
    assert precious.read_bytes() == b"years of work"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [precious]


@pytest.mark.parametrize("added", ["another's, of another length", "a link that leads nowhere"])
def test_a_sample_to_which_something_was_added_is_kept(tmp_path, added):
    made, preprocess = tmp_path / "temporary" / "h36m_pct", tmp_path / "preprocess"
    made.mkdir(parents=True)
    preprocess.mkdir()
    (made / "a.npy").write_bytes(b"ours")
    make_sample.install(made.parent, preprocess, ["h36m_pct"])
    make_sample.check_replaceable(preprocess, ["h36m_pct"])
    if "link" in added:
        (preprocess / "h36m_pct" / "b.npy").symlink_to("nowhere")
    else:
        (preprocess / "h36m_pct" / "a.npy").write_text(added)
    with pytest.raises(make_sample.InputError, match="h36m_pct"):
        make_sample.check_replaceable(preprocess, ["h36m_pct"])


def test_a_data_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    result = call(make_sample.main, "--data-dir", tmp_path / "file", "--frames", "2")
    assert_one_line_error(result, tmp_path / "file")
