import copy
from dataclasses import asdict

import numpy as np
import pytest
import torch

from common.camera import normalize_screen_coordinates
from common.evaluation import predict
from common.files.console import InputError
from common.footage.lifting import StreamingLifter, lift, load_lifter
from common.generators import flip_keypoints, flip_poses
from common.h36m_dataset import FPS
from common.model_poseformer import PoseFormerConfig, PoseFormerV2
from common.skeleton import coco_to_h36m

SIZE = (640, 480)


def random_model(**config):
    torch.manual_seed(0)
    model = PoseFormerV2(PoseFormerConfig(embed_dim_ratio=8, depth=2, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model():
    return random_model(number_of_frames=27)


def save(model, path):
    torch.save({"model_pos": model.state_dict(), "config": asdict(model.config)}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    return save(model, tmp_path_factory.mktemp("checkpoint") / "random.bin")


def moving(frames, seed=0):
    """Return (frames, 17, 2), pixels: points on smooth paths."""
    random = np.random.default_rng(seed)
    start, phase = random.uniform(100, 400, (17, 2)), random.uniform(0, 6, (17, 2))
    return start + 30 * np.sin(np.arange(frames)[:, None, None] / 9 + phase)


def hip_at_zero(poses):
    """The other joints stay where the network puts them."""
    return np.concatenate([0 * poses[:, :1], poses[:, 1:]], axis=1)


@pytest.mark.parametrize("frames", [1, 40])
def test_at_50_hz_it_is_the_evaluations_estimate(model, checkpoint, frames):
    pixels = moving(frames)
    inputs = normalize_screen_coordinates(pixels, *SIZE).astype(np.float32)
    (expected,) = predict(model, [inputs], device="cpu")
    poses = lift(pixels, checkpoint, size=SIZE)
    np.testing.assert_allclose(poses, hip_at_zero(expected), atol=1e-6)
    assert poses.dtype == np.float32 and not poses[:, 0].any()


def test_channels_after_x_and_y_are_not_used_and_layouts_are_converted(model):
    keypoints = np.concatenate([moving(8), np.full((8, 17, 1), 0.5)], axis=-1)
    poses = lift(keypoints, model, size=SIZE, layout="coco")
    expected = lift(coco_to_h36m(keypoints)[..., :2], model, size=SIZE)
    np.testing.assert_allclose(poses, expected, atol=1e-6)


def test_other_rates_are_brought_to_50_hz_and_back(model):
    pixels = moving(61)
    expected = lift(pixels[::3], model, size=SIZE)
    poses = lift(pixels, model, size=SIZE, fps=3 * FPS)
    assert poses.shape == (61, 17, 3)
    np.testing.assert_allclose(poses[::3], expected, atol=1e-5)
    # A lower rate is lifted nearly as the full one.
    full, half = lift(pixels, model, size=SIZE), lift(pixels[::2], model, size=SIZE, fps=25)
    as_if_50 = lift(pixels[::2], model, size=SIZE)
    assert np.abs(half - full[::2]).mean() < 0.02 * np.abs(as_if_50 - full[::2]).mean()


@pytest.mark.parametrize("causal", [False, True])
def test_a_network_of_another_rate_gets_that(model, tmp_path, causal):
    pixels, how = moving(41), {"size": SIZE, "causal": causal}
    expected = lift(pixels, model, **how)
    slow = copy.copy(model)
    slow.fps = FPS / 5  # as `Checkpoint.build_model` notes it
    np.testing.assert_array_equal(lift(pixels, slow, fps=FPS / 5, **how), expected)
    if causal:
        stream = StreamingLifter(slow, size=SIZE, fps=FPS / 5)
        np.testing.assert_allclose([stream.push(p) for p in pixels], expected, atol=1e-5)


@torch.no_grad()
def test_causal_lifting_sees_the_past_alone(model):
    pixels, half = moving(30), model.config.number_of_frames // 2
    inputs = normalize_screen_coordinates(pixels, *SIZE).astype(np.float32)
    poses = lift(pixels, model, size=SIZE, causal=True)
    for t in (0, 1, 13, 29):
        frames = [max(0, t + k) if k < 0 else t for k in range(-half, half + 1)]
        window = torch.from_numpy(inputs[frames])[None]
        pose = (model(window)[0] + flip_poses(model(flip_keypoints(window))[0])) / 2
        np.testing.assert_allclose(poses[t], hip_at_zero(pose.numpy())[0], atol=1e-5)


@pytest.mark.parametrize(("fps", "flip"), [(24, True), (120, False)])
def test_streaming_gives_what_causal_lifting_of_the_file_gives(model, checkpoint, fps, flip):
    pixels = moving(40)
    expected = lift(pixels, model, size=SIZE, fps=fps, causal=True, flip=flip)
    stream = StreamingLifter(checkpoint, size=SIZE, fps=fps, flip=flip)
    poses = np.stack([stream.push(frame) for frame in pixels])
    np.testing.assert_allclose(poses, expected, atol=1e-5)


def test_causal_lifting_at_twice_the_rate_sees_the_same_past(model):
    pixels = moving(41)
    poses = lift(pixels, model, size=SIZE, fps=100, causal=True)
    expected = lift(pixels[::2], model, size=SIZE, causal=True)
    np.testing.assert_allclose(poses[::2], expected, atol=1e-5)


def test_a_checkpoint_of_several_estimators_is_refused(tmp_path):
    path = save(random_model(number_of_frames=9, in_chans=6), tmp_path / "three.bin")
    with pytest.raises(InputError, match=r"three\.bin was trained with 6"):
        load_lifter(path)


@pytest.mark.parametrize("causal", [False, True])
def test_a_network_that_sees_the_person_does_not_care_where_the_camera_looks(causal):
    """The same motion before a camera that is panned gives the same poses, turned."""
    model, focal, size = random_model(view="person"), 700.0, (1280, 720)
    random = np.random.default_rng(4)
    points = np.cumsum(random.normal(0, 0.01, (40, 17, 3)), axis=0) + random.normal(0, 0.4, (17, 3))
    pan = np.radians(25)
    turn = np.array([[np.cos(pan), 0, np.sin(pan)], [0, 1, 0], [-np.sin(pan), 0, np.cos(pan)]])
    how = {"size": size, "focal_px": focal, "causal": causal}
    straight, panned = (
        lift(focal * x[..., :2] / x[..., 2:] + np.divide(size, 2), model, **how)
        for x in (points + [0, 0, 4], (points + [0, 0, 4]) @ turn.T)
    )
    np.testing.assert_allclose(panned, straight @ turn.T, atol=1e-3)
    assert np.abs(panned - straight).max() > 0.5


def test_streaming_sees_the_person_as_causal_lifting_does():
    model, pixels = random_model(view="person", number_of_frames=9), moving(15)
    stream = StreamingLifter(model, size=SIZE, fps=30, focal_px=500)
    poses = np.stack([stream.push(points) for points in pixels])
    expected = lift(pixels, model, size=SIZE, fps=30, focal_px=500, causal=True)
    np.testing.assert_allclose(poses, expected, atol=1e-5)
