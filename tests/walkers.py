"""People who walk, as an estimator finds them."""

import numpy as np

SIZE = (640, 480)
FRAMES = 30
# A person who faces the camera, in units of the height, x to the right, y down from the hips.
FIGURE = np.array(
    [[0, -0.42], [0.02, -0.44], [-0.02, -0.44], [0.04, -0.43], [-0.04, -0.43],
     [0.1, -0.3], [-0.1, -0.3], [0.14, -0.15], [-0.14, -0.15], [0.16, 0], [-0.16, 0],
     [0.06, 0], [-0.06, 0], [0.07, 0.24], [-0.07, 0.24], [0.07, 0.48], [-0.07, 0.48]]
)  # fmt: skip


def walkers(frames=FRAMES, people=2, seed=0):
    """Return (frames, people, 17, 3): people who walk to and fro at different heights."""
    random = np.random.default_rng(seed)
    time = np.arange(frames)[:, None]
    phase = np.arange(people) * np.pi
    x = 320 + 150 * np.cos(time / 12 + phase)
    y = np.broadcast_to(240 + 20 * np.arange(people), x.shape)
    points = 300 * FIGURE + np.stack([x, y], axis=-1)[:, :, None]
    points += random.normal(0, 0.5, points.shape)
    confidence = random.uniform(0.5, 1, (*points.shape[:-1], 1))
    return np.concatenate([points, confidence], axis=-1)
