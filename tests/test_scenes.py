"""Turned training windows against a loop in world coordinates."""

import numpy as np
import pytest
import torch
from test_generators import mirror

from common.camera import (
    camera_to_world,
    normalize_screen_coordinates,
    project,
    world_to_camera,
)
from common.generators import WindowGenerator
from common.h36m_cameras import load_cameras
from common.h36m_dataset import Sequence2d3d
from common.scenes import TurnedWindows

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
    )


SEQUENCES = [("S1", 0, 7), ("S1", 3, 1), ("S8", 2, 12)]


def generators(turn_degrees, resize, confidences=0, **options):
    data = [make_sequence(*s, i, confidences) for i, s in enumerate(SEQUENCES)]
    options = {"device": "cpu", "confidences": confidences, "augment": True, **options}
    plain = WindowGenerator([s.keypoints for s in data], [s.poses for s in data], FRAMES, **options)
    turned = TurnedWindows(data, FRAMES, turn_degrees=turn_degrees, resize=resize, **options)
    return data, plain, turned


def test_no_turn_gives_the_windows_as_they_are():
    _, plain, turned = generators(0, 0, confidences=2)
    indices = torch.arange(len(plain))
    for found, expected in zip(turned.gather(indices), plain.gather(indices)):
        np.testing.assert_allclose(found, expected, atol=2e-6)


def in_world(sequence, t, angle, factor):
    """One window turned about the world's vertical, by NumPy in float64: input and target."""
    view = load_cameras()[sequence.subject][sequence.camera]
    frames = np.clip(np.arange(t - FRAMES // 2, t + FRAMES // 2 + 1), 0, len(sequence.poses) - 1)
    poses = sequence.poses[frames].astype(np.float64) + sequence.root[frames, None]
    to_world = view.orientation, view.translation_m
    hip = camera_to_world(sequence.root[t].astype(np.float64), *to_world)
    c, s = np.cos(angle), np.sin(angle)
    turn = factor * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    moved = (camera_to_world(poses, *to_world) - hip) @ turn.T + hip
    seen = world_to_camera(moved, *to_world)

    def normalized(points):
        return normalize_screen_coordinates(
            project(points, view.intrinsics), view.width, view.height
        )

    window = sequence.keypoints[frames].astype(np.float64)
    window[..., :4] += np.tile(normalized(seen) - normalized(poses), 2)
    middle = seen[FRAMES // 2]
    return window, middle - middle[0]


@pytest.mark.parametrize("confidences", [0, 2])
def test_windows_are_those_of_a_loop_in_world_coordinates(confidences):
    data, _, turned = generators(120, 0.2, confidences)
    indices = torch.randperm(len(turned), generator=torch.manual_seed(3))
    turned.start_epoch(5, 1)
    inputs, targets = turned.gather(indices)
    angles, factors = turned.draws[indices].double().T
    places = [(s, t) for s in data for t in range(len(s.poses))]
    sides = set()
    for i, index in enumerate(indices.tolist()):
        sequence, t = places[index % len(places)]
        angle, factor = np.radians(120) * angles[i].item(), 1 + 0.2 * factors[i].item()
        window, target = in_world(sequence, t, angle, factor)
        if index >= len(places):
            window, target = mirror(window, [0, 2]), mirror(target, [0])
        np.testing.assert_allclose(inputs[i], window, atol=1e-5)
        np.testing.assert_allclose(targets[i], target, atol=1e-5)
        sides.add(np.sign(angle))
    assert sides == {-1, 1}


def test_the_hip_stays_and_each_epoch_shows_another_side():
    _, plain, turned = generators(180, 0.05, augment=False)
    indices = torch.arange(len(plain))
    seen = []
    for epoch in (1, 2):
        turned.start_epoch(0, epoch)
        inputs, targets = turned.gather(indices)
        hips = inputs[:, FRAMES // 2, 0]
        np.testing.assert_allclose(hips, plain.gather(indices)[0][:, FRAMES // 2, 0], atol=1e-5)
        ratios = (targets.norm(dim=-1) / plain.gather(indices)[1].norm(dim=-1))[:, 1:]
        assert (ratios > 0.949).all() and (ratios < 1.051).all()
        torch.testing.assert_close(ratios, ratios[:, :1].expand_as(ratios), atol=1e-5, rtol=0)
        seen.append(targets)
    assert (seen[0] - seen[1]).abs().max() > 0.1


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
