"""The detector that a backend builds on the encoder, and smaller defaults that make it feasible on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

from simsiam_eval.vocabulary import IMAGENET_MEAN, IMAGENET_STD

# Of every protocol: regions of interest per image, and batches for the BN statistics after training.
ROIS, BN_BATCHES = 512, 200


@dataclass(frozen=True)
class DetectorSpec:
    """A Faster R-CNN, or with `masks` a Mask R-CNN, on an encoder.

    Attributes:
        heads: c4 or fpn.
        masks: whether it predicts masks.
        classes: class names, without a background class.
        min_sizes: short sides in pixels, of which training draws one for each image.
        test_size: short side of test images in pixels.
        max_size: maximum long side in pixels.
        proposals_before_nms, proposals: kept by the RPN for each image before and after NMS, (in training, in tests).
        rois: regions of interest per image that the heads are trained on.
        precise_bn: batches for estimating the BN statistics after training; 0: no estimate.
        mean, std: of RGB images, as fractions of 1.
    """

    heads: str
    masks: bool
    classes: tuple[str, ...]
    min_sizes: tuple[int, ...]
    test_size: int
    max_size: int
    proposals_before_nms: tuple[int, int]
    proposals: tuple[int, int]
    rois: int
    precise_bn: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


@dataclass(frozen=True)
class Sizes:
    """The numbers of a DetectorSpec that cost time; None: the protocol's, or fewer on a CPU."""

    proposals: int | None = None
    rois: int | None = None
    precise_bn: int | None = None


def detector_spec(
    *,
    heads: str,
    masks: bool,
    classes: tuple[str, ...],
    min_sizes: tuple[int, ...],
    test_size: int,
    max_size: int,
    sizes: Sizes,
    on_cpu: bool,
) -> tuple[DetectorSpec, str | None]:
    """The detector, and a sentence that names what is smaller than in the protocol because there is no GPU, if anything.

    With C4 heads every region passes through the fourth stage: 512 of them took 60 s per iteration on two cores.
    """
    c4 = heads == "c4"
    protocol_proposals = (2000 if c4 else 1000, 1000)
    protocol_before_nms = (12000, 6000) if c4 else (2000, 1000)
    if on_cpu:
        default_proposals, default_rois, default_bn = (100, 100), 32 if c4 else 64, 20
    else:
        default_proposals, default_rois, default_bn = protocol_proposals, ROIS, BN_BATCHES
    rois = sizes.rois or default_rois
    precise_bn = default_bn if sizes.precise_bn is None else sizes.precise_bn
    proposals = (sizes.proposals, sizes.proposals) if sizes.proposals else default_proposals
    # With as many proposals as in the protocol, they are selected from as many as in the protocol.
    few_proposals = on_cpu and (sizes.proposals or 0) < 1000
    before_nms = (1000, 1000) if few_proposals else protocol_before_nms
    before_nms = (max(before_nms[0], proposals[0]), max(before_nms[1], proposals[1]))
    note = None
    if on_cpu and (few_proposals or sizes.rois is None or sizes.precise_bn is None):
        note = (
            "No GPU: using smaller defaults, so this is not the protocol's result: "
            f"{rois} RoIs per image (protocol: {ROIS}), {proposals[0]} proposals per image out of {before_nms[0]} "
            f"(protocol: {protocol_proposals[0]} out of {protocol_before_nms[0]}), {precise_bn} batches for the BN "
            f"statistics (protocol: {BN_BATCHES})."
        )
    spec = DetectorSpec(
        heads=heads,
        masks=masks,
        classes=classes,
        min_sizes=min_sizes,
        test_size=test_size,
        max_size=max_size,
        proposals_before_nms=before_nms,
        proposals=proposals,
        rois=rois,
        precise_bn=precise_bn,
    )
    return spec, note
