"""MotionAGFormer: lifts a clip of 2D keypoints to the 3D pose of each of its frames.

Mehraban, Adeli, Taati: "MotionAGFormer: Enhancing 3D Human Pose Estimation with a
Transformer-GCNFormer Network", WACV 2024, arXiv 2310.16288. Parameter names and shapes are the
published ones, so that published checkpoints load.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_JOINTS = 17
MLP_RATIO = 4
DIM_REP = 512
NUM_NEIGHBOURS = 2  # of a frame in the temporal graph: itself and the frame that is most like it
LAYER_SCALE = 1e-5  # at the start
# Joints that a joint's row of the spatial graph reads, as published; not symmetric everywhere.
NEIGHBOURS = (
    *((1, 7), (0, 2), (1, 3), (2,), (0, 5), (4, 6), (5,), (0, 8), (7, 9)),
    *((8, 10), (9,), (8, 12), (11, 13), (12,), (8, 15), (14, 16), (15,)),
)


@dataclass(frozen=True)
class MotionAGFormerConfig:
    """Architecture of one MotionAGFormer.

    Attributes:
        number_of_frames: T, of a clip; odd.
        depth: number of layers.
        dim: D, channels of a joint.
        num_heads: attention heads.
        in_chans: channels of a keypoint: two for each estimator, and its confidences.
        confidence_chans: how many of the channels, the last ones, are confidences; mirroring
            leaves them alone.
        view: what is seen: the "picture", in halves of its width, or the "person", by the virtual
            camera of `follow_person`.
        gives_all_frames: the network answers a pose for every frame of a clip.

    Raises:
        ValueError: if the values describe no network.
    """

    gives_all_frames: ClassVar[bool] = True
    number_of_frames: int = 27
    depth: int = 12
    dim: int = 64
    num_heads: int = 8
    in_chans: int = 2
    confidence_chans: int = 0
    view: str = "picture"

    def __post_init__(self) -> None:
        if self.number_of_frames < 1 or self.number_of_frames % 2 == 0:
            raise ValueError(f"number_of_frames must be odd, not {self.number_of_frames}")
        if min(self.depth, self.in_chans, self.num_heads) < 1:
            raise ValueError("depth, in_chans and num_heads must be positive")
        if self.dim < 1 or self.dim % self.num_heads:
            raise ValueError(
                f"dim must be a multiple of the {self.num_heads} attention heads, not {self.dim}"
            )
        if not 0 <= self.confidence_chans < self.in_chans:
            raise ValueError("confidence_chans must lie between 0 and in_chans")

    @staticmethod
    def fields_in(weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the fields that the shapes of a network's weights tell: all but the heads.

        Raises:
            KeyError or ValueError: if they are another network's.
        """
        dim, in_chans = weights["joints_embed.weight"].shape
        (number_of_frames,) = weights["layers.0.graph_temporal.mixer.batch_norm.weight"].shape
        layers = {key.split(".")[1] for key in weights if key.startswith("layers.")}
        return {
            "number_of_frames": number_of_frames,
            "depth": len(layers),
            "dim": dim,
            "in_chans": in_chans,
        }

    def with_frames(
        self, weights: Mapping[str, Tensor], number_of_frames: int
    ) -> dict[str, Tensor]:
        """Return a network's weights for clips of another length.

        Only the batch norms over frames depend on it; a frame takes the channel of the frame that
        lies as far into the clip.
        """

        def stretched(channels: Tensor) -> Tensor:
            return F.interpolate(channels[None, None], number_of_frames, mode="nearest-exact")[0, 0]

        of_frames = "graph_temporal.mixer.batch_norm."
        return {k: stretched(w) if of_frames in k and w.ndim else w for k, w in weights.items()}


PRESETS = {
    "xs": {"number_of_frames": 27, "depth": 12, "dim": 64},
    "s": {"number_of_frames": 81, "depth": 26, "dim": 64},
    "b": {"number_of_frames": 243, "depth": 16, "dim": 128},
    "l": {"number_of_frames": 243, "depth": 26, "dim": 128},
}


class Attention(nn.Module):
    """Multi-head self-attention among the tokens of each sequence."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens (N, T, D) of each sequence."""
        N, T, D = x.shape  # sequences, tokens, channels
        qkv = self.qkv(x).view(N, T, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, T, channels of a head)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(N, T, D))


