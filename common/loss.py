"""Errors between 3D poses: MPJPE, P-MPJPE, N-MPJPE, MPJVE, PCK and AUC, batched.

Poses are tensors (..., joints, 3) in metres, relative to the hip. The functions named `joint_…`
give one value for each joint of each frame; those with the metrics' names average them. Only
`mpjpe` is meant as a training loss.
"""

import torch
from torch import Tensor

PCK_THRESHOLD_M = 0.150
# 0, 5, …, 150 mm: the 31 thresholds of MPI-INF-3DHP's evaluation (Mehta et al., 3DV 2017).
AUC_THRESHOLDS_M = torch.arange(31, dtype=torch.float64) * 5 / 1000


def mpjpe(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean per-joint position error, "protocol 1"; the training loss.

    Args:
        predicted: (..., joints, 3), metres.
        target: like `predicted`.

    Returns:
        A scalar in metres, at least in float32. Its gradient is finite (zero) for a joint that
        is predicted exactly.
    """
    return joint_errors(predicted, target).mean()


def p_mpjpe(predicted: Tensor, target: Tensor) -> Tensor:
    """MPJPE after aligning each pose in rotation, scale and translation, "protocol 2".

    Args:
        predicted: (..., joints, 3), metres.
        target: like `predicted`.

    Returns:
        A scalar in metres, float64.
    """
    return joint_errors(align_procrustes(predicted, target), target.double()).mean()


def n_mpjpe(predicted: Tensor, target: Tensor) -> Tensor:
    """MPJPE after aligning each pose in scale alone (Rhodin et al., CVPR 2018).

    Args:
        predicted: (..., joints, 3), metres.
        target: like `predicted`.

    Returns:
        A scalar in metres, float64.
    """
    return joint_errors(align_scale(predicted, target), target.double()).mean()


def mpjve(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean per-joint velocity error (Pavllo et al., CVPR 2019): MPJPE of first differences.

    Args:
        predicted: (frames, ..., joints, 3), metres, consecutive frames of one sequence.
        target: like `predicted`.

    Returns:
        A scalar in metres per frame; NaN for a single frame.
    """
    return joint_velocity_errors(predicted, target).mean()


def pck(predicted: Tensor, target: Tensor, threshold_m: float = PCK_THRESHOLD_M) -> Tensor:
    """Percentage of correct keypoints in 3D (Mehta et al., 3DV 2017), float64.

    Args:
        predicted: (..., joints, 3), metres.
        target: like `predicted`.
        threshold_m: a joint whose error is below it is correct.

    Returns:
        A scalar in percent.
    """
    return 100 * joint_pck(joint_errors(predicted, target), threshold_m).mean()


def auc(predicted: Tensor, target: Tensor) -> Tensor:
    """Area under the PCK curve: the mean PCK over the thresholds 0, 5, …, 150 mm.

    No error is below 0 mm, so that a perfect prediction has 30/31 = 96.8 %, as in the field.

    Args:
        predicted: (..., joints, 3), metres.
        target: like `predicted`.

    Returns:
        A scalar in percent, float64.
    """
    return 100 * joint_auc(joint_errors(predicted, target)).mean()


def joint_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the Euclidean distances (..., joints), metres, of poses (..., joints, 3).

    Half precision is raised to float32 before the difference is taken.
    """
    _check_shapes(predicted, target)
    difference = _at_least_float32(predicted) - _at_least_float32(target)
    return torch.linalg.vector_norm(difference, dim=-1)


def joint_velocity_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """Return errors (frames - 1, ..., joints), metres per frame, of (frames, ..., joints, 3)."""
    velocities = (_at_least_float32(poses).diff(dim=0) for poses in (predicted, target))
    return joint_errors(*velocities)


def joint_pck(errors: Tensor, threshold_m: float = PCK_THRESHOLD_M) -> Tensor:
    """Return 1.0 where an error (..., joints), metres, is below the threshold, else 0.0."""
    return (errors < threshold_m).double()


def joint_auc(errors: Tensor) -> Tensor:
    """Return the share of `AUC_THRESHOLDS_M` that lie above each error (..., joints), metres."""
    thresholds = AUC_THRESHOLDS_M.to(errors.device)
    not_above = torch.bucketize(errors.double(), thresholds, right=True)
    return 1 - not_above / len(thresholds)


def align_procrustes(predicted: Tensor, target: Tensor) -> Tensor:
    """Rotate, scale and move each pose to its target, by least squares.

    The closed form of Umeyama (PAMI 1991, eq. 39-42), without reflections: with centred poses X
    and Y and the singular value decomposition XᵀY = U S Vᵀ, the rotation is U D Vᵀ and the scale
    tr(S D) / |X|², where D = diag(1, 1, det(U Vᵀ)).

    Args:
        predicted: (..., joints, 3), metres.
        target: like `predicted`.

    Returns:
        `predicted` aligned, (..., joints, 3), metres, float64. Where all joints of a prediction
        coincide, they are moved to the centre of the target. A pose that is not finite gives NaN.
    """
    _check_shapes(predicted, target)
    centre = target.double().mean(dim=-2, keepdim=True)
    x = predicted.double() - predicted.double().mean(dim=-2, keepdim=True)
    y = target.double() - centre
    # One NaN pose must not fail the decomposition of all; its scale is NaN all the same.
    u, s, vt = torch.linalg.svd((x.mT @ y).nan_to_num())
    handedness = torch.linalg.det(u @ vt).sign()
    flip = torch.stack([torch.ones_like(handedness)] * 2 + [handedness], dim=-1)
    rotation = (u * flip[..., None, :]) @ vt
    scale = _ratio((s * flip).sum(dim=-1), x.square().sum(dim=(-2, -1)))
    return scale[..., None, None] * (x @ rotation) + centre


def align_scale(predicted: Tensor, target: Tensor) -> Tensor:
    """Scale each pose to its target, by least squares about the origin: s = <X, Y> / <X, X>.

    Args:
        predicted: (..., joints, 3), metres.
        target: like `predicted`.

    Returns:
        `predicted` scaled, (..., joints, 3), metres, float64.
    """
    _check_shapes(predicted, target)
    x, y = predicted.double(), target.double()
    scale = _ratio((x * y).sum(dim=(-2, -1)), x.square().sum(dim=(-2, -1)))
    return scale[..., None, None] * x


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, where both may be zero because all joints of a pose coincide; then give zero."""
    return numerator / denominator.clamp_min(torch.finfo(denominator.dtype).tiny)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_shapes(predicted: Tensor, target: Tensor) -> None:
    """Refuse shapes that would broadcast: (n, 1, 17, 3) with (n, 17, 3) is an n × n comparison."""
    if predicted.shape != target.shape or predicted.shape[-1] != 3:
        raise ValueError(
            f"expected two tensors (..., joints, 3), got {tuple(predicted.shape)} "
            f"and {tuple(target.shape)}"
        )
