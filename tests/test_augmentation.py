"""Augmented training windows against a loop in world coordinates."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_generators import mirror

from common.augmentation import AugmentedWindows, exchange_limbs
from common.camera import (
    camera_to_world,
    load_cameras,
    normalize_screen_coordinates,
    project,
    world_to_camera,
)
from common.generators import WindowGenerator
from common.h36m_dataset import Sequence2d3d

FRAMES = 5


def make_sequence(subject, camera, length, seed, confidences=0):
    """A crowd of points that walks through the room, as one of the cameras sees it."""
    random = np.random.default_rng(seed)
    root_m = np.cumsum(random.normal(0, 0.03, (length, 3)), axis=0) + (0, 0, 1)
    world_m = root_m[:, None] + random.normal(0, 0.3, (length, 17, 3))
    world_m[:, 0] = root_m
    view = load_cameras()[subject][camera]
    poses = world_to_camera(world_m, view.orientation, view.translation_m)
    pixels = [project(poses, view.intrinsics) + random.normal(0, 9, (length, 17, 2)) for _ in "ab"]
    keypoints = [normalize_screen_coordinates(p, view.width, view.height) for p in pixels]
    keypoints.append(random.uniform(0, 1, (length, 17, confidences)))
    root = poses[:, 0]
    return Sequence2d3d(
        subject,
        "Walking",
        camera,
        np.concatenate(keypoints, axis=-1).astype(np.float32),
        (poses - root[:, None]).astype(np.float32),
        root.astype(np.float32),
        confidences,
    )


SEQUENCES = [("S1", 0, 7), ("S1", 3, 1), ("S8", 2, 12)]


def generators(turn_degrees, resize, exchange=0.0, confidences=0, exchange_epochs=9, **options):
    data = [make_sequence(*s, i, confidences) for i, s in enumerate(SEQUENCES)]
    options = {"device": "cpu", "augment": True, **options}
    arrays = [s.keypoints for s in data], [s.poses for s in data]
    plain = WindowGenerator(*arrays, FRAMES, confidences=confidences, **options)
    scenes = {"turn_degrees": turn_degrees, "resize": resize, "exchange_limbs": exchange}
    scenes["exchange_epochs"] = exchange_epochs
    turned = AugmentedWindows(data, FRAMES, **scenes, **options)
    return data, plain, turned


def test_no_turn_gives_the_windows_as_they_are():
    _, plain, turned = generators(0, 0, confidences=2)
    indices = torch.arange(len(plain))
    for found, expected in zip(turned.gather(indices), plain.gather(indices)):
        np.testing.assert_allclose(found, expected, atol=2e-6)


def normalized(points, view):
    """Points in camera coordinates as the camera sees them, in normalised coordinates."""
    return normalize_screen_coordinates(project(points, view.intrinsics), view.width, view.height)


def errors_of(sequence, frames):
    """What two estimators did wrong in these frames, then their confidences."""
    points = sequence.poses[frames].astype(np.float64) + sequence.root[frames, None]
    keypoints = sequence.keypoints[frames].astype(np.float64)
    view = load_cameras()[sequence.subject][sequence.camera]
    keypoints[..., :4] -= np.tile(normalized(points, view), 2)
    return keypoints


def window_frames(sequence, t):
    return np.clip(np.arange(t - FRAMES // 2, t + FRAMES // 2 + 1), 0, len(sequence.poses) - 1)


def pose_in_world(sequence, frame):
    """The pose (17, 3) of a frame about its hip, in the directions of the world."""
    view = load_cameras()[sequence.subject][sequence.camera]
    return camera_to_world(sequence.poses[frame].astype(np.float64), view.orientation, np.zeros(3))


def with_limbs_of(own, other, limbs):
    """A pose (17, 3) with the chosen of: both legs, left arm, right arm, of another."""
    result = own.copy()
    other = other * np.clip(np.linalg.norm(own[1]) / np.linalg.norm(other[1]), 0.5, 2)
    heading = [np.arctan2(*(pose[4] - pose[1])[1::-1]) for pose in (own, other)]
    c, s = np.cos(heading[0] - heading[1]), np.sin(heading[0] - heading[1])
    if limbs[0]:
        result[1:7] = other[1:7] @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])

    def trunk(pose):  # upwards, and across trunk and shoulders
        axes = np.stack([pose[8], np.cross(pose[8], pose[11] - pose[14])])
        return axes / np.linalg.norm(axes, axis=1, keepdims=True)

    turn = Rotation.align_vectors(trunk(own), trunk(other))[0]
    for chosen, shoulder in zip(limbs[1:], (11, 14)):
        for joint in (shoulder + 1, shoulder + 2):
            if chosen:
                result[joint] = own[shoulder] + turn.apply(other[joint] - other[shoulder])
    return result


def in_world(sequence, t, angle, factor, other, other_t, limbs, later):
    """One window as a new scene, in world coordinates by NumPy in float64: input and target.

    It may lie some frames later, in the same scene.
    """
    view = load_cameras()[sequence.subject][sequence.camera]
    to_world = view.orientation, view.translation_m
    frames, other_frames = (
        window_frames(s, at + later) for s, at in ((sequence, t), (other, other_t))
    )
    hips = camera_to_world(sequence.root.astype(np.float64), *to_world)
    hip = hips[t]
    poses = [
        with_limbs_of(pose_in_world(sequence, i), pose_in_world(other, j), limbs) + hips[i]
        for i, j in zip(frames, other_frames)
    ]
    c, s = np.cos(angle), np.sin(angle)
    turn = factor * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    seen = world_to_camera((np.stack(poses) - hip) @ turn.T + hip, *to_world)

    window = errors_of(sequence, frames)
    others = errors_of(other, other_frames)
    for chosen, joints in zip(limbs, (slice(1, 7), slice(12, 14), slice(15, 17))):
        if chosen:
            window[:, joints] = others[:, joints]
    window[..., :4] += np.tile(normalized(seen, view), 2)
    middle = seen[FRAMES // 2]
    return window, middle - middle[0]


@pytest.mark.parametrize("is_cuda", [False, True])  # which chooses how 3 × 3 matrices are applied
@pytest.mark.parametrize(
    ("exchange", "confidences", "later"), [(0.0, 0, 0), (0.5, 2, 0), (0.5, 0, 1)]
)
def test_windows_are_those_of_a_loop_in_world_coordinates(
    monkeypatch, exchange, confidences, later, is_cuda
):
    monkeypatch.setattr(torch.Tensor, "is_cuda", is_cuda, raising=False)
    data, _, turned = generators(120, 0.2, exchange, confidences)
    indices = torch.randperm(len(turned), generator=torch.manual_seed(3))
    turned.start_epoch(5, 1)
    inputs, targets = turned.gather(indices, later)
    angles, factors = turned.draws[indices].double().T
    places = [(s, t) for s in data for t in range(len(s.poses))]
    sides, exchanged = set(), []
    for i, index in enumerate(indices.tolist()):
        sequence, t = places[index % len(places)]
        angle, factor = np.radians(120) * angles[i].item(), 1 + 0.2 * factors[i].item()
        limbs = (turned.limb_draws[index] < exchange).tolist()
        other, other_t = places[turned.others[index].item()]
        window, target = in_world(sequence, t, angle, factor, other, other_t, limbs, later)
        if index >= len(places):
            window, target = mirror(window, [0, 2]), mirror(target, [0])
        np.testing.assert_allclose(inputs[i], window, atol=1e-5)
        np.testing.assert_allclose(targets[i], target, atol=1e-5)
        sides.add(np.sign(angle))
        exchanged.append(limbs)
    assert sides == {-1, 1}
    parts = np.mean(exchanged, axis=0)
    assert (parts > exchange - 0.3).all() and (parts < exchange + 0.3).all()


def test_turns_follow_from_seed_and_epoch_and_leave_other_chance_alone():
    _, plain, turned = generators(180, 0.05)
    _, _, again = generators(180, 0.05)
    before = torch.get_rng_state()
    order = turned.start_epoch(3, 7)
    assert torch.equal(order, plain.start_epoch(3, 7))  # as without turns
    again.start_epoch(3, 6)
    first = again.gather(order)[0]
    again.start_epoch(3, 7)
    assert torch.equal(turned.gather(order)[0], again.gather(order)[0])
    assert not torch.equal(turned.gather(order)[0], first)
    assert torch.equal(torch.get_rng_state(), before)
    assert turned.draws.min() < -0.5 and turned.draws.max() > 0.5


def test_limbs_are_exchanged_until_their_time_has_passed():
    _, plain, turned = generators(0, 0, exchange=1.0, exchange_epochs=1.5)
    for epoch, part in ((1, 1.0), (2, 0.5), (3, 0.0)):
        order = turned.start_epoch(0, epoch)
        difference = (turned.gather(order)[0] - plain.gather(order)[0]).abs().flatten(1)
        exchanged = difference.amax(dim=1) > 1e-4
        until = round(part * len(order))
        assert exchanged[:until].sum() >= 0.8 * until  # another window may be the same one
        assert not exchanged[until:].any()


def test_bodies_without_width_stay_finite_and_small():
    own = torch.from_numpy(make_sequence("S1", 0, 9, 1).poses)[None]
    flat = own.clone()
    flat[:, :, [1, 4]] = 0
    up = torch.tensor([[0.0, -1.0, 0.0]])
    for motion, other in ((own, flat), (flat, own), (flat, torch.zeros_like(own))):
        found = exchange_limbs(motion, other, up, up)
        assert found.isfinite().all() and found.abs().max() < 4 * own.abs().max()
