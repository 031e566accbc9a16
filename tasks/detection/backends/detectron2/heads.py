"""The reference protocol's C4 heads for detectron2; importing this module registers them."""

from __future__ import annotations

from typing import Any

from detectron2.layers import get_norm
from detectron2.modeling import ROI_HEADS_REGISTRY, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from simsiam_eval.encoders.architectures import ARCHITECTURES


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):  # type: ignore[misc]
    """detectron2's C4 heads with BN after res5, and also with the basic blocks of ResNet-18 and -34."""

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[nn.Sequential, int]:
        depth, norm = cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM
        if depth in (18, 34):
            width, count = 512, ARCHITECTURES[f"resnet{depth}"][1][3]
            strides = [2] + [1] * (count - 1)
            blocks = ResNet.make_stage(
                BasicBlock, count, stride_per_block=strides, in_channels=width // 2, out_channels=width, norm=norm
            )
            stage = nn.Sequential(*blocks)
        else:
            stage, width = super()._build_res5_block(cfg)
        stage.add_module("norm", get_norm(norm, width))
        return stage, width
