import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from common.loss import (
    align_procrustes,
    joint_auc,
    joint_errors,
    joint_pck,
    joint_velocity_errors,
    mpjpe,
    n_mpjpe,
    p_mpjpe,
)


def mpjve(predicted, target):
    return joint_velocity_errors(predicted, target).mean()


METRICS = {"mpjpe": mpjpe, "p_mpjpe": p_mpjpe, "n_mpjpe": n_mpjpe, "mpjve": mpjve}


def poses(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.3, (*shape, 17, 3)))


def noisy(target, metres=0.1, seed=1):
    return target + torch.from_numpy(np.random.default_rng(seed).normal(0, metres, target.shape))


@pytest.mark.parametrize("name", METRICS)
def test_golden_figures(name, golden, golden_spec):
    predicted, target = (torch.from_numpy(golden[k]) for k in ("predicted", "target"))
    expected = pytest.approx(golden_spec["metrics"][name], rel=1e-9)
    assert METRICS[name](predicted, target).item() == expected
    assert METRICS[name](predicted[:, None], target[:, None]).item() == expected


def test_shapes_that_would_broadcast_are_refused():
    for metric in METRICS.values():
        with pytest.raises(ValueError, match="expected two tensors"):
            metric(poses(4), poses(4)[:, None])


def test_mpjpe_gradient_is_finite_where_the_error_is_zero():
    target = poses(3).float()
    predicted = target.clone()
    predicted[1, 4, 0] += 0.5
    predicted.requires_grad_()
    mpjpe(predicted, target).backward()
    expected = torch.zeros_like(target)
    expected[1, 4, 0] = 1 / (3 * 17)
    assert torch.equal(predicted.grad, expected)


def test_mpjpe_of_half_precision_is_taken_in_float32():
    target, half = poses(64).float(), noisy(poses(64), 0.001).bfloat16()
    loss = mpjpe(half, target)
    assert loss.dtype == torch.float32 and loss == mpjpe(half.float(), target)


def test_alignment_is_scipys_align_vectors_also_of_mirrored_poses():
    target = poses(50)
    predicted = noisy(target)
    predicted[25:, :, 0] *= -1
    aligned = align_procrustes(predicted, target)
    for x, y, ours in zip(predicted.numpy(), target.numpy(), aligned.numpy()):
        x0, y0 = x - x.mean(0), y - y.mean(0)
        rotated = Rotation.align_vectors(y0, x0)[0].apply(x0)
        scale = (rotated * y0).sum() / (x0**2).sum()
        np.testing.assert_allclose(ours, scale * rotated + y.mean(0), atol=1e-8)
    assert p_mpjpe(predicted[25:], target[25:]) > 0.05  # a reflection is not aligned away


def test_what_each_alignment_takes_away():
    target = poses(100)
    scale = torch.linspace(0.1, 10, 100, dtype=torch.float64)[:, None, None]
    rotations = torch.from_numpy(Rotation.random(100, rng=2).as_matrix())
    predicted = target @ rotations * scale + poses(100, seed=5)[:, :1]
    assert p_mpjpe(predicted, target) < 1e-12
    assert p_mpjpe(predicted.float(), target.float()) < 1e-6
    assert n_mpjpe(predicted, target) > 0.01
    assert n_mpjpe(0.3 * target, target) < 1e-15
    assert mpjpe(0.3 * target, target) > 0.1


def test_coincident_and_collinear_joints_give_finite_errors():
    target = poses(4)
    point = torch.ones(4, 17, 3, dtype=torch.float64)
    line = torch.arange(17.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2, 3])
    centred = target - target.mean(-2, keepdim=True)
    spread = torch.linalg.vector_norm(centred, dim=-1).mean()
    assert p_mpjpe(point, target).item() == pytest.approx(spread.item())
    assert p_mpjpe(target, point) == 0
    assert p_mpjpe(line.expand(4, 17, 3), target) <= spread
    assert p_mpjpe(line[None], -3 * line[None]) < 1e-12
    zero = torch.zeros_like(target)
    assert n_mpjpe(zero, target) == mpjpe(zero, target)
    assert n_mpjpe(target, zero) == 0


def test_one_nan_pose_spoils_no_other():
    target = poses(3)
    predicted = noisy(target)
    alone = align_procrustes(predicted[2], target[2])
    predicted[1] = float("nan")
    aligned = align_procrustes(predicted, target)
    assert torch.allclose(aligned[2], alone)
    assert aligned[1].isnan().all()


def test_velocity_errors_by_brute_force():
    target = poses(6)
    predicted = noisy(target)
    velocities = [np.diff(poses.numpy(), axis=0) for poses in (predicted, target)]
    expected = np.linalg.norm(velocities[0] - velocities[1], axis=-1)
    np.testing.assert_allclose(joint_velocity_errors(predicted, target), expected)


def test_pck_and_auc_by_brute_force_and_at_the_thresholds():
    target = poses(20)
    errors = joint_errors(noisy(target, 0.08), target).ravel()
    errors = torch.cat([errors, torch.tensor([0.0, 0.005, 0.15, 9.0])])
    below = np.array([[e < mm / 1000 for mm in range(0, 151, 5)] for e in errors.tolist()])
    np.testing.assert_array_equal(joint_pck(errors), below[:, -1])
    np.testing.assert_allclose(joint_auc(errors), below.mean(axis=1), rtol=1e-5)
