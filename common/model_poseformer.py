"""PoseFormerV2: lifts a window of 2D keypoints to the 3D pose of its middle frame.

Zhao, Zheng, Liu, Wang, Chen: "PoseFormerV2: Exploring Frequency Domain for Efficient and Robust 3D
Human Pose Estimation", CVPR 2023, arXiv 2303.17472. Parameter names and shapes are the published
ones, so that published checkpoints load.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_JOINTS = 17
NUM_HEADS = 8
MLP_RATIO = 2
MAX_SEQUENCES = 65_535  # the grid of a GPU's fused attention holds no more (pytorch issue 146704)
MAX_SUMMED_TOKENS = 32  # a GPU's fused attention works on 64 or 128 tokens, padded


@dataclass(frozen=True)
class PoseFormerConfig:
    """Architecture of one PoseFormerV2.

    Attributes:
        number_of_frames: F, the receptive field in frames; odd.
        number_of_kept_frames: f, central frames that enter the network; odd, at most F.
        number_of_kept_coeffs: n, low-frequency DCT coefficients of the window; at most F.
        in_chans: channels of a keypoint: two for each estimator, and its confidences.
        embed_dim_ratio: width of a joint's token; a frame's token is 17 times wider.
        depth: number of spatial blocks, and of mixed blocks.
        drop_rate: dropout after embeddings and projections.
        drop_path_rate: stochastic depth of the last block; earlier ones have linearly less.
        confidence_chans: how many of the channels, the last ones, are confidences; mirroring
            leaves them alone.
        view: what is seen: the "picture", in halves of its width, or the "person", by the virtual
            camera of `follow_person`.
        gives_all_frames: the network answers the middle frame's pose alone.

    Raises:
        ValueError: if the values describe no network.
    """

    gives_all_frames: ClassVar[bool] = False
    number_of_frames: int = 27
    number_of_kept_frames: int = 3
    number_of_kept_coeffs: int = 3
    in_chans: int = 2
    embed_dim_ratio: int = 32
    depth: int = 4
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    confidence_chans: int = 0
    view: str = "picture"

    def __post_init__(self) -> None:
        for name in ("number_of_frames", "number_of_kept_frames"):
            if getattr(self, name) < 1 or getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd and positive, not {getattr(self, name)}")
        for name in ("number_of_kept_frames", "number_of_kept_coeffs"):
            if not 1 <= getattr(self, name) <= self.number_of_frames:
                raise ValueError(
                    f"{name} must lie between 1 and the number of frames, "
                    f"{self.number_of_frames}, not {getattr(self, name)}"
                )
        if self.in_chans < 1 or self.depth < 1:
            raise ValueError(
                f"in_chans and depth must be positive, not {self.in_chans} and {self.depth}"
            )
        if not 0 <= self.confidence_chans < self.in_chans:
            raise ValueError(
                f"confidence_chans must lie between 0 and in_chans, {self.in_chans}, "
                f"not {self.confidence_chans}"
            )
        if self.embed_dim_ratio < 1 or self.embed_dim_ratio % NUM_HEADS:
            raise ValueError(
                f"embed_dim_ratio must be a multiple of the {NUM_HEADS} attention heads, "
                f"not {self.embed_dim_ratio}"
            )
        for name in ("drop_rate", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")

    @property
    def token_dim(self) -> int:
        """Width of a frame's or a coefficient's token."""
        return NUM_JOINTS * self.embed_dim_ratio

    @staticmethod
    def fields_in(weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the fields that the shapes of a network's weights tell: all but the frames.

        Raises:
            KeyError, IndexError or ValueError: if they are another network's.
        """
        blocks = {key.split(".")[1] for key in weights if key.startswith("Spatial_blocks.")}
        embed_dim_ratio, in_chans = weights["Joint_embedding.weight"].shape
        return {
            "number_of_kept_frames": weights["Temporal_pos_embed"].shape[1],
            "number_of_kept_coeffs": weights["Temporal_pos_embed_"].shape[1],
            "in_chans": in_chans,
            "embed_dim_ratio": embed_dim_ratio,
            "depth": len(blocks),
        }

    def with_frames(
        self, weights: Mapping[str, Tensor], number_of_frames: int
    ) -> dict[str, Tensor]:
        """Return a network's weights for windows of another length: its DCT grows in proportion."""
        name = "Freq_embedding.weight"
        return {**weights, name: weights[name] * (self.number_of_frames / number_of_frames)}


def dct_matrix(size: int) -> Tensor:
    """Return the unnormalised type-II DCT as a (size, size) matrix, row k for coefficient k.

    X_k = 2 Σ_t x_t cos(π k (2t + 1) / 2N), computed in float64, returned in float32.
    """
    k = torch.arange(size, dtype=torch.float64)[:, None]
    t = torch.arange(size, dtype=torch.float64)
    return (2 * torch.cos(math.pi * k * (2 * t + 1) / (2 * size))).float()


