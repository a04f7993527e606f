import math

import numpy as np
import pytest

from common.camera import (
    camera_to_world,
    image_coordinates,
    normalize_screen_coordinates,
    project,
    quaternion_inverse,
    quaternion_rotate,
    world_to_camera,
)
from common.h36m_cameras import load_cameras


def test_projection_agrees_with_the_golden_vectors(golden):
    pixels = project(
        golden["camera_points"].astype(np.float64), golden["camera_intrinsic"].astype(np.float64)
    )
    np.testing.assert_allclose(pixels, golden["camera_projected"], atol=1e-3)


def test_extrinsics_agree_with_the_golden_vectors(golden):
    in_camera = world_to_camera(
        golden["camera_points"].astype(np.float64),
        golden["extrinsic_quaternion"].astype(np.float64),
        golden["extrinsic_translation"].astype(np.float64),
    )
    np.testing.assert_allclose(in_camera, golden["world_to_camera"], atol=1e-5)


def test_normalisation_agrees_with_the_golden_vectors(golden):
    normalized = normalize_screen_coordinates(golden["pixels"], 1000, 1002)
    np.testing.assert_allclose(normalized, golden["pixels_normalized_1000x1002"], atol=1e-12)
    np.testing.assert_allclose(image_coordinates(normalized, 1000, 1002), golden["pixels"])


def test_normalisation_maps_the_edges_and_keeps_the_aspect_ratio():
    corners = np.array([[0.0, 0.0], [1000.0, 1002.0], [500.0, 501.0]])
    expected = [[-1, -1.002], [1, 1.002], [0, 0]]
    np.testing.assert_allclose(
        normalize_screen_coordinates(corners, 1000, 1002), expected, atol=1e-12
    )


def rotation_matrix(quaternion):
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_quaternions_rotate_as_their_matrices():
    random = np.random.default_rng(0)
    quaternion = random.normal(size=4)
    quaternion /= np.linalg.norm(quaternion)
    vectors = random.normal(size=(5, 17, 3))
    matrix = rotation_matrix(quaternion)
    np.testing.assert_allclose(quaternion_rotate(quaternion, vectors), vectors @ matrix.T)
    np.testing.assert_allclose(
        quaternion_rotate(quaternion_inverse(quaternion), vectors), vectors @ matrix
    )


def test_quaternions_broadcast():
    quaternions = np.array([[1.0, 0, 0, 0], [math.sqrt(0.5), 0, 0, math.sqrt(0.5)]])
    rotated = quaternion_rotate(quaternions, np.array([[1.0, 0, 0], [1.0, 0, 0]]))
    np.testing.assert_allclose(rotated, [[1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_world_and_camera_are_inverse():
    camera = load_cameras()["S1"][0]
    points = np.random.default_rng(0).normal(size=(4, 32, 3))
    there = world_to_camera(points, camera.orientation, camera.translation_m)
    back = camera_to_world(there, camera.orientation, camera.translation_m)
    # The published quaternions have unit length to seven digits only.
    np.testing.assert_allclose(back, points, atol=1e-6)
    np.testing.assert_allclose(
        world_to_camera(camera.translation_m, camera.orientation, camera.translation_m), 0
    )


def test_the_pinhole_is_the_projection_without_distortion():
    points = np.random.default_rng(0).uniform([-1, -1, 3], [1, 1, 6], (5, 17, 3))
    intrinsics = np.array([1100.0, 1090.0, 510.0, 505.0, 0, 0, 0, 0, 0])
    expected = points[..., :2] / points[..., 2:] * [1100, 1090] + [510, 505]
    np.testing.assert_allclose(project(points, intrinsics), expected)


def test_far_beyond_the_picture_the_projection_is_clamped():
    intrinsics = load_cameras()["S1"][0].intrinsics
    np.testing.assert_allclose(
        project(np.array([9.0, 0, 1]), intrinsics), project(np.array([1.0, 0, 1]), intrinsics)
    )


def test_cameras_broadcast_over_a_batch():
    intrinsics = np.stack([camera.intrinsics for camera in load_cameras()["S1"]])
    points = np.random.default_rng(0).uniform([-1, -1, 3], [1, 1, 6], (4, 7, 3))
    batched = project(points, intrinsics[:, None])
    for i in range(4):
        np.testing.assert_allclose(batched[i], project(points[i], intrinsics[i]))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (normalize_screen_coordinates, (np.zeros((5, 3)), 1000, 1000)),
        (image_coordinates, (np.zeros((5, 3)), 1000, 1000)),
        (quaternion_rotate, (np.zeros(3), np.zeros((5, 3)))),
        (quaternion_rotate, (np.zeros(4), np.zeros((5, 2)))),
        (quaternion_inverse, (np.zeros(3),)),
        (project, (np.zeros((5, 2)), np.zeros(9))),
        (project, (np.zeros((5, 3)), np.zeros(8))),
    ],
)
def test_wrong_last_dimensions_are_refused(function, arguments):
    with pytest.raises(ValueError, match="expected an array"):
        function(*arguments)
