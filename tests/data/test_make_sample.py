import os
import subprocess
import sys
import time

import cdflib
import numpy as np
import pytest
from conftest import REPOSITORY
from raw_trees import assert_one_line_error, call

from common.camera import CAMERA_IDS, load_cameras, project, world_to_camera
from common.h36m_dataset import ACTIONS, SUBJECTS, action_class
from data import make_sample

FRAMES = 120
COCO_LIMBS = [17, 25, 18, 26, 19, 27, 6, 1, 7, 2, 8, 3]  # the rows of COCO's keypoints 5 to 16
ESTIMATORS = ("vitpose", "pct", "moganet", "transpose")


@pytest.fixture(scope="module")
def sample(run_script, tmp_path_factory):
    """A sample of two subjects, made from another working directory."""
    folder = tmp_path_factory.mktemp("sample")
    arguments = ["--data-dir", folder, "--frames", FRAMES, "--subjects", "S1,S9", "--seed", 3]
    result = run_script("data/make_sample.py", *arguments, cwd=folder)
    assert len(result.stdout.splitlines()) == 1 and "60 sequences" in result.stdout
    return folder / "preprocess"


@pytest.fixture(scope="module")
def positions(sample):
    """{(subject, file name): (frames, 32, 3)}, mm, read with cdflib alone."""
    paths = sample.glob("cdf_files/*/MyPoseFeatures/D3_Positions/*.cdf")
    return {(path.parents[2].name, path.stem): read_cdf(path) for path in paths}


def read_cdf(path):
    pose = cdflib.CDF(path).varget("Pose")
    assert pose.dtype == np.float32 and pose.ndim == 3 and pose.shape[::2] == (1, 96)
    return pose.reshape(-1, 32, 3).astype(np.float64)


def load_detections(preprocess, estimator, subject, name, camera):
    name = f"{name}_{camera}_pose_sequence.npy"
    return np.load(preprocess / f"h36m_{estimator}" / subject / name, allow_pickle=True)


def describe(content):
    """All types, shapes and precisions of the entries of an estimator's file."""
    entries = content if content.ndim else [{"pose": p} for p in content.item().values()]
    values = [{k: getattr(v, "dtype", type(v)) for k, v in entry.items()} for entry in entries]
    return {str((kinds, [np.shape(v) for v in e.values()])) for kinds, e in zip(values, entries)}


def pixels(points_mm, camera):
    points = world_to_camera(points_mm / 1000, camera.orientation, camera.translation_m)
    return project(points, camera.intrinsics)


def test_files_are_those_of_human36m(sample, real_mocap):
    roots, walking = (sample, real_mocap), ("S1", "Walking", CAMERA_IDS[0])
    ours, real = ({p.name for p in root.rglob("S1/*/*/*.cdf")} for root in roots)
    assert ours == real and len(ours) == 30
    for estimator in ESTIMATORS:
        assert len([*(sample / f"h36m_{estimator}").rglob("*.npy")]) == 60 * 4
        ours, real = (load_detections(root, estimator, *walking) for root in roots)
        assert (ours.dtype, ours.ndim) == (real.dtype, real.ndim)
        assert describe(ours) == describe(real)
    # The first camera's videos are a frame longer than the motion capture.
    for camera, frames in zip(CAMERA_IDS, (FRAMES + 1, FRAMES, FRAMES, FRAMES)):
        poses = load_detections(sample, "transpose", "S9", "Walking", camera).item()
        assert list(poses) == list(range(frames))


def test_every_action_has_two_files_named_as_the_subject_has_them():
    for subject in SUBJECTS:
        names = make_sample.file_names(subject)
        assert len(set(names)) == 30
        assert sorted(map(action_class, names)) == sorted(2 * ACTIONS)
    assert {"Photo", "Photo 2", "Discussion 2"} < set(make_sample.file_names("S5"))


