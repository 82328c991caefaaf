"""Deformable DETR of transformers (Zhu et al. 2020), large and small.

Initial values and a loss that the authors' code has and the library leaves out are added.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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
from sparsem.extras import require

COCO_DETR = "SenseTime/deformable-detr"
# Weights of classes, corners and overlap in the loss, as in the paper.
LOSS_WEIGHTS = {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
INITIAL_SCORE = 0.01


class DeformableDetr(Detector):
    """Large Deformable DETR: ResNet-50, 6 + 6 layers, width 256, 300 queries.

    Queries attend to a few points of four scales.
    """

    min_object_px = 24
    default_rate = 2e-4
    backbone_rate_factor = 0.1
    has_queries = True
    has_coco_weights = True
    inference_bytes = 1600
    training_bytes = 10_000
    # Options of the library's configuration; a callable makes its value. Never changed.
    shape: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, n_structures: int, input_px: int, queries: int) -> None:
        super().__init__()
        require("detect")
        from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

        # Weights of classes, corners and overlap in matching: 2, 5, 2, as in the paper; the
        # library's own class cost is 1.
        make_config: Any = DeformableDetrConfig
        config = make_config(
            num_labels=n_structures,
            num_queries=queries,
            two_stage_num_proposals=queries,
            auxiliary_loss=True,
            class_cost=2,
            **{name: make() if callable(make) else make for name, make in self.shape.items()},
        )
        self.net: Any = DeformableDetrForObjectDetection(config)
        _replace_frozen_norms(self.net.model.backbone)
        _initialize_as_published(self.net, config)
        if config.two_stage:
            # The last head rates proposals of the encoder, by its first output only.
            last = len(self.net.class_embed) - 1
            self.nameless_outputs = (f"net.model.decoder.class_embed.{last}.",)
        for parameter in self.backbone().parameters():
            parameter.requires_grad_(True)

    def loss(self, images: Tensor, targets: Sequence[DetectionTarget]) -> Tensor:
        """Return the loss of the boxes of every layer, each matched to one object at most.

        It is the sum of focal loss, distance of corners and generalized overlap.
        """
        edge = images.shape[-1]
        labels = [
            {"class_labels": target.kind, "boxes": _to_centers(target.corners / edge)}
            for target in targets
        ]
        output = self.net(pixel_values=gray_as_color(images), labels=labels)
        parts = list(output.loss_dict.items())
        if self.net.config.two_stage:
            parts += _proposal_loss(output, labels, self.net.config).items()
        weighted = []
        for key, value in parts:
            for name, weight in LOSS_WEIGHTS.items():
                if key.startswith(name):
                    weighted.append(weight * value)
        return torch.stack(weighted).sum()

    def detect(self, images: Tensor) -> list[Detections]:
        """Return the box of every query with its most probable structure."""
        output = self.net(pixel_values=gray_as_color(images))
        answers = []
        for scores, centers in zip(output.logits.sigmoid(), output.pred_boxes, strict=True):
            score, kind = scores.max(dim=1)
            is_found = score > MIN_SCORE
            corners = _to_corners(centers[is_found]) * images.shape[-1]
            answers.append(Detections(corners, kind[is_found], score[is_found]))
        return answers

    def backbone(self) -> nn.Module:
        """Return the ResNet."""
        body: nn.Module = self.net.model.backbone.model
        return body

    def load_coco(self, file: Path | None) -> None:
        """Load the authors' weights of COCO, fetched or from a file or folder; classes are new."""
        require("detect")
        from transformers import DeformableDetrForObjectDetection

        if file is not None and file.is_file():
            state = read_weights(file)
        else:
            published = DeformableDetrForObjectDetection.from_pretrained(
                str(file or COCO_DETR), use_safetensors=True
            )
            state = published.state_dict()
        load_except(self.net, state, "class_embed.", "query_position_embeddings.")


