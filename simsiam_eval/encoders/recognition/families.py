"""The checkpoint families that are recognized: a table of rules.

A trunk is found by its structure (search.py), whatever its keys start with. A family adds what structure does not show: its
name, which other keys are projector and predictor, what its code does in the stem, and how its images are normalized.

This is the one place to add a family:

1. Add a row to FAMILIES. The first row that fits is taken, so a more specific row stands above a more general one.
2. Add its keys to CASES in tests/simsiam_eval/encoders/test_families.py, which fails until they are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from simsiam_eval.encoders.architectures import TrunkVariant

Normalization = Mapping[str, list[float]]
EPSILON = 1e-5  # that torchvision's batch normalization adds to variances

_PLAIN = TrunkVariant()  # 3x3 convolution with stride 1 and padding 1, no max pooling
_IMAGENET_NORMALIZATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_SWAV = {"mean": [0.485, 0.456, 0.406], "std": [0.228, 0.224, 0.225]}
_CIFAR10 = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}  # kuangliu/pytorch-cifar
_SOLO_LEARN = {
    "cifar10": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]},
    "cifar100": {"mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]},
    "stl10": {"mean": [0.4914, 0.4823, 0.4466], "std": [0.247, 0.243, 0.261]},
    "imagenet": _IMAGENET_NORMALIZATION,
    "imagenet100": _IMAGENET_NORMALIZATION,
}


@dataclass(frozen=True)
class Family:
    """How one toolkit names its keys, and what its code does.

    Attributes:
        name: as reported by `inspect`.
        trunk: regular expression of what precedes the trunk's keys (containers that say nothing and wrappers removed).
        marks: regular expressions, each of which finds one of the file's lines: its plain keys, "@NAME" for an entry of the
            file, "@config.NAME" for one of its config.json, "@naming.NAME" for how the trunk's keys are named.
        projector, predictor: start of their keys; "{trunk}" stands for what precedes the trunk's.
        skipped: (start of keys, what they are) of other known parts.
        cifar: what the toolkit's code does with a 3x3 stem; None: not known.
        imagenet: the same of a 7x7 stem.
        normalizations: of the images on which the toolkit trains, by the data set or by the stem.
        epsilon: that its batch normalization adds to variances.
        takes_bgr: whether its encoders take images in BGR or RGB, as a config decides.
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
    takes_bgr: bool = False

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
        for part, start, reason in rules:
            if key == start or (start.endswith((".", "_")) and key.startswith(start)):
                return part, reason
        return "other", "not part of the encoder"


_QUEUE = (("queue", "the queue of negatives"), ("queue_ptr", "the queue of negatives"))
_QUEUE2 = tuple((name.replace("queue", "queue2"), reason) for name, reason in _QUEUE)  # DenseCL's
_CLASSIFIER = ("classifier.", "the classifier")

