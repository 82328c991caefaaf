"""RetinaNet of torchvision (Lin et al. 2017), large and small.

Boxes are found by focal loss from anchors on a feature pyramid.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsem.detect.models.detector import (
    MIN_SCORE,
    Detections,
    DetectionTarget,
    Detector,
    gray_as_color,
)
from sparsem.detect.models.weights import load_except, read_weights

MAX_BOXES = 2000  # boxes that are returned for a tile
# Intersection over union above which only the box with the higher score is returned.
MAX_IOU = 0.5
SMALL_MAPS = 64  # feature maps of the small pyramid
SMALL_LEVELS = 5  # levels of the small pyramid, strides 4 to 64
ANCHOR_ASPECTS = (0.5, 1.0, 2.0)
ANCHORS_PER_PLACE = 9  # three sizes of three aspects


class RetinaNet(Detector):
    """Large RetinaNet: ResNet-50, strides 8 to 128, 256 feature maps, version 2 of torchvision."""

    min_object_px = 32
    default_rate = 1e-4
    has_coco_weights = True
    inference_bytes = 450
    training_bytes = 2700

    def __init__(self, n_structures: int, input_px: int, queries: int) -> None:
        super().__init__()
        from torchvision.models.detection import retinanet_resnet50_fpn_v2

        self.net: Any = retinanet_resnet50_fpn_v2(
            weights=None,
            weights_backbone=None,
            num_classes=n_structures,
            **_options(input_px),
        )

    def loss(self, images: Tensor, targets: Sequence[DetectionTarget]) -> Tensor:
        """Return the focal loss of classes plus the generalized overlap loss of boxes."""
        boxes = [{"boxes": target.corners, "labels": target.kind} for target in targets]
        losses = self.net(list(gray_as_color(images)), boxes)
        return torch.stack(list(losses.values())).sum()

    def detect(self, images: Tensor) -> list[Detections]:
        """Return boxes of which no two of a structure overlap by half."""
        return [
            Detections(answer["boxes"], answer["labels"], answer["scores"])
            for answer in self.net(list(gray_as_color(images)))
        ]

    def backbone(self) -> nn.Module:
        """Return the ResNet."""
        body: nn.Module = self.net.backbone.body
        return body

    def load_coco(self, file: Path | None) -> None:
        """Load torchvision's weights of COCO, or those of a file; the classes are new."""
        if file is None:
            from torchvision.models.detection import RetinaNet_ResNet50_FPN_V2_Weights

            state = RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
        else:
            state = read_weights(file)
        load_except(self.net, state, "head.classification_head.cls_logits.")


class SmallRetinaNet(RetinaNet):
    """Small RetinaNet: ResNet-18, strides 4 to 64, 64 feature maps."""

    min_object_px = 16
    default_rate = 1e-3
    inference_bytes = 300
    training_bytes = 1600
    has_coco_weights = False

    def __init__(self, n_structures: int, input_px: int, queries: int) -> None:
        Detector.__init__(self)
        from torchvision.models import resnet18
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.backbone_utils import BackboneWithFPN
        from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet
        from torchvision.models.detection.retinanet import RetinaNetHead
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        returned_layers = {f"layer{number + 1}": str(number) for number in range(4)}
        pyramid = BackboneWithFPN(
            resnet18(weights=None),
            returned_layers,
            [64, 128, 256, 512],
            SMALL_MAPS,
            LastLevelMaxPool(),
        )
        anchors = AnchorGenerator(self._anchor_sizes(), (ANCHOR_ASPECTS,) * SMALL_LEVELS)
        norm = partial(nn.GroupNorm, 16)
        head = RetinaNetHead(SMALL_MAPS, ANCHORS_PER_PLACE, n_structures, norm_layer=norm)
        head.regression_head._loss_type = "giou"  # as in version 2 of the large one
        self.net = TorchvisionRetinaNet(
            pyramid, n_structures, anchor_generator=anchors, head=head, **_options(input_px)
        )

    def _anchor_sizes(self) -> tuple[tuple[float, ...], ...]:
        """Return three sizes an octave for each level of the pyramid, px."""
        sizes = []
        for level in range(SMALL_LEVELS):
            thirds = [self.min_object_px * 2 ** (level + third / 3) for third in range(3)]
            sizes.append(tuple(thirds))
        return tuple(sizes)


def _options(input_px: int) -> dict[str, Any]:
    """Return options with which tiles are not resized, and all boxes that may count returned."""
    return {
        "min_size": input_px,
        "max_size": input_px,
        "image_mean": [0.0],
        "image_std": [1.0],
        "detections_per_img": MAX_BOXES,
        "topk_candidates": 2 * MAX_BOXES,
        "score_thresh": MIN_SCORE,
        "nms_thresh": MAX_IOU,
    }
