import numpy as np
import pytest
from scipy.interpolate import CubicHermiteSpline
from scipy.spatial.transform import Rotation

from common.camera import quaternion_rotate
from common.motion import (
    bone_variation_percent,
    jitter_m_s3,
    lowpass,
    orientation_of_camera,
    place_on_floor,
    reprojection_px,
    resample,
    up_direction,
)
from common.skeleton import JOINT_NAMES

RANDOM = np.random.default_rng(0)


# A person who faces the observer and waves with the left hand: (17, 2), metres to the person's left
# and up from the hip, in the order of JOINT_NAMES.
BODY = np.array(
    [
        *[(0, 0), (-0.14, -0.02), (-0.2, -0.45), (-0.22, -0.87)],
        *[(0.14, -0.02), (0.2, -0.45), (0.22, -0.87)],
        *[(0, 0.23), (0, 0.47), (0, 0.58), (0, 0.7)],
        *[(0.17, 0.45), (0.42, 0.55), (0.6, 0.8), (-0.17, 0.45), (-0.35, 0.25), (-0.5, 0.05)],
    ]
)


def standing(frames=10):
    """Return (frames, 17, 3), metres: somebody who stands upright, y down as in a camera."""
    pose = np.stack([BODY[:, 0], -BODY[:, 1], np.zeros(17)], axis=-1)
    return np.repeat(pose[None], frames, axis=0)


def test_sampling_is_catmull_and_roms_spline():
    values = RANDOM.normal(size=(9, 2))
    slopes = np.gradient(values, axis=0)  # central differences within, which is what they take
    expected = CubicHermiteSpline(np.arange(9), values, slopes)
    positions = np.arange(10, 71) / 10
    np.testing.assert_allclose(resample(values, 1, 10)[10:71], expected(positions), atol=1e-12)


@pytest.mark.parametrize("fps", [12.5, 29.97, 60])
def test_parabolas_are_resampled_exactly_to_the_very_ends(fps):
    def parabola(seconds):
        return np.stack([3 - seconds + 0.5 * seconds**2, seconds**2], axis=-1)

    values = parabola(np.arange(31) / fps)
    resampled = resample(values, fps, 50)
    seconds = np.minimum(np.arange(len(resampled)) / 50, 30 / fps)
    np.testing.assert_allclose(resampled, parabola(seconds), atol=1e-9)
    assert seconds[-1] == pytest.approx(30 / fps)
    assert seconds[-2] < 30 / fps
    back = resample(resampled, 50, fps, 31)
    inner = slice(0, -int(np.ceil(2 * fps / 50)) - 1)  # the last new frame may lie after the end
    np.testing.assert_allclose(back[inner], values[inner], atol=1e-9)


@pytest.mark.parametrize(("frames", "fps"), [(1, 10), (2, 240), (3, 10), (3, 240)])
def test_any_length_there_and_back(frames, fps):
    values = np.linspace((0, 0), (1, 1), frames, dtype=np.float32)
    there = resample(values, fps, 50)
    back = resample(there, 50, fps, frames)
    assert (there.dtype, back.shape) == (np.float32, values.shape)
    np.testing.assert_allclose(back[0], values[0], atol=1e-6)


def test_straight_motion_is_not_changed():
    line = np.arange(40)[:, None] * [[0.1, -2.0]] + [5, 3]
    np.testing.assert_allclose(lowpass(line, 50), line, atol=1e-12)
    np.testing.assert_array_equal(lowpass(line[:1], 50), line[:1])


def test_the_gain_is_that_of_the_formula_and_the_phase_zero():
    fps, cutoff, seconds = 50, 6, np.arange(2000) / 50
    for frequency in (1, cutoff, 2 * cutoff):
        wave = np.sin(2 * np.pi * frequency * seconds + 0.3)
        # A sampled filter's response is that of the formula and its images at the rate's multiples.
        multiples = fps * np.arange(-3, 4)
        responses = np.sqrt(0.5) ** ((np.array([frequency + multiples, multiples]) / cutoff) ** 2)
        gain = responses[0].sum() / responses[1].sum()
        smoothed = lowpass(wave, fps, cutoff)[200:-200]
        np.testing.assert_allclose(smoothed, gain * wave[200:-200], atol=2e-4)


def test_up_is_found_whatever_way_the_camera_is_held():
    for seed in range(20):
        camera = Rotation.random(random_state=seed)
        seen = camera.apply(standing().reshape(-1, 3)).reshape(-1, 17, 3)
        up = up_direction(seen)
        np.testing.assert_allclose(up, camera.apply([0, -1, 0]), atol=1e-12)
        in_world = quaternion_rotate(orientation_of_camera(up), seen)
        height = in_world[0, JOINT_NAMES.index("Thorax")] - in_world[0, JOINT_NAMES.index("RFoot")]
        assert height[2] == pytest.approx(0.47 + 0.87)


@pytest.mark.parametrize("tilt", [0, 25, 180])
def test_a_camera_that_looks_down_keeps_its_heading(tilt):
    up = Rotation.from_euler("x", tilt, degrees=True).apply([0, -1, 0])
    x, _, z = quaternion_rotate(orientation_of_camera(up), np.eye(3))
    np.testing.assert_allclose(x, [1, 0, 0], atol=1e-12)  # right stays right
    forward = [0, np.cos(np.radians(tilt)), -np.sin(np.radians(tilt))]
    np.testing.assert_allclose(z, forward, atol=1e-12)


def test_feet_stand_on_the_floor():
    upright = standing()[..., [0, 2, 1]] * [1, 1, -1]
    np.testing.assert_allclose(place_on_floor(upright, 50)[..., 2].min(axis=1), 0, atol=1e-12)
    squat = np.repeat(upright[:1], 100, axis=0)
    bend = 0.3 * (1 - np.cos(2 * np.pi * np.arange(100) / 100)) / 2
    for name in ("RFoot", "LFoot"):  # relative to the hip the feet come up
        squat[:, JOINT_NAMES.index(name), 2] += bend
    placed = place_on_floor(squat, 50)
    assert np.abs(placed[..., 2].min(axis=1)).max() < 0.005
    assert placed[50, 0, 2] == pytest.approx(0.87 - 0.3, abs=0.01)


def test_bones_of_constant_length_do_not_vary():
    turning = Rotation.from_rotvec(np.linspace(0, 3, 10)[:, None] * [0, 1, 0]).as_matrix()
    assert bone_variation_percent(standing() @ turning) == pytest.approx(0, abs=1e-9)
    pose = RANDOM.normal(size=(17, 3))
    poses = np.stack([pose, 1.1 * pose])  # every bone 10% longer: the deviation is 0.05 / 1.05
    assert bone_variation_percent(poses) == pytest.approx(100 * 0.05 / 1.05)


def test_jitter_is_the_third_derivative():
    seconds = np.arange(20)[:, None, None] / 50
    poses = np.ones((1, 17, 3)) * seconds**3 * [1, 0, 0]
    assert jitter_m_s3(poses, 50) == pytest.approx(6)
    assert jitter_m_s3(poses[:3], 50) == 0


def test_reprojection_is_zero_for_a_scaled_shifted_pose_and_grows_with_noise():
    poses = RANDOM.normal(size=(5, 17, 3))
    pixels = 300 * poses[..., :2] + [500, 400]
    assert reprojection_px(poses, pixels) == pytest.approx(0, abs=1e-9)
    noisy = pixels + RANDOM.normal(0, 2, pixels.shape)
    assert 1.5 < reprojection_px(poses, noisy) < 3