def inverse_dct_matrix(size: int) -> Tensor:
    """Return the inverse of `dct_matrix(size)`, in float32."""
    scale = torch.full((size,), 1 / (2 * size))
    scale[0] /= 2
    return dct_matrix(size).T * scale


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016): drops a residual branch of some samples."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Set a branch (B, T, D) to zero for a share `rate` of the samples, in training only."""
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        factor = torch.empty(len(x), 1, 1, device=x.device).bernoulli_(keep).div_(keep)
        return x * factor.to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q kᵀ / √c) v of each sequence; all are (B, heads, T, c)."""
    if torch.compiler.is_compiling() and q.is_cuda and q.shape[2] <= MAX_SUMMED_TOKENS:
        return attend_by_sums(q, k, v)
    if len(q) <= MAX_SEQUENCES:
        return F.scaled_dot_product_attention(q, k, v)
    parts = zip(*(x.split(MAX_SEQUENCES) for x in (q, k, v)))
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts])


def attend_by_sums(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return what `attend` does, from products and sums alone, which a compiler fuses."""
    q, k, v = q.float() / q.shape[-1] ** 0.5, k.float(), v.float()
    scores = (q[:, :, :, None] * k[:, :, None]).sum(-1)  # (B, heads, T, T)
    return (scores.softmax(-1)[..., None] * v[:, :, None]).sum(-2)


class Attention(nn.Module):
    """Multi-head self-attention among the tokens of each sample."""

    def __init__(self, dim: int, drop_rate: float) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens (B, T, D) of each sample."""
        B, T, D = x.shape  # samples, tokens, channels
        qkv = self.qkv(x).view(B, T, 3, NUM_HEADS, D // NUM_HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, channels of a head)
        x = attend(q, k, v).transpose(1, 2).reshape(B, T, D)
        return self.drop(self.proj(x))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, drop_rate: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (B, T, D), each alone."""
        x = self.drop(F.gelu(self.fc1(x)))
        return self.drop(self.fc2(x))


