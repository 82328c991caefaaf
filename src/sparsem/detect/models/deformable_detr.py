"""Deformable DETR of transformers (Zhu et al. 2020), large and small; what the authors' code has and the library leaves out is put back."""

import math
from collections.abc import Mapping, Sequence
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

COCO_DETR = "SenseTime/deformable-detr"


class DeformableDetr(Detector):
    """Boxes by queries that look at a few points of four scales; ResNet-50, 6 + 6 layers, width 256, 300 queries."""

    smallest = 24
    usual_rate = 2e-4
    backbone_part = 0.1
    asks = True
    has_coco = True
    finding_bytes = 1600
    learning_bytes = 10_000
    shape: dict[str, Any] = {}  # noqa: RUF012  # as the library has it; nobody changes it

    def __init__(self, kinds: int, see: int, queries: int) -> None:
        super().__init__()
        from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

        # Weights of classes, corners and overlap in matching and loss: 2, 5, 2, as in the paper (the library's own class cost is 1).
        make_config: Any = DeformableDetrConfig
        config = make_config(
            num_labels=kinds,
            num_queries=queries,
            two_stage_num_proposals=queries,
            auxiliary_loss=True,
            class_cost=2,
            **{name: make() if callable(make) else make for name, make in self.shape.items()},
        )
        self.net: Any = DeformableDetrForObjectDetection(config)
        _with_learning_norms(self.net.model.backbone)
        _begin_as_published(self.net, config)
        for parameter in self.backbone().parameters():
            parameter.requires_grad_(True)

    def loss(self, images: Tensor, targets: Sequence[DetectionTarget]) -> Tensor:
        """Of every layer's boxes, each matched to one object at most: focal loss, corners, generalized overlap."""
        edge = images.shape[-1]
        wanted = [
            {"class_labels": one.kind, "boxes": _as_centers(one.corners / edge)} for one in targets
        ]
        said = self.net(pixel_values=gray_as_color(images), labels=wanted)
        weights = {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
        parts = list(said.loss_dict.items())
        if self.net.config.two_stage:
            parts += _loss_of_proposals(said, wanted, self.net.config).items()
        return torch.stack(
            [
                weight * value
                for key, value in parts
                for name, weight in weights.items()
                if key.startswith(name)
            ]
        ).sum()

    def found(self, images: Tensor) -> list[Detections]:
        """The surest kind of every query that is sure enough of any."""
        said = self.net(pixel_values=gray_as_color(images))
        answers = []
        for logits, centers in zip(said.logits.sigmoid(), said.pred_boxes, strict=True):
            score, kind = logits.max(dim=1)
            sure = score > MIN_SCORE
            answers.append(
                Detections(_as_corners(centers[sure]) * images.shape[-1], kind[sure], score[sure])
            )
        return answers

    def backbone(self) -> nn.Module:
        """The ResNet."""
        body: nn.Module = self.net.model.backbone.model
        return body

    def load_coco(self, file: Path | None) -> None:
        """Begin with the authors' weights of COCO, from the hub or from a folder or file; the classes are new."""
        from transformers import DeformableDetrForObjectDetection

        if file is not None and file.is_file():
            state = read_weights(file)
        else:
            known = DeformableDetrForObjectDetection.from_pretrained(
                str(file or COCO_DETR), use_safetensors=True
            )
            state = known.state_dict()
        load_except(self.net, state, "class_embed.", "query_position_embeddings.")


class SmallDeformableDetr(DeformableDetr):
    """The same idea with a ResNet-18, 3 + 3 layers, width 128; queries begin where the encoder sees something (two stages)."""

    smallest = 16
    usual_rate = 5e-4
    backbone_part = 1.0
    finding_bytes = 950
    learning_bytes = 3500
    has_coco = False

    @staticmethod
    def _resnet18() -> Any:
        from transformers import ResNetConfig

        make_config: Any = ResNetConfig
        return make_config(
            num_channels=3,
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )

    shape = {  # noqa: RUF012
        "backbone_config": _resnet18,
        "d_model": 128,
        "encoder_layers": 3,
        "decoder_layers": 3,
        "encoder_ffn_dim": 512,
        "decoder_ffn_dim": 512,
        "with_box_refine": True,
        "two_stage": True,
    }


def _as_centers(corners: Tensor) -> Tensor:
    """Center, width and height of boxes (n, 4)."""
    return torch.cat(
        [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1
    )


def _as_corners(centers: Tensor) -> Tensor:
    return torch.cat(
        [centers[:, :2] - centers[:, 2:] / 2, centers[:, :2] + centers[:, 2:] / 2], dim=1
    )


def _with_learning_norms(module: nn.Module) -> None:
    """Batch norms whose statistics are learnt for those that are frozen: frozen at random numbers nothing would be normalized."""
    for name, child in module.named_children():
        if type(child).__name__ == "DeformableDetrFrozenBatchNorm2d":
            setattr(module, name, nn.BatchNorm2d(child.get_buffer("weight").numel()))
        else:
            _with_learning_norms(child)


def _loss_of_proposals(
    said: Any, wanted: Sequence[Mapping[str, Tensor]], config: Any
) -> Mapping[str, Tensor]:
    """Of where the encoder sees objects, of any kind: in the authors' code, and without it queries would begin anywhere for ever.

    The library computes these boxes and leaves their loss out.
    """
    from transformers.loss.loss_deformable_detr import (
        DeformableDetrHungarianMatcher,
        DeformableDetrImageLoss,
    )

    make_matcher: Any = DeformableDetrHungarianMatcher
    matcher = make_matcher(
        class_cost=config.class_cost, bbox_cost=config.bbox_cost, giou_cost=config.giou_cost
    )

    def tile_by_tile(
        proposed: Mapping[str, Tensor], objects: Sequence[Any]
    ) -> list[Any]:  # together, each would be held to all objects
        return [
            matcher({key: own[at : at + 1] for key, own in proposed.items()}, [one])[0]
            for at, one in enumerate(objects)
        ]

    criterion: Any = DeformableDetrImageLoss(
        tile_by_tile, 1, config.focal_alpha, ["labels", "boxes"]
    )
    objects = [
        {"class_labels": torch.zeros_like(one["class_labels"]), "boxes": one["boxes"]}
        for one in wanted
    ]
    # The first output is by which it chooses.
    losses: Mapping[str, Tensor] = criterion(
        {
            "logits": said.enc_outputs_class[..., :1],
            "pred_boxes": said.enc_outputs_coord_logits.sigmoid(),
        },
        objects,
    )
    return losses


def _begin_as_published(net: Any, config: Any) -> None:
    """What the authors' code begins with, and the library's leaves out: nothing is sure of anything, and boxes are small."""
    for one in (net.model.input_proj, net.model.encoder, net.model.decoder):
        for name, parameter in one.named_parameters():
            if parameter.dim() > 1 and not any(
                part in name for part in ("sampling_offsets", "attention_weights")
            ):
                nn.init.xavier_uniform_(parameter)
    for head in net.class_embed:
        nn.init.constant_(head.bias, math.log(0.01 / 0.99))
    for number, head in enumerate(net.bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
        if number == 0 and not config.two_stage:
            nn.init.constant_(head.layers[-1].bias[2:], -2.0)
