"""The checkpoint families that are recognized, and how each names its keys: a table of rules.

This is the one place to add a family:

1. Add a row to FAMILIES: the prefix of the encoder's keys, and those of everything that is skipped.
2. If its files keep the weights under an entry that is not in CONTAINERS yet, add that entry.
3. Add its keys to CASES in tests/simsiam_eval/encoders/test_families.py, which fails until they are there.

Family, architecture and stem are then recognized from keys and shapes by recognition.py.
"""

from dataclasses import dataclass

# Key components added by DistributedDataParallel and torch.compile, at any depth; removed before keys are compared.
WRAPPERS = ("module", "_orig_mod")


@dataclass(frozen=True)
class Family:
    """How one toolkit names its keys, without wrappers. Every prefix ends with a dot or is a complete key.

    Attributes:
        name: as reported by `inspect`.
        trunk: prefix of the encoder's keys; "" for none.
        projector, predictor: prefixes of the heads. One inside `trunk` (the projector in the trunk's `fc`) takes
            precedence over it.
        skipped: (prefix, reason) of the other keys that are not loaded.
    """

    name: str
    trunk: str
    projector: str | None = None
    predictor: str | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    def classify(self, key: str) -> tuple[str, str]:
        """("trunk", torchvision's key), or (another part of the model, why the key is skipped).

        >>> FAMILIES[0].classify("encoder.conv1.weight"), FAMILIES[0].classify("encoder.fc.0.weight")
        (('trunk', 'conv1.weight'), ('projector', 'the projector'))
        """
        rules = [("skipped", prefix, reason) for prefix, reason in self.skipped]
        rules += [
            (part, prefix, f"the {part}")
            for part, prefix in (("projector", self.projector), ("predictor", self.predictor))
            if prefix is not None
        ]
        for part, prefix, reason in rules:
            if key == prefix or (prefix.endswith(".") and key.startswith(prefix)):
                return part, reason
        if key.startswith(self.trunk):
            return "trunk", key.removeprefix(self.trunk)
        return "unknown", f"not a known part of a {self.name} model"


FAMILIES = (
    # facebookresearch/simsiam's main_simsiam.py, and ours.
    Family("simsiam", trunk="encoder.", projector="encoder.fc.", predictor="predictor."),
    # Also the reference's and MoCo's main_lincls.py, under `module.`, and DINO's backbone-only files, without `fc`.
    Family("torchvision", trunk="", skipped=(("fc.", "the classifier"),)),
    Family(
        "moco",
        trunk="encoder_q.",
        projector="encoder_q.fc.",
        skipped=(
            ("encoder_k.", "the momentum encoder"),
            ("queue", "the queue of negatives"),
            ("queue_ptr", "the queue of negatives"),
        ),
    ),
    Family(
        "moco-v3",
        trunk="base_encoder.",
        projector="base_encoder.fc.",
        predictor="predictor.",
        skipped=(("momentum_encoder.", "the momentum encoder"),),
    ),
    Family("dino", trunk="backbone.", skipped=(("head.", "the projection head"),)),
)

# Entries of a file that may hold the state dict, in order of preference, and the reason reported for those not used.
CONTAINERS = (
    ("state_dict", "a second set of weights; `state_dict` is preferred"),
    ("model", "a second set of weights"),
    ("teacher", "the teacher network"),
    ("student", "the student network; the teacher (its moving average) is preferred"),
)
BARE = "bare"  # container name of a file that is itself the state dict
