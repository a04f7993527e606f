"""Errors between 3D poses: MPJPE, P-MPJPE, N-MPJPE, MPJVE, PCK and AUC, batched; and their sums.

Every function takes poses as two tensors (..., joints, 3) in metres, the prediction and the target,
and raises a ValueError where their shapes differ. Those named `joint_…` give one value for each
joint of each frame; those with the metrics' names average them to a scalar.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from common.files.console import InputError
from common.h36m_dataset import ACTIONS, SUBJECTS, action_class
from common.skeleton import NUM_JOINTS

# The metrics of a report, and their names in its tables. MPJVE is in millimetres per frame.
METRICS = {
    "mpjpe_mm": "MPJPE",
    "p_mpjpe_mm": "P-MPJPE",
    "n_mpjpe_mm": "N-MPJPE",
    "mpjve_mm": "MPJVE",
    "pck_percent": "PCK@150",
    "auc_percent": "AUC",
}
_STATE_SHAPE = (len(SUBJECTS), len(ACTIONS), NUM_JOINTS, len(METRICS), 2)
PCK_THRESHOLD_M = 0.150
# 0, 5, …, 150 mm: the 31 thresholds of MPI-INF-3DHP's evaluation (Mehta et al., 3DV 2017).
AUC_THRESHOLDS_M = torch.arange(31, dtype=torch.float64) * 5 / 1000


def mpjpe(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean per-joint position error, "protocol 1", in metres; the training loss.

    Its gradient is finite (zero) for a joint that is predicted exactly. With `weights` (B,), it is
    the weighted sum of the errors of B poses, or clips, in place of their mean.
    """
    errors = joint_errors(predicted, target)
    return errors.mean() if weights is None else errors.flatten(1).mean(dim=-1) @ weights


