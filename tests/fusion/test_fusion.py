"""The best linear unbiased mixture and its smoother, against brute force and known identities."""

import numpy as np
import pytest
from test_sides import REAL, error_px

from common.files.console import InputError
from common.footage.people import read_people
from common.footage.sides import find_exchanges, reorder
from common.fusion.fitting import fit_mixture, read_mixture, write_mixture
from common.fusion.mixtures import (
    best_unbiased,
    mix_fitted,
    noise_variances,
    person_sizes,
    rts_smooth,
)
from common.skeleton import coco_to_h36m

RANDOM = np.random.default_rng(0)


def dense_smoother(positions, variances, q):
    """One coordinate (frames,): the mean of the posterior, by one large linear system."""
    n = len(positions)
    step = np.array([[1.0, 1.0], [0.0, 1.0]])
    inverse = np.linalg.inv(q * np.array([[1 / 3, 1 / 2], [1 / 2, 1.0]]))
    information, right = np.zeros((2 * n, 2 * n)), np.zeros(2 * n)
    information[1, 1] = 1.0  # the start's velocity has mean 0 and variance 1
    for t in range(n):
        information[2 * t, 2 * t] += 1 / variances[t]
        right[2 * t] += positions[t] / variances[t]
    for t in range(n - 1):
        transition = np.concatenate([-step, np.eye(2)], axis=1)
        information[2 * t : 2 * t + 4, 2 * t : 2 * t + 4] += transition.T @ inverse @ transition
    return np.linalg.solve(information, right)[::2]


def test_the_smoother_gives_the_mean_of_the_posterior():
    lengths = np.array([3, 9, 1, 6])
    positions = RANDOM.standard_normal((19, 3, 2)).cumsum(axis=0)
    variances = RANDOM.uniform(0.1, 2, (19, 3))
    motion = np.array([0.05, np.inf, 0.8])
    smoothed = rts_smooth(positions, variances, lengths, motion)
    np.testing.assert_array_equal(smoothed[:, 1], positions[:, 1])  # left alone
    for rows in np.split(np.arange(19), np.cumsum(lengths)[:-1]):
        for joint, axis in ((0, 0), (0, 1), (2, 0), (2, 1)):
            given = positions[rows, joint, axis], variances[rows, joint], motion[joint]
            expected = dense_smoother(*given)
            np.testing.assert_allclose(smoothed[rows, joint, axis], expected, atol=1e-8)


def test_weights_are_those_of_aitken():
    keypoints = RANDOM.standard_normal((3, 4, 2, 2))
    variances = RANDOM.uniform(0.5, 4, (3, 4, 2))
    factor = RANDOM.standard_normal((2, 3, 5))
    covariance = factor @ factor.mT
    deviation = np.sqrt(np.einsum("jee->je", covariance))
    correlation = covariance / deviation[:, :, None] / deviation[:, None]
    mixed, variance = best_unbiased(keypoints, variances, correlation, 1e15)
    for t, j in np.ndindex(4, 2):
        d = np.diag(np.sqrt(variances[:, t, j]))
        precision = np.linalg.inv(d @ correlation[j] @ d)
        total = precision.sum()
        np.testing.assert_allclose(variance[t, j], 1 / total)
        weights = precision.sum(axis=1) / total
        np.testing.assert_allclose(mixed[t, j], weights @ keypoints[:, t, j])


def test_an_estimator_far_from_the_others_hardly_counts():
    keypoints = RANDOM.standard_normal((3, 50, 1, 2))
    keypoints[1] += 300
    unit = (np.ones((3, 50, 1)), np.eye(3)[None])
    robust, _ = best_unbiased(keypoints, *unit, 4.0)
    plain, _ = best_unbiased(keypoints, *unit, 1e15)
    assert np.abs(robust).max() < 4
    assert plain.min() > 90


# The fit -----------------------------------------------------------------------------------------


