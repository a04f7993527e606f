"""The published network as plain formulas, for gradients and for other precisions than float32."""

import numpy as np
import torch
import torch.nn.functional as F

HEADS = 8


def dct(size):
    k = np.arange(size)[:, None]
    matrix = 2 * np.cos(np.pi * k * (2 * np.arange(size) + 1) / (2 * size))
    return torch.from_numpy(matrix)


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def norm(p, name, x, eps=1e-6):
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps)


def attention(qkv):
    B, T, D = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(B, T, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / (D // HEADS) ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(B, T, D)


def attend(p, name, x):
    return linear(p, f"{name}.proj", attention(linear(p, f"{name}.qkv", x)))


def mlp(p, name, x):
    return linear(p, f"{name}.fc2", F.gelu(linear(p, f"{name}.fc1", x)))


def forward(p, x, config):
    """Return poses (B, 1, 17, 3) in the precision of the parameters p: {name: tensor}."""
    (B, N, J, C), f, n = x.shape, config.number_of_kept_frames, config.number_of_kept_coeffs
    first, dtype = (N - f) // 2, x.dtype
    s = x[:, first : first + f].reshape(B * f, J, C)
    s = linear(p, "Joint_embedding", s) + p["Spatial_pos_embed"]
    for i in range(config.depth):
        block = f"Spatial_blocks.{i}"
        s = s + attend(p, f"{block}.attn", norm(p, f"{block}.norm1", s))
        s = s + mlp(p, f"{block}.mlp", norm(p, f"{block}.norm2", s))
    s = norm(p, "Spatial_norm", s).reshape(B, f, -1) + p["Temporal_pos_embed"]
    z = dct(N)[:n].to(dtype) @ x.reshape(B, N, J * C)
    z = torch.cat([linear(p, "Freq_embedding", z) + p["Temporal_pos_embed_"], s], 1)
    half = (n + f) // 2
    forth = dct(n + f - half).to(dtype)
    for i in range(config.depth):
        block = f"blocks.{i}"
        z = z + attend(p, f"{block}.attn", norm(p, f"{block}.norm1", z))
        a, b = z[:, :half], z[:, half:]
        a = a + mlp(p, f"{block}.mlp1", norm(p, f"{block}.norm2", a))
        b = b + forth.inverse() @ mlp(p, f"{block}.mlp2", forth @ norm(p, f"{block}.norm3", b))
        z = torch.cat([a, b], 1)
    z = norm(p, "Temporal_norm", z)
    means = [
        F.conv1d(part, p[f"{name}.weight"], p[f"{name}.bias"])
        for name, part in (("weighted_mean", z[:, :n]), ("weighted_mean_", z[:, n:]))
    ]
    z = norm(p, "head.0", torch.cat(means, -1).flatten(1), 1e-5)
    return linear(p, "head.1", z).view(B, 1, J, 3)


def relative_error(actual, expected):
    """Return the largest error as a part of the largest number that is expected."""
    expected = torch.as_tensor(expected)
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()
