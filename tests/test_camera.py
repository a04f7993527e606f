import numpy as np
from scipy.spatial.transform import Rotation

from common.camera import (
    image_coordinates,
    load_cameras,
    normalize_screen_coordinates,
    project,
    quaternion_inverse,
    quaternion_rotate,
    world_to_camera,
)


def test_golden_vectors(golden):
    golden = {name: np.asarray(array, np.float64) for name, array in golden.items()}
    pixels = project(golden["camera_points"], golden["camera_intrinsic"])
    np.testing.assert_allclose(pixels, golden["camera_projected"], atol=1e-3)
    extrinsics = golden["extrinsic_quaternion"], golden["extrinsic_translation"]
    in_camera = world_to_camera(golden["camera_points"], *extrinsics)
    np.testing.assert_allclose(in_camera, golden["world_to_camera"], atol=1e-5)
    normalized = normalize_screen_coordinates(golden["pixels"], 1000, 1002)
    np.testing.assert_allclose(normalized, golden["pixels_normalized_1000x1002"], atol=1e-12)


def test_normalisation_maps_the_edges_and_keeps_the_aspect_ratio():
    corners = np.array([[0.0, 0.0], [1000.0, 1002.0], [500.0, 501.0]])
    normalized = normalize_screen_coordinates(corners, 1000, 1002)
    np.testing.assert_allclose(normalized, [[-1, -1.002], [1, 1.002], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(image_coordinates(normalized, 1000, 1002), corners, atol=1e-9)


def test_quaternions_rotate_as_scipys():
    rotation = Rotation.random(rng=0)
    quaternion = rotation.as_quat(scalar_first=True)
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    rotated = rotation.apply(vectors)
    np.testing.assert_allclose(quaternion_rotate(quaternion, vectors), rotated)
    np.testing.assert_allclose(quaternion_rotate(quaternion_inverse(quaternion), rotated), vectors)


def test_projection_is_clamped_beyond_the_picture_and_broadcasts():
    intrinsics = np.stack([camera.intrinsics for camera in load_cameras()["S1"]])
    far, edge = project(np.array([[9.0, 0, 1], [1.0, 0, 1]]), intrinsics[0])
    np.testing.assert_allclose(far, edge)
    points = np.random.default_rng(0).uniform([-1, -1, 3], [1, 1, 6], (4, 7, 3))
    batched = project(points, intrinsics[:, None])
    for i in range(4):
        np.testing.assert_allclose(batched[i], project(points[i], intrinsics[i]))