def people(views=12, frames=40, seed=0):
    """Smoothly moving 17 joints, (frames, 17, 2) pixels for each view."""
    random = np.random.default_rng(seed)
    base = random.uniform(-200, 200, (17, 2))
    t = np.arange(frames)[:, None, None] / 25
    return [
        500
        + base * random.uniform(0.8, 1.2, (17, 1))
        + 30 * np.sin(t * random.uniform(1, 3, (1, 17, 2)) + random.uniform(0, 6, (1, 17, 2)))
        for _ in range(views)
    ]


def estimate(truths, sigma, seed, bias=(0.0, 0.0)):
    """Noise of deviation sigma / confidence, and the confidence: (frames, 17, 3) for each view."""
    random = np.random.default_rng(seed)
    result = []
    for truth in truths:
        confidence = random.uniform(0.2, 1, (*truth.shape[:2], 1))
        noise = random.standard_normal(truth.shape) * sigma / confidence
        result.append(np.concatenate([truth + noise + bias, confidence], axis=-1))
    return result


def fitted(truths, *estimates):
    views = [list(arrays) for arrays in zip(*estimates)]
    names = [f"e{i}" for i in range(len(estimates))]
    return fit_mixture(names, views, truths, [f"S{i % 3}" for i in range(len(truths))]), views


def mean_error(estimates, truths):
    difference = np.concatenate(estimates)[..., :2] - np.concatenate(truths)
    return np.linalg.norm(difference, axis=-1).mean()


def test_the_mixture_beats_each_estimator_and_confidence_helps():
    truths, others = people(seed=1), people(seed=2)
    specification = ((3, 10, (5.0, -2.0)), (4, 20, (0.0, 0.0)), (6, 30, (-8.0, 1.0)))
    train = [estimate(truths, s, seed, bias) for s, seed, bias in specification]
    test = [estimate(others, s, seed + 1, bias) for s, seed, bias in specification]
    with_confidence, _ = fitted(truths, *train)
    without, _ = fitted(truths, *([array[..., :2] for array in one] for one in train))
    views = [list(arrays) for arrays in zip(*test)]
    errors = [mean_error(list(mix_fitted(m, views)), others) for m in (with_confidence, without)]
    by_variance = {"axis": 0, "weights": [1 / 9, 1 / 16, 1 / 36]}
    weighted = [np.average([v[..., :2] for v in view], **by_variance) for view in views]
    assert errors[0] < 0.9 * errors[1]
    assert errors[1] < 0.9 * mean_error(weighted, others)
    assert errors[1] < 0.6 * min(mean_error(e, others) for e in test)


def test_the_fit_finds_the_noise():
    truths = people(views=40)
    mixture, views = fitted(truths, estimate(truths, 2, 1, (7.0, 0.0)), estimate(truths, 5, 2))
    keypoints = np.stack([np.concatenate(arrays)[..., :2] for arrays in zip(*views)])
    size = person_sizes(keypoints, np.full(40, 40)).mean()
    # What both have in common belongs to the layout.
    np.testing.assert_allclose((mixture.bias[0] - mixture.bias[1]) * size, [[7, 0]] * 17, atol=1)
    deviation = np.sqrt(noise_variances(mixture.knots, mixture.variances, np.full((2, 1, 17), 0.6)))
    np.testing.assert_allclose(deviation[0] * size, 2 / 0.6, rtol=0.25)
    np.testing.assert_allclose(deviation[1] * size, 5 / 0.6, rtol=0.25)
    assert np.abs(mixture.correlation[:, 0, 1]).max() < 0.15