class FrequencyMlp(Mlp):
    """An MLP on the DCT coefficients of a sequence of tokens instead of on the tokens."""

    def __init__(self, dim: int, drop_rate: float, number_of_tokens: int) -> None:
        super().__init__(dim, drop_rate)
        self.register_buffer("dct", dct_matrix(number_of_tokens), persistent=False)
        self.register_buffer("inverse_dct", inverse_dct_matrix(number_of_tokens), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform the sequence of tokens (B, T, D) in the frequency domain."""
        return self.inverse_dct @ super().forward(self.dct @ x)


class SpatialBlock(nn.Module):
    """Transformer block over the joints of one frame."""

    def __init__(self, dim: int, drop_rate: float, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, drop_rate)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform joints' tokens (B, 17, d)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class MixedBlock(nn.Module):
    """Transformer block over frequency and frame tokens.

    All tokens attend to each other. Then the first half of them (rounded down) passes an MLP and
    the second half a frequency MLP. Where f ≠ n the halves are not the two groups of tokens; the
    published network is so.
    """

    def __init__(
        self, dim: int, number_of_tokens: int, drop_rate: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        second_half = number_of_tokens - number_of_tokens // 2
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, drop_rate)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp1 = Mlp(dim, drop_rate)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp2 = FrequencyMlp(dim, drop_rate, second_half)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform frequencies' and frames' tokens (B, n + f, D)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        half = x.shape[1] // 2
        x1, x2 = x[:, :half], x[:, half:]
        x1 = x1 + self.drop_path(self.mlp1(self.norm2(x1)))
        x2 = x2 + self.drop_path(self.mlp2(self.norm3(x2)))
        return torch.cat([x1, x2], dim=1)


class WeightedMean(nn.Conv1d):
    """A learned weighted sum of a sample's tokens; a convolution in name and shape only."""

    def __init__(self, number_of_tokens: int) -> None:
        super().__init__(number_of_tokens, 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Sum tokens (B, T, D) to (B, D)."""
        # The convolution takes 30 times as long on a CPU.
        return (self.weight.view(1, -1) @ x).squeeze(1) + self.bias


def _in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer without autocast.

    The embeddings and the head hold 0.2 % of the work, but in bfloat16 they would round keypoints
    by pixels and poses by millimetres.
    """
    with torch.autocast(x.device.type, enabled=False):
        return layer(x)


class PoseFormerV2(nn.Module):
    """The whole network: normalised 2D keypoints to a root-relative 3D pose in metres."""

    matrices = "blocks"  # what the names of the modules hold whose matrices Muon moves

    def __init__(self, config: PoseFormerConfig) -> None:
        super().__init__()
        self.config = config
        f, n = config.number_of_kept_frames, config.number_of_kept_coeffs
        d, dim, drop = config.embed_dim_ratio, config.token_dim, config.drop_rate
        drop_paths = torch.linspace(0, config.drop_path_rate, config.depth, device="cpu").tolist()

        self.Joint_embedding = nn.Linear(config.in_chans, d)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, NUM_JOINTS, d))
        self.Freq_embedding = nn.Linear(NUM_JOINTS * config.in_chans, dim)
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, f, dim))
        self.Temporal_pos_embed_ = nn.Parameter(torch.zeros(1, n, dim))
        self.pos_drop = nn.Dropout(drop)
        self.Spatial_blocks = nn.ModuleList(SpatialBlock(d, drop, rate) for rate in drop_paths)
        self.Spatial_norm = nn.LayerNorm(d, eps=1e-6)
        self.blocks = nn.ModuleList(MixedBlock(dim, f + n, drop, rate) for rate in drop_paths)
        self.Temporal_norm = nn.LayerNorm(dim, eps=1e-6)
        self.weighted_mean = WeightedMean(n)
        self.weighted_mean_ = WeightedMean(f)
        self.head = nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, NUM_JOINTS * 3))
        self.register_buffer("dct", dct_matrix(config.number_of_frames)[:n], persistent=False)

    def frame_features(self, frames: Tensor) -> Tensor:
        """Turn each frame's keypoints (N, 17, C) into its token (N, 17 d), without positions.

        A frame's token does not depend on the window, so evaluation computes it once.
        """
        x = _in_float32(self.Joint_embedding, frames) + self.Spatial_pos_embed  # (N, 17, d)
        x = self.pos_drop(x)
        for block in self.Spatial_blocks:
            x = block(x)
        return self.Spatial_norm(x).flatten(1)

    def coefficients(self, windows: Tensor) -> Tensor:
        """Return the first n DCT coefficients (B, n, 17 C) of windows (B, F, 17, C)."""
        with torch.autocast(windows.device.type, enabled=False):
            return self.dct @ windows.flatten(2)

    def lift(self, features: Tensor, coefficients: Tensor) -> Tensor:
        """Estimate poses (B, 17, 3) from frame tokens (B, f, 17 d) and coefficients (B, n, 17 C).

        The frame tokens are those of `frame_features`, the coefficients those of `coefficients`.
        """
        n, f = coefficients.shape[1], features.shape[1]
        frames = self.pos_drop(features + self.Temporal_pos_embed)
        frequencies = _in_float32(self.Freq_embedding, coefficients) + self.Temporal_pos_embed_
        x = torch.cat([self.pos_drop(frequencies), frames], dim=1)  # (B, n + f, 17 d)
        for block in self.blocks:
            x = block(x)
        frequencies, frames = self.Temporal_norm(x).split([n, f], dim=1)
        means = [
            _in_float32(self.weighted_mean, frequencies),
            _in_float32(self.weighted_mean_, frames),
        ]  # each (B, 17 d)
        return _in_float32(self.head, torch.cat(means, dim=-1)).view(-1, NUM_JOINTS, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Estimate the middle frame's pose (B, 1, 17, 3), metres, from windows (B, F, 17, C)."""
        B, F_, J, C = x.shape  # windows, frames, joints, channels
        f = self.config.number_of_kept_frames
        first = (F_ - f) // 2
        frames = x[:, first : first + f].reshape(B * f, J, C)
        features = self.frame_features(frames).view(B, f, -1)
        return self.lift(features, self.coefficients(x)).view(B, 1, J, 3)


def model_flops(config: PoseFormerConfig) -> int:
    """Return the floating-point operations of one forward pass for one window.

    Two for each multiply-add of a matrix product (layers, attention, DCT); the elementwise work is
    not counted. The paper's figure for F, f, n = 27, 3, 3 is 117.3 million.
    """
    F_, f, n = config.number_of_frames, config.number_of_kept_frames, config.number_of_kept_coeffs
    C, d, D = config.in_chans, config.embed_dim_ratio, config.token_dim
    tokens, second = f + n, f + n - (f + n) // 2
    layers = 4 + 2 * MLP_RATIO  # of a block, each dim × dim: qkv, proj, fc1, fc2
    spatial = f * NUM_JOINTS * (layers * d * d + 2 * NUM_JOINTS * d)
    mixed = tokens * (layers * D * D + 2 * tokens * D) + 2 * second * second * D
    embedding = f * NUM_JOINTS * C * d + n * NUM_JOINTS * C * (F_ + D)
    head = tokens * D + 2 * D * NUM_JOINTS * 3
    return 2 * (embedding + config.depth * (spatial + mixed) + head)
