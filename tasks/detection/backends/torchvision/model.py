"""torchvision's Faster and Mask R-CNN on an encoder's trunk: C4 with BN after the fourth stage, or FPN.

Hyperparameters are detectron2's defaults unless the reference protocol sets others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from simsiam_eval.encoders.architectures import feature_width
from simsiam_eval.encoders.encoder import ResNetEncoder
from simsiam_eval.encoders.resnet import ResNet
from tasks.detection.detector_spec import DetectorSpec

_SIZES, _RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)


def build_detector(encoder: ResNetEncoder, spec: DetectorSpec) -> GeneralizedRCNN:
    """A torchvision detector that takes over the modules of the encoder's trunk; label 0 is the background."""
    arch, trunk, classes = encoder.arch, encoder.trunk, len(spec.classes) + 1
    if spec.heads == "c4":
        backbone: nn.Module = _C4Trunk(trunk)
        channels = feature_width(arch, "layer3")
        anchors = AnchorGenerator((_SIZES,), (_RATIOS,))
        heads: RoIHeads = _C4Heads(trunk.layer4, feature_width(arch), classes, spec)
    else:
        widths = [feature_width(arch, f"layer{stage}") for stage in (1, 2, 3, 4)]
        levels = {f"layer{stage}": str(stage - 1) for stage in (1, 2, 3, 4)}
        backbone = BackboneWithFPN(trunk, levels, widths, 256, LastLevelMaxPool(), nn.BatchNorm2d)
        channels = 256
        anchors = AnchorGenerator(tuple((size,) for size in _SIZES), (_RATIOS,) * len(_SIZES))
        heads = _fpn_heads(classes, spec)
    rpn = RegionProposalNetwork(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": spec.proposals_before_nms[0], "testing": spec.proposals_before_nms[1]},
        post_nms_top_n={"training": spec.proposals[0], "testing": spec.proposals[1]},
        nms_thresh=0.7,
    )
    transform = GeneralizedRCNNTransform(spec.min_sizes, spec.max_size, list(spec.mean), list(spec.std))
    return GeneralizedRCNN(backbone, rpn, heads, transform)


class _C4Trunk(nn.Module):
    """The trunk up to its third stage: images (B,3,H,W) -> feature maps (B,C,H/16,W/16)."""

    def __init__(self, trunk: ResNet) -> None:
        super().__init__()
        self.stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool)
        self.layer1, self.layer2, self.layer3 = trunk.layer1, trunk.layer2, trunk.layer3

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": self.layer3(self.layer2(self.layer1(self.stem(images))))}


class _Res5(nn.Module):
    """The fourth stage on pooled regions with the protocol's extra BN: (R,C,14,14) -> (R,D); keeps its maps for masks."""

    def __init__(self, layer4: nn.Module, width: int) -> None:
        super().__init__()
        self.layer4, self.norm = layer4, nn.BatchNorm2d(width)
        self.maps: Tensor | None = None

    def forward(self, regions: Tensor) -> Tensor:
        maps = self.norm(self.layer4(regions))
        self.maps = maps if self.training else None
        return torch.mean(maps, dim=(2, 3))


class _C4Heads(RoIHeads):  # type: ignore[misc]
    """Box and mask heads that share the fourth stage; in training it runs once, on the regions of the boxes."""

    def __init__(self, layer4: nn.Module, width: int, classes: int, spec: DetectorSpec) -> None:
        pool = MultiScaleRoIAlign(["0"], 14, 0)
        super().__init__(pool, _Res5(layer4, width), _box_predictor(width, classes), **_hyperparameters(spec))
        self._positive: Tensor | None = None
        if spec.masks:
            self.mask_roi_pool, self.mask_head = self._mask_maps, nn.Identity()
            self.mask_predictor = MaskRCNNPredictor(width, 256, classes)

    def select_training_samples(self, *args: Any) -> Any:
        samples = super().select_training_samples(*args)
        self._positive = torch.cat(samples[2]) > 0
        return samples

    def _mask_maps(self, *regions: Any) -> Tensor:
        """Feature maps (R,D,7,7) of the positive regions in training, of the detected boxes in tests."""
        if self.training:
            assert self.box_head.maps is not None and self._positive is not None
            maps, self.box_head.maps = self.box_head.maps, None
            return maps[self._positive]
        return self.box_head.norm(self.box_head.layer4(self.box_roi_pool(*regions)))


def _fpn_heads(classes: int, spec: DetectorSpec) -> RoIHeads:
    levels = ["0", "1", "2", "3"]
    mask_heads: dict[str, Any] = {}
    if spec.masks:
        mask_heads = {
            "mask_roi_pool": MultiScaleRoIAlign(levels, 14, 0),
            "mask_head": MaskRCNNHeads(256, (256,) * 4, 1, nn.BatchNorm2d),
            "mask_predictor": MaskRCNNPredictor(256, 256, classes),
        }
    box_head = TwoMLPHead(256 * 7 * 7, 1024)
    return RoIHeads(
        MultiScaleRoIAlign(levels, 7, 0),
        box_head,
        _box_predictor(1024, classes),
        **_hyperparameters(spec),
        **mask_heads,
    )


def _box_predictor(width: int, classes: int) -> FastRCNNPredictor:
    predictor = FastRCNNPredictor(width, classes)
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return predictor


def _hyperparameters(spec: DetectorSpec) -> dict[str, Any]:
    """Keyword arguments of RoIHeads."""
    return {
        "fg_iou_thresh": 0.5,
        "bg_iou_thresh": 0.5,
        "batch_size_per_image": spec.rois,
        "positive_fraction": 0.25,
        "bbox_reg_weights": None,  # torchvision's default, (10, 10, 5, 5), is also detectron2's
        "score_thresh": 0.05,
        "nms_thresh": 0.5,
        "detections_per_img": 100,
    }