class GraphConvolution(nn.Module):
    """ReLU(x + BatchNorm(Â V x + U x)) on the nodes of a graph; Â = D^-1/2 A D^-1/2.

    The batch norm's channels are the graph's nodes. Without a fixed graph, A joins each node to
    the nodes whose features are most like its own (their dot product), itself among them.
    """

    def __init__(self, dim: int, number_of_nodes: int, adjacency: Tensor | None = None) -> None:
        super().__init__()
        self.U = nn.Linear(dim, dim)
        self.V = nn.Linear(dim, dim)
        self.batch_norm = nn.BatchNorm1d(number_of_nodes)
        fixed = None if adjacency is None else normalise(adjacency)  # float64
        self.register_buffer("adjacency", fixed, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the nodes (N, nodes, D) of each graph."""
        adjacency = self.adjacency
        if adjacency is None:
            adjacency = normalise(most_similar(x.detach()))
        mixed = adjacency.to(x.dtype) @ self.V(x) + self.U(x)
        return F.relu(x + self.batch_norm(mixed))


def most_similar(x: Tensor) -> Tensor:
    """Return A (N, T, T): 1 where x_i · x_j is among the greatest of row i, of x (N, T, D)."""
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 would make many of them equal
        similarity = x @ x.mT
    threshold = similarity.topk(min(NUM_NEIGHBOURS, x.shape[1]), dim=-1).values[..., -1:]
    return (similarity >= threshold).to(x.dtype)


def normalise(adjacency: Tensor) -> Tensor:
    """Return D^-1/2 A D^-1/2 of A (..., nodes, nodes), D the sums of its rows."""
    scale = adjacency.sum(dim=-1).rsqrt()
    return scale[..., :, None] * adjacency * scale[..., None, :]


def skeleton_graph() -> Tensor:
    """Return the spatial graph A, (17, 17), float64."""
    adjacency = torch.zeros(NUM_JOINTS, NUM_JOINTS, dtype=torch.float64)
    for joint, neighbours in enumerate(NEIGHBOURS):
        adjacency[joint, list(neighbours)] = 1
    return adjacency


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (N, T, D), each alone."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A mixer and an MLP, each on a normalised residual branch with a learned scale."""

    def __init__(self, dim: int, mixer: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), LAYER_SCALE))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (N, T, D)."""
        x = x + self.layer_scale_1 * self.mixer(self.norm1(x))
        x = x + self.layer_scale_2 * self.mlp(self.norm2(x))
        return x


class Layer(nn.Module):
    """Attention beside graph convolutions, over joints and then over frames, fused by weights."""

    def __init__(self, config: MotionAGFormerConfig) -> None:
        super().__init__()
        D, T, heads = config.dim, config.number_of_frames, config.num_heads
        self.att_spatial = Block(D, Attention(D, heads))
        self.att_temporal = Block(D, Attention(D, heads))
        self.graph_spatial = Block(D, GraphConvolution(D, NUM_JOINTS, skeleton_graph()))
        self.graph_temporal = Block(D, GraphConvolution(D, T))
        self.fusion = nn.Linear(2 * D, 2)
        nn.init.zeros_(self.fusion.weight)
        nn.init.constant_(self.fusion.bias, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Transform joints' tokens (B, T, 17, D)."""
        attended = over_frames(self.att_temporal, over_joints(self.att_spatial, x))
        convolved = over_frames(self.graph_temporal, over_joints(self.graph_spatial, x))
        alpha = self.fusion(torch.cat([attended, convolved], dim=-1)).softmax(dim=-1)
        return attended * alpha[..., :1] + convolved * alpha[..., 1:]


def over_joints(block: Block, x: Tensor) -> Tensor:
    """Apply a block to the joints of each frame of x (B, T, 17, D)."""
    return block(x.flatten(0, 1)).view_as(x)


def over_frames(block: Block, x: Tensor) -> Tensor:
    """Apply a block to the frames of each joint of x (B, T, 17, D)."""
    B, T, J, D = x.shape  # clips, frames, joints, channels
    x = block(x.transpose(1, 2).reshape(B * J, T, D))
    return x.view(B, J, T, D).transpose(1, 2)


class MotionAGFormer(nn.Module):
    """The whole network: normalised 2D keypoints to root-relative 3D poses in metres."""

    matrices = "layers"  # what the names of the modules hold whose matrices Muon moves

    def __init__(self, config: MotionAGFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.joints_embed = nn.Linear(config.in_chans, config.dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, NUM_JOINTS, config.dim))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self.rep_logit = nn.Sequential()
        self.rep_logit.add_module("fc", nn.Linear(config.dim, DIM_REP))
        self.rep_logit.add_module("act", nn.Tanh())
        self.head = nn.Linear(DIM_REP, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Estimate poses (B, T, 17, 3), metres, from clips (B, T, 17, C)."""
        # In bfloat16 the embedding would round keypoints by pixels, the head poses by millimetres.
        with torch.autocast(x.device.type, enabled=False):
            x = self.joints_embed(x) + self.pos_embed  # (B, T, 17, D)
        for layer in self.layers:
            x = layer(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(self.rep_logit(self.norm(x)))
