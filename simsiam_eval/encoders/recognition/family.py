"""A checkpoint family: how one toolkit names its keys, and what its code does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from simsiam_eval.encoders.architectures import TrunkVariant

Normalization = Mapping[str, list[float]]
EPSILON = 1e-5  # that torchvision's batch normalization adds to variances


@dataclass(frozen=True)
class Family:
    """How one toolkit names its keys, and what its code does.

    Attributes:
        name: as reported by `inspect`.
        trunk: regular expression of what precedes the trunk's keys (containers that say nothing and wrappers removed).
        marks: regular expressions, each of which finds one of the file's lines: its plain keys, "@NAME" for an entry of the
            file, "@config.NAME" for one of its config.json, "@meta.NAME" for one of its entry `meta`, "@naming.NAME" for
            how the trunk's keys are named, "@arch.NAME" for its architecture.
        projector, predictor: start of their keys; "{trunk}" stands for what precedes the trunk's.
        skipped: (start of keys, what they are) of other known parts.
        cifar: what the toolkit's code does with a 3x3 stem; None: not known.
        imagenet: the same of a 7x7 stem.
        normalizations: of the images on which the toolkit trains, by the data set or by the stem.
        epsilon: that its batch normalization adds to variances.
        channel_orders: "rgb" and "bgr", in which its encoders may take color channels, where BGR is one of them.
        dilation: how its code dilates its encoders, in a way that torchvision's ResNets cannot; None: it does not.
        last_trained: the last stage that its code uses; later ones are in the file, untrained.
    """

    name: str
    trunk: str
    marks: tuple[str, ...] = ()
    projector: str | None = None
    predictor: str | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    cifar: TrunkVariant | None = None
    imagenet: TrunkVariant | None = None
    normalizations: Mapping[str, Normalization] = field(default_factory=dict)
    epsilon: float = EPSILON
    channel_orders: tuple[str, ...] = ()
    dilation: str | None = None
    last_trained: str = "layer4"

    def fits(self, prefix: str, lines: str) -> bool:
        """Whether a trunk belongs to this family.

        Args:
            prefix: what precedes its keys.
            lines: the file's lines, separated by newlines.
        """
        return re.fullmatch(self.trunk, prefix) is not None and all(re.search(mark, lines, re.M) for mark in self.marks)

    def part(self, key: str, prefix: str) -> tuple[str, str]:
        """(the part of the model that a key outside the trunk belongs to, the reason why it is not loaded)."""
        rules = [
            (part, start.replace("{trunk}", prefix), f"the {part}")
            for part, start in (("projector", self.projector), ("predictor", self.predictor))
            if start is not None
        ]
        rules += [("skipped", start.replace("{trunk}", prefix), reason) for start, reason in self.skipped]
        rules += [("skipped", prefix + "fc.", "the classifier")]
        matching = [
            rule for rule in rules if key == rule[1] or (rule[1].endswith((".", "_")) and key.startswith(rule[1]))
        ]
        if not matching:
            return "other", "not part of the encoder"
        part, _, reason = max(matching, key=lambda rule: len(rule[1]))
        return part, reason