FAMILIES = (
    # facebookresearch/simsiam's main_simsiam.py, and ours.
    Family(
        "simsiam",
        r"encoder\.",
        (r"^(encoder\.fc|predictor)\.\d+\.|^@simsiam_eval$",),
        projector="{trunk}fc.",
        predictor="predictor.",
        cifar=_PLAIN,
        imagenet=_PLAIN,
    ),
    Family("moco", r"encoder_[qk]\.", projector="{trunk}fc.", skipped=_QUEUE, imagenet=_PLAIN),
    Family(
        "moco-v3",
        r"(base|momentum)_encoder\.",
        projector="{trunk}fc.",
        predictor="predictor.",
        imagenet=_PLAIN,
    ),
    # Also mmselfsup 1.x, which became a part of it. The averages of BYOL and MoCo count their steps.
    Family(
        "mmpretrain",
        r"backbone\.|(encoder_k|target_net|momentum_encoder)\.0\.",
        (r"^(neck|head)\.", r"^@message_hub$|^(encoder_k|target_net|momentum_encoder)\.steps$"),
        projector="neck.",
        predictor="head.predictor.",
        skipped=(("head.", "the head"), *_QUEUE, *_QUEUE2),
    ),
    # OpenSelfSup, on which DenseCL stands: encoder_q is a Sequential of backbone and neck.
    Family(
        "densecl",
        r"encoder_[qk]\.0\.",
        (r"^queue2$",),
        projector="encoder_q.1.",
        skipped=(*_QUEUE, *_QUEUE2),
    ),
    Family(
        "mmselfsup",
        r"(encoder_[qk]|(online|target)_net|(base|momentum)_encoder)\.0\.",
        projector="encoder_q.1.",
        skipped=_QUEUE,
    ),
    Family(
        "lightly-train",
        r"(student_|teacher_)?embedding_model\.wrapped_model\._\w+\.",
        projector="projection_head.",
        predictor="prediction_head.",
    ),
    Family(
        "solo-learn",
        r"(momentum_)?backbone\.",
        (r"^classifier\.weight$", r"^(projector|head|prototypes|decoder|momentum_projector)\.|^@hyper_parameters$"),
        projector="projector.",
        predictor="predictor.",
        skipped=(_CLASSIFIER, ("momentum_projector.", "the momentum projector"), *_QUEUE),
        cifar=TrunkVariant(stem_padding=2),
        imagenet=_PLAIN,
        normalizations=_SOLO_LEARN,
    ),
    # The 91.9 % SimSiam for CIFAR-10, with PatrickHua's heads and its own normalization.
    Family(
        "reza-safdari",
        r"(backbone|encoder\.0)\.",
        (r"^predictor\.layer1\.0\.", r"^encoder\.1\.", r"^@top1_acc$"),
        projector="projector.",
        predictor="predictor.",
        skipped=(("encoder.", "a copy of backbone and projector"),),
        cifar=_PLAIN,
        normalizations={"cifar": _CIFAR10},
    ),
    # SimSiam, and SimCLR, which has no predictor.
    Family(
        "patrickhua",
        r"(backbone|encoder\.0)\.",
        (r"^projector\.layer1\.0\.", r"^encoder\.1\.layer1\.0\."),
        projector="projector.",
        predictor="predictor.",
        skipped=(("encoder.", "a copy of backbone and projector"),),
        cifar=_PLAIN,
        imagenet=_PLAIN,
        normalizations={"cifar": _IMAGENET_NORMALIZATION, "imagenet": _IMAGENET_NORMALIZATION},
    ),
    Family(
        "lightly",
        r"(student_|teacher_)?backbone(_momentum)?\.",
        (r"^(projection_head|prediction_head|student_head|student_projection_head|prototypes)\.",),
        projector="projection_head.",
        predictor="prediction_head.",
        skipped=(
            ("projection_head_momentum.", "the momentum projector"),
            ("student_head.", "the student's projection head"),
            ("teacher_head.", "the teacher's projection head"),
            ("prototypes.", "the prototypes"),
        ),
    ),
    Family("vissl", r"(.*\.)?_feature_blocks\."),
    Family(
        "dino",
        r"(student\.|teacher\.)?backbone\.",
        (r"^(student\.|teacher\.)?head\.(mlp|last_layer)",),
        skipped=(
            ("head.", "the projection head"),
            ("student.head.", "the student's projection head"),
            ("teacher.head.", "the teacher's projection head"),
        ),
        imagenet=_PLAIN,
    ),
    Family(
        "barlow-twins",
        r"backbone\.",
        (r"^projector\.\d+\.", r"^bn\.running_mean$"),
        projector="projector.",
        imagenet=_PLAIN,
    ),
    Family("vicreg", r"backbone\.", (r"^projector\.\d+\.",), projector="projector.", imagenet=_PLAIN),
    Family(
        "byol",
        r"(online_encoder|target_encoder)\.net\.|net\.",
        (r"^online_encoder\.net\.",),
        projector="online_encoder.projector.",
        predictor="online_predictor.",
    ),
    Family(
        "lightning-bolts",
        r"(online|target)_network\.encoder\.",
        (r"^online_network\.projector\.model\.",),
        projector="online_network.projector.",
        predictor="predictor.",
        skipped=(("target_network.", "the target network"),),
    ),
    Family("lightning-bolts", r"encoder\.", (r"^projection\.model\.",), projector="projection."),
    Family("byol", r"(online|target)_(network|encoder)(_state_dict)?\.(\w+\.)?"),
    Family(
        "mmselfsup",
        r"backbone\.",
        (r"^(neck|head)\.",),
        projector="neck.",
        predictor="head.predictor.",
        skipped=(("head.", "the head"),),
    ),
    Family("simclr", r"backbone\.", (r"^backbone\.fc\.\d+\.",), projector="{trunk}fc.", imagenet=_PLAIN),
    # leftthomas/SimCLR: an nn.Sequential without max pooling, which its indices show.
    Family("simclr", r"f\.", (r"^g\.\d+\.",), projector="g.", cifar=_PLAIN),
    # Spijkervet/SimCLR.
    Family("simclr", r"encoder\.", (r"^projector\.2\.weight$",), projector="projector."),
    # HobbitLong/CMC and its MoCo, whose moving average is the entry model_ema.
    Family("cmc", r"encoder\.", (r"^@contrast$", r"^@opt$"), imagenet=_PLAIN),
    Family("maskrcnn-benchmark", r"backbone\.body\.", (r"^backbone\.body\.stem\.",), epsilon=0.0, takes_bgr=True),
    Family("transformers", r"(\w+\.)*", (r"^@naming\.transformers$",), skipped=(_CLASSIFIER,), imagenet=_PLAIN),
    Family("transformers-timm", r"timm_model\."),
    Family("segmentation-models", r"encoder\.", (r"^decoder\.", r"^segmentation_head\."), imagenet=_PLAIN),
    Family("torchvision-detection", r"backbone\.body\.", imagenet=_PLAIN),
    Family(
        "torchvision-segmentation",
        r"backbone\.",
        (r"^(aux_)?classifier\.\d+\.",),
        imagenet=TrunkVariant(output_stride=8),
    ),
    Family("detectron2", r".*", (r"^@naming\.detectron2$",), takes_bgr=True),
    # facebookresearch/swav trains and evaluates with a standard deviation of its own.
    Family(
        "swav",
        r"",
        (r"^prototypes\.", r"^projection_head\."),
        projector="projection_head.",
        skipped=(("prototypes.", "the prototypes"),),
        imagenet=_PLAIN,
        normalizations={"imagenet": _SWAV},
    ),
    Family(
        "swav",
        r"",
        (r"^(prototypes|projection_head)\.",),
        projector="projection_head.",
        skipped=(("prototypes.", "the prototypes"),),
        imagenet=_PLAIN,
    ),
    # kuangliu/pytorch-cifar and the many repositories that copied its ResNet; lightly's ResNetGenerator lacks `linear`.
    Family(
        "pytorch-cifar",
        r"",
        (r"^layer2\.0\.shortcut\.", r"^linear\."),
        skipped=(("linear.", "the classifier"),),
        cifar=_PLAIN,
        normalizations={"cifar": _CIFAR10},
    ),
    # A hub folder, and a checkpoint of timm's training script.
    Family("timm", r"", (r"^@(config\.pretrained_cfg|metric|version)$",)),
    Family("lightly", r"(resnet\w+_parameters\.)?", (r"^@naming\.sequential$|^layer2\.0\.shortcut\.",), cifar=_PLAIN),
    # Also the reference's and MoCo's main_lincls.py, and DINO's backbone-only files, without `fc`.
    Family("torchvision", r"", (r"^@naming\.torchvision$",)),
    Family("other", r".*"),
)


def family_of(prefix: str, naming: str, lines: Iterable[str]) -> Family:
    """The family of a trunk.

    Args:
        prefix: what precedes its keys, without wrappers and containers that say nothing.
        naming: how its keys are named.
        lines: the file's lines (see `Family.marks`).
    """
    text = "\n".join([*lines, f"@naming.{naming}"])
    return next(family for family in FAMILIES if family.fits(prefix, text))
