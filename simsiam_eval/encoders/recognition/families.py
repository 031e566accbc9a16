"""The checkpoint families that are recognized: a table of rules.

A trunk is found by its structure (search.py), whatever its keys start with. A family adds what structure does not show: its
name, which other keys are projector and predictor, what its code does in the stem, and how its images are normalized.

This is the one place to add a family:

1. Add a row to FAMILIES. The first row that fits is taken, so a more specific row stands above a more general one.
2. Add its keys to CASES in tests/simsiam_eval/encoders/recognition/test_families.py, which fails until they are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from simsiam_eval.encoders.architectures import TrunkVariant
from simsiam_eval.encoders.recognition import normalizations
from simsiam_eval.encoders.recognition.family import Family

_PLAIN = TrunkVariant()  # 3x3 convolution with stride 1 and padding 1, no max pooling
_RGB_OR_BGR = ("rgb", "bgr")
_QUEUE = tuple((name, "the queue of negatives") for name in ("queue", "queue_ptr", "queue2", "queue2_ptr", "queue."))
_CLASSIFIER = ("classifier.", "the classifier")
# OpenMMLab's networks beside `backbone`: its copy in an nn.Sequential with the neck, and the moving average of both.
_OPENMMLAB = (
    ("head.", "the head"),
    *_QUEUE,
    *((start, "a copy of backbone and neck") for start in ("encoder.", "encoder_q.", "online_net.")),
    *((start, "the moving average") for start in ("encoder_k.", "target_net.", "momentum_encoder.")),
)
_CAFFE2 = (("fc1000_", "the classifier"), ("conv1_b", "a bias that Detectron does not add"))

_SOLO_LEARN = Family(
    "solo-learn",
    r"(momentum_)?backbone\.",
    (r"^classifier\.weight$", r"^(projector|head|prototypes|decoder|momentum_projector)\."),
    projector="projector.",
    predictor="predictor.",
    skipped=(_CLASSIFIER, ("momentum_projector.", "the momentum projector"), *_QUEUE),
    cifar=TrunkVariant(stem_padding=2),
    imagenet=_PLAIN,
    normalizations=normalizations.SOLO_LEARN,
)
_MMSELFSUP = Family(
    "mmselfsup",
    r"(backbone|(encoder(_[qk])?|(online|target)_net)\.0)\.",
    (r"^(neck\.(fc|mlp|projection_head)|head\.(fc_cls|predictor|prototypes)\.)", r"^@meta$"),
    projector="neck.",
    predictor="head.predictor.",
    skipped=_OPENMMLAB,
)

FAMILIES = (
    _SOLO_LEARN,
    # Until version 1.0.2 its trunk is `encoder`, as in many other toolkits' files; its args.json identifies it.
    replace(
        _SOLO_LEARN, trunk=r"(momentum_)?encoder\.", marks=(*_SOLO_LEARN.marks, r"^@config\.(encoder|backbone_args)$")
    ),
    # facebookresearch/simsiam's main_simsiam.py, and ours.
    Family(
        "simsiam",
        r"encoder\.",
        (r"^encoder\.fc\.\d+\.|^@simsiam_eval$",),
        projector="{trunk}fc.",
        predictor="predictor.",
        cifar=_PLAIN,
        imagenet=_PLAIN,
    ),
    Family(
        "lightning-bolts",
        r"encoder_[qk]\.",
        (r"^queue\.representations$",),
        projector="{trunk}fc.",
        skipped=(*_QUEUE, ("val_queue.", "the queue of negatives")),
        imagenet=_PLAIN,
    ),
    Family("moco", r"encoder_[qk]\.", projector="{trunk}fc.", skipped=_QUEUE, imagenet=_PLAIN),
    Family("moco-v3", r"(base|momentum)_encoder\.", projector="{trunk}fc.", predictor="predictor.", imagenet=_PLAIN),
    # Also MMSelfSup 1.x, which became a part of it, and MMClassification. The averages of BYOL and MoCo count their steps.
    Family(
        "mmpretrain",
        r"(backbone|(encoder_k|target_net|momentum_encoder)\.0)\.",
        (
            r"^(neck\.(fc|mlp|projection_head)|head\.)",
            r"^@(message_hub|meta\.(mmengine|mmpretrain|mmcls)_version)$|^(encoder_k|target_net|momentum_encoder)\.steps$",
        ),
        projector="neck.",
        predictor="head.predictor.",
        skipped=_OPENMMLAB,
    ),
    # OpenSelfSup, on which DenseCL stands: encoder_q is a Sequential of backbone and neck.
    Family(
        "densecl",
        r"(backbone|encoder_[qk]\.0)\.",
        (r"^queue2$", r"^encoder_q\.1\."),
        projector="encoder_q.1.",
        skipped=(("neck.", "a copy of the projector"), *_OPENMMLAB),
    ),
    _MMSELFSUP,
    replace(_MMSELFSUP, marks=(r"^(encoder_q|online_net)\.1\.",), projector="encoder_q.1."),
    Family(
        "lightly-train",
        r"(student_|teacher_)?embedding_model\.wrapped_model\._\w+\.",
        projector="projection_head.",
        predictor="prediction_head.",
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
        normalizations={"cifar": normalizations.CIFAR10},
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
        normalizations={"cifar": normalizations.IMAGENET, "imagenet": normalizations.IMAGENET},
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
    Family(
        "vissl",
        r"(.*\.)?_feature_blocks\.",
        projector="classy_state_dict.base_model.model.heads.",
        skipped=(("classy_state_dict.base_model.model.heads.0.prototypes0.", "the prototypes"),),
    ),
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
    # lucidrains/byol-pytorch; its learner has the network a second time, as `net`.
    Family(
        "byol",
        r"((online|target)_encoder\.net\.)?",
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
        imagenet=_PLAIN,
    ),
    Family(
        "lightning-bolts",
        r"encoder\.",
        (r"^projection\.model\.",),
        projector="projection.",
        cifar=_PLAIN,
        imagenet=_PLAIN,
        normalizations=normalizations.LIGHTNING_BOLTS,
    ),
    # Its SwAV pads the image by 1 before the first convolution, whose own padding it reduces only for the 7x7 stem.
    Family(
        "lightning-bolts",
        r"",
        (r"^(prototypes|projection_head)\.", r"^@hyper_parameters$"),
        projector="projection_head.",
        skipped=(("prototypes.", "the prototypes"),),
        cifar=TrunkVariant(stem_padding=2),
        imagenet=_PLAIN,
        normalizations=normalizations.LIGHTNING_BOLTS,
    ),
    Family("byol", r"(online|target)_(network|encoder)(_state_dict)?\.(\w+\.)?"),
    Family("simclr", r"backbone\.", (r"^backbone\.fc\.\d+\.",), projector="{trunk}fc.", imagenet=_PLAIN),
    # leftthomas/SimCLR: an nn.Sequential without max pooling, which its indices show.
    Family("simclr", r"f\.", (r"^g\.\d+\.",), projector="g.", cifar=_PLAIN),
    # Spijkervet/SimCLR.
    Family("simclr", r"encoder\.", (r"^projector\.2\.weight$",), projector="projector."),
    # HobbitLong/CMC and its MoCo, whose moving average is the entry model_ema.
    Family("cmc", r"encoder\.", (r"^@contrast$", r"^@opt$"), imagenet=_PLAIN),
    Family(
        "maskrcnn-benchmark",
        r"backbone\.body\.",
        (r"^backbone\.body\.stem\.",),
        epsilon=0.0,
        channel_orders=_RGB_OR_BGR,
    ),
    Family("transformers", r"(\w+\.)*", (r"^@naming\.transformers$",), skipped=(_CLASSIFIER,), imagenet=_PLAIN),
    Family("transformers-timm", r"timm_model\."),
    # Its DeepLab and, unless told otherwise, its PAN.
    Family(
        "segmentation-models",
        r"encoder\.",
        (r"^decoder\.(aspp|fpa)\.", r"^segmentation_head\."),
        dilation="dilates also the first block of its last stages, as DeepLab and PAN of segmentation-models do",
    ),
    Family(  # its PSPNet
        "segmentation-models",
        r"encoder\.",
        (r"^decoder\.psp\.", r"^segmentation_head\."),
        imagenet=_PLAIN,
        last_trained="layer2",
    ),
    Family("segmentation-models", r"encoder\.", (r"^decoder\.", r"^segmentation_head\."), imagenet=_PLAIN),
    Family("torchvision-detection", r"backbone\.body\.", imagenet=_PLAIN),
    Family(
        "torchvision-segmentation",
        r"backbone\.",
        (r"^(aux_)?classifier\.\d+\.",),
        imagenet=TrunkVariant(output_stride=8),
    ),
    Family("detectron2", r".*", (r"^@naming\.detectron2$",), channel_orders=_RGB_OR_BGR),
    # Pickles of facebookresearch/Detectron: MSRA's ResNets, with Caffe's strides, and ResNeXts that Caffe2 trained.
    Family(
        "caffe2",
        r"",
        (r"^@naming\.caffe2$", r"^@arch\.resnext"),
        skipped=_CAFFE2,
        imagenet=_PLAIN,
        normalizations={"imagenet": normalizations.CAFFE2_RESNEXT},
        channel_orders=("bgr",),
    ),
    Family(
        "caffe2",
        r"",
        (r"^@naming\.caffe2$",),
        skipped=_CAFFE2,
        imagenet=TrunkVariant(stride_in_1x1=True),
        normalizations={"imagenet": normalizations.MSRA},
        channel_orders=("bgr",),
    ),
    # facebookresearch/swav trains and evaluates with a standard deviation of its own.
    Family(
        "swav",
        r"",
        (r"^prototypes\.", r"^projection_head\."),
        projector="projection_head.",
        skipped=(("prototypes.", "the prototypes"),),
        imagenet=_PLAIN,
        normalizations={"imagenet": normalizations.SWAV},
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
        normalizations={"cifar": normalizations.CIFAR10},
    ),
    # A hub folder, and a checkpoint of timm's training script.
    Family("timm", r"", (r"^@(config\.pretrained_cfg|metric|version)$",)),
    Family("lightly", r"(resnet\w+_parameters\.)?", (r"^@naming\.sequential$|^layer2\.0\.shortcut\.",), cifar=_PLAIN),
    # Also the reference's and MoCo's main_lincls.py, and DINO's backbone-only files, without `fc`.
    Family("torchvision", r"", (r"^@naming\.torchvision$",)),
    Family("other", r".*"),
)


def family_of(prefix: str, naming: str, arch: str, lines: Iterable[str]) -> Family:
    """The family of a trunk.

    Args:
        prefix: what precedes its keys, without wrappers and containers that say nothing.
        naming, arch: how its keys are named, and its architecture.
        lines: the file's lines (see `Family.marks`).
    """
    text = "\n".join([*lines, f"@naming.{naming}", f"@arch.{arch}"])
    return next(family for family in FAMILIES if family.fits(prefix, text))