def test_the_seed_alone_decides_what_a_file_holds(sample, tmp_path):
    *_, clip = make_sample.plan_clips(["S9"], FRAMES, seed=3)
    same, other = tmp_path / "same", tmp_path / "other"
    make_sample.write_clip(same, clip)
    make_sample.write_clip(other, clip._replace(seed=4))
    files = [path.relative_to(same) for path in same.rglob("*.*")]
    assert len(files) == 17
    for file in files:
        assert (same / file).read_bytes() == (sample / file).read_bytes()
        assert (other / file).read_bytes() != (sample / file).read_bytes()


def test_motion_is_smooth_on_the_floor_and_seen_by_all_cameras(positions):
    for (subject, name), pose in positions.items():
        lowest = pose[..., 2].min(axis=1)
        assert lowest.min() > -5 and lowest.max() < 45, name
        velocity = 50 * np.diff(pose / 1000, axis=0)
        assert np.linalg.norm(velocity, axis=-1).max() < 7, name
        assert np.linalg.norm(50 * np.diff(velocity, axis=0), axis=-1).max() < 150, name
        for camera in load_cameras()[subject]:
            seen = pixels(pose, camera)
            assert seen.min() > 0 and (seen.max((0, 1)) < [camera.width, camera.height]).all()


def test_errors_are_plausible_and_confidences_tell_of_them(sample, positions):
    means = []
    for estimator in ESTIMATORS:
        rows, crowded, missing = [], 0, 0
        for (subject, name), pose in positions.items():
            content = load_detections(sample, estimator, subject, name, CAMERA_IDS[2])
            if estimator == "transpose":
                people = [(t, 1, p[0]) for t, p in content.item().items() if p is not None]
            else:
                people = [(p["frame"], p["bbox"][4], p["keypoints"]) for p in content]
            best = [(t, keypoints[5:]) for t, score, keypoints in people if score > 0.8]
            frames, limbs = [t for t, _ in best], np.array([limbs for _, limbs in best])
            assert frames == sorted(set(frames)) and frames[-1] == FRAMES - 1
            crowded, missing = crowded + len(people) - len(best), missing + FRAMES - len(best)
            truth = pixels(pose[frames][:, COCO_LIMBS], load_cameras()[subject][2])
            rows.append((limbs[..., :2] - truth, limbs[..., 2]))
        error, confidence = map(np.concatenate, zip(*rows))
        size = np.linalg.norm(error, axis=-1)
        means.append(size.mean())
        ranks = [values.ravel().argsort().argsort() for values in (size, confidence)]
        assert np.corrcoef(*ranks)[0, 1] < -0.15, estimator
        assert (confidence.max() > 2) == (estimator == "pct")
        calm = error.clip(-15, 15)
        assert np.mean(calm[1:] * calm[:-1]) > 0.6 * np.mean(calm**2), estimator
        assert np.abs(np.median(error, axis=0)).mean() > 0.3, estimator
        assert (crowded > 0.005 * 60 * FRAMES) == (estimator != "transpose")
        assert 0.0005 < missing / (60 * FRAMES) < 0.05
    assert means[0] > 3.5 and means == sorted(means) and means[-1] < 15


@pytest.mark.parametrize("arguments", ["--frames 0", "--subjects S2"])
def test_bad_usage_is_one_line(tmp_path, arguments):
    result = call(make_sample.main, "--data-dir", tmp_path, *arguments.split())
    assert_one_line_error(result, arguments.split()[0].strip("-").removesuffix("s"))
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("theirs", ["another file", "another length"])
def test_files_of_others_are_never_touched(tmp_path, theirs):
    arguments = ["--data-dir", tmp_path, "--frames", "1", "--subjects", "S1"]
    folder = tmp_path / "preprocess" / "h36m_pct"
    if theirs == "another length":
        for _ in range(2):  # an earlier sample is replaced
            assert call(make_sample.main, *arguments).status == 0
        next(folder.rglob("*.npy")).write_bytes(b"years of work")
    else:
        folder.mkdir(parents=True)
        (folder / "precious.npy").write_bytes(b"years of work")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert_one_line_error(call(make_sample.main, *arguments), folder)
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