def clip_loss(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """MPJPE + 0.5 N-MPJPE + 20 MPJVE of clips (B, F, 17, 3), a scalar in metres.

    The training loss of MotionAGFormer (Mehraban, Adeli, Taati, WACV 2024); a single frame has no
    velocity. `weights` (B,) are of each clip in a sum, as in `mpjpe`.
    """
    scaled = align_scale(predicted, target).to(torch.promote_types(predicted.dtype, torch.float32))
    position = joint_errors(predicted, target) + 0.5 * joint_errors(scaled, target)
    velocity = joint_velocity_errors(predicted.transpose(0, 1), target.transpose(0, 1))
    velocity = velocity.mean(dim=2).sum(dim=0) / max(1, len(velocity))  # (B,)
    losses = position.mean(dim=(1, 2)) + 20 * velocity
    return losses.mean() if weights is None else losses @ weights


def p_mpjpe(predicted: Tensor, target: Tensor) -> Tensor:
    """MPJPE in metres after `align_procrustes` of each pose, "protocol 2"; float64."""
    return joint_errors(align_procrustes(predicted, target), target.double()).mean()


def n_mpjpe(predicted: Tensor, target: Tensor) -> Tensor:
    """MPJPE in metres after `align_scale` of each pose (Rhodin et al., CVPR 2018); float64."""
    return joint_errors(align_scale(predicted, target), target.double()).mean()


def joint_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the Euclidean distances (..., joints), metres, of poses (..., joints, 3).

    Half precision is raised to float32 before the difference is taken.
    """
    _check_shapes(predicted, target)
    difference = _at_least_float32(predicted) - _at_least_float32(target)
    return torch.linalg.vector_norm(difference, dim=-1)


def joint_velocity_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """Return errors (frames - 1, ..., joints), metres per frame, of (frames, ..., joints, 3).

    Their mean is MPJVE (Pavllo et al., CVPR 2019), NaN for a single frame.
    """
    velocities = (_at_least_float32(poses).diff(dim=0) for poses in (predicted, target))
    return joint_errors(*velocities)


def joint_pck(errors: Tensor) -> Tensor:
    """Return 1.0 where an error (..., joints), metres, is below `PCK_THRESHOLD_M`, else 0.0.

    Their mean is PCK@150 (Mehta et al., 3DV 2017).
    """
    return (errors < PCK_THRESHOLD_M).double()


def joint_auc(errors: Tensor) -> Tensor:
    """Return the share of `AUC_THRESHOLDS_M` that lie above each error (..., joints), metres.

    Their mean is the area under the PCK curve. No error is below 0 mm, so that a perfect
    prediction has 30/31 = 96.8 %, as in the field.
    """
    thresholds = AUC_THRESHOLDS_M.to(errors.device)
    not_above = torch.bucketize(errors.double(), thresholds, right=True)
    return 1 - not_above / len(thresholds)


def align_procrustes(predicted: Tensor, target: Tensor) -> Tensor:
    """Rotate, scale and move each pose to its target, by least squares.

    The closed form of Umeyama (PAMI 1991, eq. 39-42), without reflections: with centred poses X
    and Y and the singular value decomposition XᵀY = U S Vᵀ, the rotation is U D Vᵀ and the scale
    tr(S D) / |X|², where D = diag(1, 1, det(U Vᵀ)).

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
    """Scale each pose to its target, by least squares about the origin: s = <X, Y> / <X, X>."""
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


@dataclass
class MetricSums:
    """Sums of every metric, from which all averages follow.

    States add up: distributed processes each add whole sequences and then sum their states.
    """

    # (subjects, actions, joints, metrics, 2), float64: the sum of each of the six `METRICS` over
    # frames, and of how many values.
    state: Tensor = field(default_factory=lambda: torch.zeros(_STATE_SHAPE, dtype=torch.float64))
    # {(subject, sequence's name): (metrics, 2)}, of each sequence, over its cameras and joints.
    sequences: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def add(
        self,
        subject: str,
        action: str,
        predicted: Tensor | np.ndarray,
        target: Tensor | np.ndarray,
        all_metrics: bool = True,
    ) -> None:
        """Add one camera's view of one sequence, whole: velocities do not cross its ends.

        Poses are (frames, 17, 3), metres, relative to the hip; `action` is the sequence's name,
        such as "Sitting 1". All is computed where the prediction lies. Without `all_metrics` there
        is MPJPE alone, which is faster; the others are then None.

        Raises:
            InputError: if the action is none of the 15, or the prediction is not finite.
        """
        if action_class(action) not in ACTIONS:
            raise InputError(
                f"{subject} {action}: none of the 15 actions over which the report averages; "
                "select some of them with --actions"
            )
        predicted = torch.as_tensor(predicted).double()
        target = torch.as_tensor(target).to(predicted.device).double()
        if not predicted.isfinite().all():
            raise InputError(
                f"{subject} {action}: the prediction is NaN or infinite; use another checkpoint "
                "or --precision fp32"
            )
        metrics = list(_joint_values(predicted, target, all_metrics))
        totals = torch.stack([values.sum(dim=0) for values in metrics], dim=1)  # (joints, metrics)
        sums = torch.zeros_like(self.state[0, 0])  # (joints, metrics, 2)
        sums[:, : len(metrics), 0] = totals.to(sums.device)
        sums[:, : len(metrics), 1] = torch.tensor([len(values) for values in metrics])
        self.state[SUBJECTS.index(subject), ACTIONS.index(action_class(action))] += sums
        self.sequences[subject, action] = self.sequences.get((subject, action), 0) + sums.sum(dim=0)

    def mpjpe_mm(self) -> float:
        """Return the field's figure: MPJPE in mm, averaged over the actions that have frames.

        Raises:
            ValueError: if no sequence was added.
        """
        total, count = self.state[..., 0, :].sum(dim=(0, 2)).T  # each (actions,)
        if not count.any():
            raise ValueError("no sequence was added")
        return float((total[count > 0] / count[count > 0]).mean())


def _joint_values(predicted: Tensor, target: Tensor, all_metrics: bool) -> Iterator[Tensor]:
    """Yield (frames, joints), of velocities (frames - 1, joints), for `METRICS` in their order."""
    errors = joint_errors(predicted, target)
    yield 1000 * errors
    if all_metrics:
        yield 1000 * joint_errors(align_procrustes(predicted, target), target)
        yield 1000 * joint_errors(align_scale(predicted, target), target)
        yield 1000 * joint_velocity_errors(predicted, target)
        yield 100 * joint_pck(errors)
        yield 100 * joint_auc(errors)
