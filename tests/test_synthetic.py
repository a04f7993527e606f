"""Synthetic people and their films: bodies that could be, cameras that could see them."""

import numpy as np
import pytest
import torch

from common.camera import follow_person
from common.footage.layouts import POINT_PARENTS
from common.footage.tracks import Track, fill_gaps
from common.generators import flip_poses
from common.loss import mpjpe
from common.skeleton import JOINTS_32_TO_17
from common.synthetic import filming, people
from common.synthetic.bodies import LIMITS, PARENTS, SITES
from common.synthetic.filming import FilmedWindows, film, film_people, filmed_sequences

FRAMES = 60


@pytest.fixture(scope="module")
def crowd():
    random = np.random.default_rng(5)
    return np.stack([people.make_person(random, FRAMES) for _ in range(60)])


def lengths(joints, pairs):
    return np.stack(
        [np.linalg.norm(joints[..., a, :] - joints[..., b, :], axis=-1) for a, b in pairs]
    )


def test_bones_keep_their_lengths_and_both_sides_are_alike(crowd):
    bones = lengths(crowd, [(j, p) for j, p in enumerate(PARENTS) if p >= 0])
    assert np.ptp(bones, axis=-1).max() < 1e-6
    left = [(6, 7), (7, 8), (17, 18), (18, 19)]  # thigh, shin, upper arm, forearm
    right = [(1, 2), (2, 3), (25, 26), (26, 27)]
    np.testing.assert_allclose(lengths(crowd, left), lengths(crowd, right), atol=1e-6)


def test_people_are_as_tall_as_people_and_stand_on_the_floor(crowd):
    body = crowd[:, 0][:, JOINTS_32_TO_17]
    leg, trunk = (
        lengths(body, [(1, 2), (2, 3)]).sum(axis=0),
        lengths(body, [(7, 0), (8, 7)]).sum(axis=0),
    )
    assert 0.75 < np.median(leg) < 0.9 and 0.4 < np.median(trunk) < 0.55
    assert leg.min() > 0.4 and leg.max() < 1.15
    assert crowd[..., 2].min() > -0.02 and crowd[..., 2].min(axis=(1, 2)).max() < 0.1


def test_motion_is_smooth_and_no_two_people_do_the_same(crowd):
    speed = np.linalg.norm(np.diff(crowd[:, :, JOINTS_32_TO_17], axis=1), axis=-1) * 50
    assert np.median(speed) < 1 and speed.max() < 15  # metres a second: a fast punch has 10
    poses = (crowd - crowd[:, :, :1])[:, 30, JOINTS_32_TO_17]
    apart = np.linalg.norm(poses[:, None] - poses[None], axis=-1).mean(axis=-1)
    assert apart[~np.eye(len(poses), dtype=bool)].min() > 0.05


def test_random_poses_stay_within_the_limits_of_the_joints():
    random = np.random.default_rng(0)
    poses = np.stack([people._random_pose(random) for _ in range(500)])
    inside = (poses >= LIMITS[..., 0] - 1e-9) & (poses <= LIMITS[..., 1] + 1e-9)
    assert inside.all()
    elbow = np.degrees(poses[:, SITES.index("left_elbow"), 0])
    assert elbow.min() < 10 and elbow.max() > 135  # and they use them


def test_without_errors_rays_are_the_projection_of_the_poses(monkeypatch, crowd):
    """The ankles', knees' and wrists', which COCO and Human3.6M share."""
    monkeypatch.setattr(filming, "_ERROR", 0.0)
    monkeypatch.setattr(filming, "_KNOWN_FOCAL", 1.0)
    monkeypatch.setattr(filming, "_lose", lambda *_: None)
    monkeypatch.setattr(filming, "Estimator", lambda *a, **k: filming_estimator(*a))
    random, shared = np.random.default_rng(3), [2, 3, 5, 6, 12, 13, 15, 16]
    for joints in crowd[:20]:
        rays, poses = film(random, joints)
        # The hip's place follows by least squares: x (Z + z) = X + hip's x, and so for y.
        x, y = np.moveaxis(rays[:, shared].reshape(len(rays), -1, 2), -1, 0)
        points = poses[:, shared]
        zero, one = np.zeros_like(x), np.ones_like(x)
        left = np.concatenate(
            [np.stack([one, zero, -x], -1), np.stack([zero, one, -y], -1)], axis=1
        )
        right = np.concatenate(
            [x * points[..., 2] - points[..., 0], y * points[..., 2] - points[..., 1]], axis=1
        )
        for a, b in zip(left, right):
            hip, *_ = np.linalg.lstsq(a, b, rcond=None)
            assert np.abs(a @ hip - b).max() < 1e-5 and hip[2] > 1


def filming_estimator(name, error, hidden):
    from common.synthetic.estimators import Estimator

    return Estimator(name, error, hidden, jump=0, swap=0, missing=0)


def test_the_following_camera_looks_at_the_person_and_turns_back():
    random = np.random.default_rng(1)
    points = random.normal(0, 0.5, (40, 17, 3)) + [1.5, -0.8, 4]
    rays, turns = follow_person(points[..., :2] / points[..., 2:])
    np.testing.assert_allclose(
        turns @ np.swapaxes(turns, -1, -2), np.eye(3)[None].repeat(40, 0), atol=1e-12
    )
    seen = points @ np.swapaxes(turns, -1, -2)
    np.testing.assert_allclose(seen[..., :2] / seen[..., 2:], rays, atol=1e-12)
    assert np.abs(rays.mean(axis=(0, 1))).max() < 0.02
    assert np.abs(turns[:, 0, 1]).max() < 1e-12  # it does not roll: its x axis stays level


def test_films_follow_from_the_seed_and_epochs_have_new_people():
    windows = FilmedWindows(4, 9, device="cpu", augment=True, stride=5)
    windows.start_epoch(3, 1)
    first = windows.gather(torch.arange(len(windows)))
    windows.start_epoch(3, 2)
    second = windows.gather(torch.arange(len(windows)))
    windows.start_epoch(3, 1)
    again = windows.gather(torch.arange(len(windows)))
    assert all(map(torch.equal, first, again)) and not torch.equal(first[0], second[0])
    half = len(windows) // 2
    assert mpjpe(flip_poses(first[1][:half]), first[1][half:]) < 1e-6


def test_validation_people_are_others():
    (inputs, *_), _ = film_people(np.random.default_rng([0, 1]), 1)
    sequences = filmed_sequences(filming.VALIDATION_SEED, 2)
    assert not np.array_equal(sequences[0].keypoints, inputs)
    assert {s.keypoints.shape for s in sequences} == {(FRAMES, 17, 2)}
    assert all(not s.poses[:, 0].any() for s in sequences)


def test_lost_points_are_filled_as_those_of_footage_are(monkeypatch):
    random = np.random.default_rng(2)
    found = random.normal(0, 1, (FRAMES, 17, 2))
    keypoints = found.copy()
    monkeypatch.setattr(filming, "_CUT_OFF", 1.0)
    monkeypatch.setattr(filming, "_GAPS", 1.0)
    filming._lose(random, keypoints)
    seen = found.copy()
    seen[(keypoints != found).any(axis=-1)] = np.nan
    seen[:, 15:] = np.nan  # the ankles, of which the first frame may be where it was
    track = Track(1, np.arange(FRAMES), seen, 0.0)
    np.testing.assert_allclose(fill_gaps(track, POINT_PARENTS["coco"]).keypoints, keypoints)
