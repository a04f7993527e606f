import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from custom_files import in_layout
from raw_trees import assert_one_line_error, call

from common.files.npz import read_custom_2d
from common.files.video import write_video
from common.footage import detection
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


def people_in(picture, red):
    """Return who belongs to a picture's brightness, (people, 17, 3): one, and nobody in frame 5."""
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.flags.c_contiguous
    assert picture[..., red].mean() > picture[..., 2 - red].mean() + 20
    frame = round(picture[..., 1].mean() / 20)
    return np.array([] if frame == 5 else [POSES + [frame, 0, 0]]).reshape(-1, 17, 3)


def fake_mediapipe():
    class Pose:
        def __init__(self, model_complexity):
            assert model_complexity == 1  # the model that the wheel holds

        def process(self, picture):
            landmarks = None
            for person in people_in(picture, red=0):
                points = in_layout(person / [WIDTH, HEIGHT, 1], "mediapipe")
                points = [SimpleNamespace(x=x, y=y, z=0, visibility=v) for x, y, v in points]
                landmarks = SimpleNamespace(landmark=points)
            return SimpleNamespace(pose_landmarks=landmarks)

    return SimpleNamespace(solutions=SimpleNamespace(pose=SimpleNamespace(Pose=Pose)))


def fake_rtmlib():
    def boxes(picture):
        return np.zeros((len(people_in(picture, red=2)), 4))

    def poses(picture, bboxes):
        assert len(bboxes)  # for none rtmlib finds a person in the whole picture
        people = people_in(picture, red=2)
        return people[..., :2], people[..., 2]

    body = SimpleNamespace(det_model=boxes, pose_model=poses)
    return SimpleNamespace(Body=lambda mode, backend, device: body)


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
            people = people_in(picture, red=2)
            keypoints = SimpleNamespace(data=torch.from_numpy(people))
            return [SimpleNamespace(keypoints=keypoints, boxes=Boxes(len(people)))]

    return SimpleNamespace(YOLO=YOLO)


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
    arguments = ("--estimator", "rtmlib", "--output", tmp_path / "a.npy", "--video")
    monkeypatch.setitem(sys.modules, "rtmlib", None)  # as where it is not installed
    assert_one_line_error(call(main, *arguments, video), "--estimator rtmlib", "pip install rtmlib")
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    monkeypatch.setattr(detection, "DETECTOR", tmp_path / "none")
    result = call(main, *arguments, video, "--estimator", "mediapipe")
    assert_one_line_error(result, "--estimator mediapipe", "make detector")
    body = SimpleNamespace(det_model=lambda picture: np.empty((0, 4)))
    rtmlib = SimpleNamespace(Body=lambda **_: body)
    monkeypatch.setitem(sys.modules, "rtmlib", rtmlib)
    for path, says in ((video, "no person in any frame"), (tmp_path / "a.mp4", "no such file")):
        assert_one_line_error(call(main, *arguments, path), path, says)
    body = SimpleNamespace(det_model=lambda picture: 1)
    dying = SimpleNamespace(Body=lambda **_: body)
    monkeypatch.setitem(sys.modules, "rtmlib", dying)
    result = call(main, *arguments, video)
    assert_one_line_error(result, "frame 0: the estimator failed (TypeError")
    assert not list(tmp_path.iterdir())


def test_mediapipe_itself_runs(video, tmp_path):
    pytest.importorskip("mediapipe")
    arguments = ("--video", video, "--estimator", "mediapipe", "--output", tmp_path / "a.npy")
    assert_one_line_error(call(main, *arguments), "no person in any frame")