def test_a_layout_that_lies_elsewhere_is_taken_out():
    """Joint 0 is put half-way to joint 8, which no constant bias describes: people turn."""
    random = np.random.default_rng(3)
    truths = []
    for truth in people(views=30):
        angle = random.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        truths.append((truth - 500) @ turn + 500)
    shifted = [truth.copy() for truth in truths]
    for pose in shifted:
        pose[:, 0] = (pose[:, 0] + pose[:, 8]) / 2
    mixture, views = fitted(truths, estimate(shifted, 1, 1), estimate(shifted, 1, 2))
    mixed = np.concatenate(list(mix_fitted(mixture, views)))
    errors = np.linalg.norm(mixed - np.concatenate(truths), axis=-1).mean(axis=0)
    assert errors[0] < 3 < np.linalg.norm(truths[0][:, 0] - shifted[0][:, 0], axis=-1).mean()


def real_estimates(camera, estimators, repaired=False):
    """Real keypoints of {name: file}, their left and right as they are or repaired."""
    for file in estimators.values():
        keypoints = coco_to_h36m(read_people(REAL / f"{camera}_{file}").keypoints)
        order = find_exchanges(np.arange(len(keypoints)), keypoints, "h36m").order
        yield reorder(keypoints, order) if repaired else keypoints


def fit_of_real_footage(*which):
    cameras = ("cam01", "cam02")
    views = [list(real_estimates(camera, *which)) for camera in cameras]
    truths = [np.load(REAL / f"{camera}_truth.npz")["pixels"] for camera in cameras]
    return fit_mixture(list(which[0]), views, truths, cameras)


def test_exchanged_sides_do_not_spoil_a_fit():
    """MediaPipe full exchanges left and right in a third of the second camera's frames."""
    estimators = {"full": "mp_full.npy", "heavy": "mp_heavy.npy", "thunder": "thunder.json"}
    as_they_are, repaired = (fit_of_real_footage(estimators, r) for r in (False, True))
    for camera in ("cam01", "cam03"):
        views = [list(real_estimates(camera, estimators))]
        errors = [error_px(*mix_fitted(fit, views), camera) for fit in (as_they_are, repaired)]
        assert errors[0] < 1.1 * errors[1], camera


def test_a_view_is_mixed_from_its_own_frames_alone_at_any_size():
    truths = people()
    mixture, views = fitted(truths, estimate(truths, 2, 1), estimate(truths, 4, 2))
    for view, mixed in zip(views[:3], mix_fitted(mixture, views)):
        (doubled,) = mix_fitted(mixture, [[array * [2, 2, 1] for array in view]])
        np.testing.assert_allclose(doubled, 2 * mixed, rtol=1e-6)


def test_a_mixture_survives_its_file(tmp_path):
    truths = people()
    mixture, _ = fitted(truths, estimate(truths, 2, 1), estimate(truths, 4, 2))
    mixture.motion[3] = np.inf  # which is no JSON
    write_mixture(tmp_path / "m.json", mixture)
    for name, value in vars(read_mixture(tmp_path / "m.json")).items():
        np.testing.assert_array_equal(value, getattr(mixture, name))


# Strange input -----------------------------------------------------------------------------------


def test_an_estimator_given_twice_shares_its_weight():
    truths = people()
    one, two = estimate(truths, 2, 1), estimate(truths, 3, 2)
    pairs = (one, one, two), (one, two)
    twice, once = (np.concatenate(list(mix_fitted(*fitted(truths, *given)))) for given in pairs)
    assert np.abs(twice - once).mean() < 0.2


def test_too_little_to_fit_is_said():
    for views, frames in ((4, 49), (1, 1000)):
        truths = people(views, frames)
        with pytest.raises(InputError, match="it takes 200 in two views at least"):
            fitted(truths, estimate(truths, 1, 1), estimate(truths, 2, 2))


def test_a_subject_may_have_nearly_all_frames():
    """Without it, fewer frames are left than variances by confidence take; one alone does, too."""
    truths = [*people(views=4, frames=60), *people(views=1, frames=15)]
    views = list(zip(estimate(truths, 3, 0), estimate(truths, 6, 1)))
    for last in ("S5", "S1"):
        mixture = fit_mixture(["a", "b"], views, truths, [*["S1"] * 4, last])
        assert mean_error(list(mix_fitted(mixture, views)), truths) < 6
