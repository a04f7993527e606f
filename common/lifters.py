"""The lifters by name, and what each offers: adding one is its model file and a line here.

A lifter is a configuration and a network. The configuration is a frozen dataclass with
- `number_of_frames`, `in_chans` and `confidence_chans`: the network takes (B, F, 17, C), normalised
  2D, of which the last channels are confidences; mirrored 2D gives the mirrored pose (nearly);
- `view`: what the 2D is normalised by: "picture", half its width, or "person", `follow_person`;
- `gives_all_frames`: whether it answers (B, F, 17, 3), metres, or the middle frame's (B, 1, 17, 3);
- `fields_in(weights)`: its fields as far as the weights' shapes tell them;
- `with_frames(weights, number_of_frames)`: its weights for windows of another length.

The network is built from it, keeps it as `config`, ends in a linear layer `head`, and names in
`matrices` the modules whose matrices Muon moves. Windows, loss, evaluation, lifting and streaming
follow from that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor, nn

from common.model_motionagformer import PRESETS, MotionAGFormer, MotionAGFormerConfig
from common.model_poseformer import PoseFormerConfig, PoseFormerV2

LifterConfig = PoseFormerConfig | MotionAGFormerConfig


@dataclass(frozen=True)
class Lifter:
    """One kind of lifter.

    Attributes:
        config: the class of its configurations.
        network: the class of its networks.
        recipe: the name of the recipe that trains it unless another is asked for.
        presets: {name: {field of the configuration: value}}.
    """

    config: type[LifterConfig]
    network: type[nn.Module]
    recipe: str
    presets: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def fields(self) -> set[str]:
        """Names of the configuration's fields."""
        return {f.name for f in fields(self.config)}

    @property
    def own_flags(self) -> set[str]:
        """Names of its flags of run_poseformer.py that not every lifter has."""
        names = self.fields | ({"preset"} if self.presets else set())
        names |= {"dropout", "drop_path"} if "drop_rate" in self.fields else set()
        return names if self.config.gives_all_frames else names | {"velocity"}


LIFTERS = {
    "poseformerv2": Lifter(PoseFormerConfig, PoseFormerV2, "default"),
    "motionagformer": Lifter(MotionAGFormerConfig, MotionAGFormer, "motionagformer", PRESETS),
}
DEFAULT = "poseformerv2"


def name_of(config: LifterConfig) -> str:
    """Return the name of the lifter that a configuration describes."""
    return next(name for name, lifter in LIFTERS.items() if lifter.config is type(config))


def build_network(config: LifterConfig) -> nn.Module:
    """Return a new network."""
    return LIFTERS[name_of(config)].network(config)


def recognise(weights: Mapping[str, Tensor]) -> tuple[Lifter, dict[str, Any]] | None:
    """Return the lifter whose weights these are, and its fields that they tell; None if unknown."""
    for lifter in LIFTERS.values():
        try:
            return lifter, lifter.config.fields_in(weights)
        except (KeyError, IndexError, ValueError):
            continue
    return None
