import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from custom_files import PLACES
from raw_trees import assert_one_line_error, call

from common.files.npz import read_custom_2d
from common.files.video import write_video
from common.skeleton import coco_to_h36m
from data import prepare_2d_custom
from data.detect_2d import ESTIMATORS, main

WIDTH, HEIGHT, FRAMES = 320, 240, 12
POSES = np.random.default_rng(0).uniform([20, 20, 0.5], [200, 200, 1], (17, 3))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video whose brightness is the number of the frame, times 20; and whose red is brighter."""
    path = tmp_path_factory.mktemp("video") / "dance.mp4"
    pictures = [np.full((HEIGHT, WIDTH, 4), 20 * i, np.uint8) for i in range(FRAMES)]
    for picture in pictures:
        picture[..., 0] += 30
    write_video(path, pictures, fps=25)
    return path


def pose_of(picture, red):
    """Return the pose that belongs to a picture's brightness, and None for frame 5."""
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.flags.c_contiguous
    assert picture[..., red].mean() > picture[..., 2 - red].mean() + 20
    frame = round((picture[..., 1].mean()) / 20)
    return None if frame == 5 else POSES + [frame, 0, 0]


def fake_mediapipe():
    class Pose:
        def __init__(self, model_complexity):
            assert model_complexity == 1  # the model that the wheel holds

        def process(self, picture):
            pose = pose_of(picture, red=0)
            if pose is None:
                return SimpleNamespace(pose_landmarks=None)
            points = np.zeros((33, 3))
            points[list(PLACES["mediapipe"])] = pose / [WIDTH, HEIGHT, 1]
            landmark = [SimpleNamespace(x=x, y=y, z=0, visibility=v) for x, y, v in points]
            return SimpleNamespace(pose_landmarks=SimpleNamespace(landmark=landmark))

    module = ModuleType("mediapipe")
    module.solutions = SimpleNamespace(pose=SimpleNamespace(Pose=Pose))
    return module


def fake_rtmlib():
    def body(picture):
        pose = pose_of(picture, red=2)
        people = np.empty((0, 17, 3)) if pose is None else pose[None]
        return people[..., :2], people[..., 2]

    module = ModuleType("rtmlib")
    module.Body = lambda mode, backend, device: body
    return module


def fake_ultralytics():
    class Boxes:
        def __init__(self, people):
            self.xyxy = np.tile([10.0, 20, 30, 40], (people, 1))
            self.conf = np.full(people, 0.9)
            self.id = np.full(people, 7.0) if people else None

        def __len__(self):
            return len(self.xyxy)

        def cpu(self):
            return self

        numpy = cpu

    class YOLO:
        def __init__(self, name):
            assert name.endswith("-pose.pt")

        def track(self, picture, persist, verbose):
            assert persist
            pose = pose_of(picture, red=2)
            people = np.empty((0, 17, 3)) if pose is None else pose[None]
            keypoints = SimpleNamespace(data=torch.from_numpy(people))
            return [SimpleNamespace(keypoints=keypoints, boxes=Boxes(len(people)))]

    module = ModuleType("ultralytics")
    module.YOLO = YOLO
    return module


FAKES = {"mediapipe": fake_mediapipe, "rtmlib": fake_rtmlib, "ultralytics": fake_ultralytics}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_found_is_what_the_next_script_reads(estimator, video, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, estimator, FAKES[estimator]())
    output = tmp_path / "found.npy"
    result = call(main, "--video", video, "--estimator", estimator, "--output", output)
    assert result.status == 0, result.stderr
    assert f"{FRAMES - 1} of {FRAMES} frames" in result.stdout
    arguments = ("--input", output, "--video", video, "--name", "dance", "--data-dir", tmp_path)
    assert call(prepare_2d_custom.main, *arguments).status == 0
    positions, metadata = read_custom_2d(tmp_path / "data_2d_custom_dance.npz")
    assert metadata["dance"]["person"] == (7 if estimator == "ultralytics" else 1)
    moved = np.arange(FRAMES)[:, None, None] * [1, 0]
    expected = coco_to_h36m(POSES)[:, :2] + moved  # what is filled in frame 5 too
    np.testing.assert_allclose(positions["dance"], expected, atol=1e-3)


def test_what_cannot_be_done_is_one_line(video, tmp_path, monkeypatch):
    for estimator in ESTIMATORS:
        monkeypatch.setitem(sys.modules, estimator, None)  # as where it is not installed
        result = call(
            main, "--video", video, "--estimator", estimator, "--output", tmp_path / "a.npy"
        )
        assert_one_line_error(result, f"--estimator {estimator}", f"pip install {estimator}")
    module = ModuleType("rtmlib")
    module.Body = lambda **_: lambda picture: (np.empty((0, 17, 2)), np.empty((0, 17)))
    monkeypatch.setitem(sys.modules, "rtmlib", module)
    for path, says in ((video, "no person in any frame"), (tmp_path / "a.mp4", "no such file")):
        arguments = ("--video", path, "--estimator", "rtmlib", "--output", tmp_path / "a.npy")
        assert_one_line_error(call(main, *arguments), path, says)
    assert not list(tmp_path.iterdir())


def test_mediapipe_itself_runs(video, tmp_path):
    pytest.importorskip("mediapipe")
    arguments = ("--video", video, "--estimator", "mediapipe", "--output", tmp_path / "a.npy")
    assert_one_line_error(call(main, *arguments), "no person in any frame")
