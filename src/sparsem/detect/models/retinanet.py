"""RetinaNet of torchvision (Lin et al. 2017): boxes by focal loss from anchors on a feature pyramid, large and small."""

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

MOST_BOXES = 2000  # that are told of a tile
SAME = 0.5  # intersection over union above which the surer of two boxes is told only


class RetinaNet(Detector):
    """Boxes by focal loss from anchors on a feature pyramid; ResNet-50, strides 8 to 128, 256 maps, version 2 of torchvision."""

    smallest = 32
    usual_rate = 1e-4
    has_coco = True
    finding_bytes = 450
    learning_bytes = 2700

    def __init__(self, kinds: int, see: int, queries: int) -> None:
        super().__init__()
        from torchvision.models.detection import retinanet_resnet50_fpn_v2

        self.net: Any = retinanet_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=kinds, **_as_it_is(see)
        )

    def loss(self, images: Tensor, targets: Sequence[DetectionTarget]) -> Tensor:
        """Focal loss of what, and generalized overlap loss of where."""
        wanted = [{"boxes": one.corners, "labels": one.kind} for one in targets]
        losses = self.net(list(gray_as_color(images)), wanted)
        return torch.stack(list(losses.values())).sum()

    def found(self, images: Tensor) -> list[Detections]:
        """Boxes of which none of a kind overlaps another by half."""
        return [
            Detections(one["boxes"], one["labels"], one["scores"])
            for one in self.net(list(gray_as_color(images)))
        ]

    def backbone(self) -> nn.Module:
        """The ResNet."""
        body: nn.Module = self.net.backbone.body
        return body

    def load_coco(self, file: Path | None) -> None:
        """Begin with torchvision's weights of COCO, or those of a file; the classes are new."""
        if file is None:
            from torchvision.models.detection import RetinaNet_ResNet50_FPN_V2_Weights

            state = RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
        else:
            state = read_weights(file)
        load_except(self.net, state, "head.classification_head.cls_logits.")


class SmallRetinaNet(RetinaNet):
    """The same idea with a ResNet-18, strides 4 to 64, and 64 maps."""

    smallest = 16
    usual_rate = 1e-3
    finding_bytes = 300
    learning_bytes = 1600
    has_coco = False

    def __init__(self, kinds: int, see: int, queries: int) -> None:
        Detector.__init__(self)
        from torchvision.models import resnet18
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.backbone_utils import BackboneWithFPN
        from torchvision.models.detection.retinanet import RetinaNet as Library
        from torchvision.models.detection.retinanet import RetinaNetHead
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        maps, levels = 64, {f"layer{number + 1}": str(number) for number in range(4)}
        pyramid = BackboneWithFPN(
            resnet18(weights=None), levels, [64, 128, 256, 512], maps, LastLevelMaxPool()
        )
        edges = tuple(
            tuple(self.smallest * 2 ** (level + third / 3) for third in range(3))
            for level in range(5)
        )
        anchors = AnchorGenerator(edges, ((0.5, 1.0, 2.0),) * 5)
        head = RetinaNetHead(maps, 9, kinds, norm_layer=partial(nn.GroupNorm, 16))
        head.regression_head._loss_type = "giou"  # as in version 2 of the large one
        self.net = Library(pyramid, kinds, anchor_generator=anchors, head=head, **_as_it_is(see))


def _as_it_is(see: int) -> dict[str, Any]:
    """A tile goes in as it is, and out comes all that may count."""
    tile: dict[str, Any] = {
        "min_size": see,
        "max_size": see,
        "image_mean": [0.0],
        "image_std": [1.0],
    }
    return tile | {
        "detections_per_img": MOST_BOXES,
        "topk_candidates": 2 * MOST_BOXES,
        "score_thresh": MIN_SCORE,
        "nms_thresh": SAME,
    }