class SmallDeformableDetr(DeformableDetr):
    """Small Deformable DETR: ResNet-18, 3 + 3 layers, width 128.

    It has two stages: queries start where the encoder finds objects.
    """

    min_object_px = 16
    default_rate = 5e-4
    backbone_rate_factor = 1.0
    inference_bytes = 950
    training_bytes = 3500
    has_coco_weights = False

    @staticmethod
    def _resnet18() -> Any:
        require("detect")
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


def _to_centers(corners: Tensor) -> Tensor:
    """Return center, width and height of boxes (n, 4)."""
    low = corners[:, :2]
    high = corners[:, 2:]
    return torch.cat([(low + high) / 2, high - low], dim=1)


def _to_corners(centers: Tensor) -> Tensor:
    """Return the corners of boxes (n, 4) of center, width and height."""
    middle = centers[:, :2]
    half = centers[:, 2:] / 2
    return torch.cat([middle - half, middle + half], dim=1)


def _replace_frozen_norms(module: nn.Module) -> None:
    """Replace frozen batch norms by trained ones, in place.

    Frozen at random numbers, they would normalize nothing.
    """
    for name, child in module.named_children():
        if type(child).__name__ == "DeformableDetrFrozenBatchNorm2d":
            setattr(module, name, nn.BatchNorm2d(child.get_buffer("weight").numel()))
        else:
            _replace_frozen_norms(child)


def _proposal_loss(
    output: Any, labels: Sequence[Mapping[str, Tensor]], config: Any
) -> Mapping[str, Tensor]:
    """Return the loss of the places where the encoder finds objects, of any structure.

    The library computes these boxes and leaves their loss out. The authors' code has it; without
    it, queries never learn where to start.
    """
    require("detect")
    from transformers.loss.loss_deformable_detr import DeformableDetrImageLoss

    criterion: Any = DeformableDetrImageLoss(
        _match_tile_by_tile(config), 1, config.focal_alpha, ["labels", "boxes"]
    )
    objects = []
    for label in labels:
        any_kind = torch.zeros_like(label["class_labels"])
        objects.append({"class_labels": any_kind, "boxes": label["boxes"]})
    proposals = {
        "logits": output.enc_outputs_class[..., :1],  # the output by which the encoder chooses
        "pred_boxes": output.enc_outputs_coord_logits.sigmoid(),
    }
    losses: Mapping[str, Tensor] = criterion(proposals, objects)
    return losses


def _match_tile_by_tile(config: Any) -> Callable[[Mapping[str, Tensor], Sequence[Any]], list[Any]]:
    """Return a matcher of proposals and objects that matches each tile by itself.

    Together, proposals are compared with objects of all tiles.
    """
    from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher

    make_matcher: Any = DeformableDetrHungarianMatcher
    matcher = make_matcher(
        class_cost=config.class_cost, bbox_cost=config.bbox_cost, giou_cost=config.giou_cost
    )

    def match(proposals: Mapping[str, Tensor], objects: Sequence[Any]) -> list[Any]:
        matches = []
        for index, tile_objects in enumerate(objects):
            of_tile = {key: values[index : index + 1] for key, values in proposals.items()}
            matches.append(matcher(of_tile, [tile_objects])[0])
        return matches

    return match


def _initialize_as_published(net: Any, config: Any) -> None:
    """Set the initial values of the authors' code, which the library leaves out.

    At first no score is high, and boxes are small.
    """
    for part in (net.model.input_proj, net.model.encoder, net.model.decoder):
        _initialize_matrices(part)
    for head in net.class_embed:
        nn.init.constant_(head.bias, math.log(INITIAL_SCORE / (1 - INITIAL_SCORE)))
    for number, head in enumerate(net.bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
        if number == 0 and not config.two_stage:
            nn.init.constant_(head.layers[-1].bias[2:], -2.0)


def _initialize_matrices(part: nn.Module) -> None:
    """Set random values in the matrices of a part, except those of its attention."""
    for name, parameter in part.named_parameters():
        is_attention = "sampling_offsets" in name or "attention_weights" in name
        if parameter.dim() > 1 and not is_attention:
            nn.init.xavier_uniform_(parameter)
