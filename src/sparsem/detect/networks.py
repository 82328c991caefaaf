"""The detectors by name: RetinaNet of torchvision (Lin et al. 2017) and Deformable DETR of transformers (Zhu et al. 2020).

The large ones are those of the thesis and of their libraries, and can begin with weights learnt on COCO; the small ones have a ResNet-18,
a pyramid from stride 4 on, and a tenth of the work: they learn on a CPU. Images are (B, 1, S, S) float32, standardised by sample; corners
are ``x0 y0 x1 y1`` in pixels of the tile.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sparsem.detect.weights import load_but, read_weights
from sparsem.errors import SettingsError
from sparsem.settings import nearest

MOST_BOXES = 2000  # that RetinaNet tells of a tile
LEAST_SCORE = 0.05  # below which nothing is told
SAME = 0.5  # intersection over union above which RetinaNet tells the surer of two boxes only
COARSEST = 128  # tiles are multiples of it: the stride of the coarsest level

COCO_DETR = "SenseTime/deformable-detr"


class Target(NamedTuple):
    """What is in a tile.

    Attributes:
        corners: (n, 4) float32.
        kind: (n,) int64.
    """

    corners: Tensor
    kind: Tensor


class Answer(NamedTuple):
    """What a detector found in a tile: ``corners`` (n, 4), ``kind`` (n,), ``score`` (n,)."""

    corners: Tensor
    kind: Tensor
    score: Tensor


class Detector(nn.Module):
    """What all detectors share.

    Attributes:
        smallest: edge of a square object, in pixels of the tile, that it finds well; smaller ones it may not.
        usual_rate: learning rate that it learns well at.
        backbone_part: of the learning rate, for the part that looks at images.
        finding_bytes: of memory that a pixel of a tile takes to be searched (measured on a CPU, tiles of 512 px, see benchmarks).
        learning_bytes: the same to be learnt from.
    """

    smallest = 16
    usual_rate = 1e-4
    backbone_part = 1.0
    finding_bytes = 0
    learning_bytes = 0
    asks = False  # by a number of queries, that is for so many objects in a tile
    has_coco = False  # weights that learnt on COCO, which it may begin with
    keeps_norms = False  # of weights that learnt on COCO: statistics of a few tiles would be worse than theirs

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """Of a batch (B, 1, S, S), to learn from."""
        raise NotImplementedError

    def found(self, images: Tensor) -> list[Answer]:
        """What is in every tile of a batch (B, 1, S, S)."""
        raise NotImplementedError

    def backbone(self) -> nn.Module:
        """The part that looks at images."""
        raise NotImplementedError

    def load_coco(self, file: Path | None) -> None:
        """Begin with weights of a file or folder, or with those that the library fetches."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "Detector":
        """As any module; norms that are kept stay as they are."""
        super().train(mode)
        if self.keeps_norms:
            for module in self.backbone().modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


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

        as_is: dict[str, Any] = {"min_size": see, "max_size": see, "image_mean": [0.0], "image_std": [1.0]}
        limits = {"detections_per_img": MOST_BOXES, "topk_candidates": 2 * MOST_BOXES, "score_thresh": LEAST_SCORE, "nms_thresh": SAME}
        self.net: Any = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=kinds, **as_is, **limits)

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """Focal loss of what, and generalised overlap loss of where."""
        wanted = [{"boxes": one.corners, "labels": one.kind} for one in targets]
        losses = self.net(list(_grey_as_colour(images)), wanted)
        return torch.stack(list(losses.values())).sum()

    def found(self, images: Tensor) -> list[Answer]:
        """Boxes of which none of a kind overlaps another by half."""
        return [Answer(one["boxes"], one["labels"], one["scores"]) for one in self.net(list(_grey_as_colour(images)))]

    def backbone(self) -> nn.Module:
        """The ResNet."""
        body: nn.Module = self.net.backbone.body
        return body

    def load_coco(self, file: Path | None) -> None:
        """Begin with torchvision's weights of COCO, or those of a file; the classes are new."""
        if file is None:
            from torchvision.models.detection import RetinaNet_ResNet50_FPN_V2_Weights

            state = RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1.get_state_dict(progress=False, check_hash=True, weights_only=True)
        else:
            state = read_weights(file)
        load_but(self.net, state, "head.classification_head.cls_logits.")


class SmallRetinaNet(RetinaNet):
    """The same idea with a ResNet-18, strides 4 to 64, and 64 maps."""

    smallest = 16
    usual_rate = 1e-3
    finding_bytes = 300
    learning_bytes = 1600

    def __init__(self, kinds: int, see: int, queries: int) -> None:
        Detector.__init__(self)
        from torchvision.models import resnet18
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.backbone_utils import BackboneWithFPN
        from torchvision.models.detection.retinanet import RetinaNet as Library
        from torchvision.models.detection.retinanet import RetinaNetHead
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        maps, levels = 64, {f"layer{number + 1}": str(number) for number in range(4)}
        pyramid = BackboneWithFPN(resnet18(weights=None), levels, [64, 128, 256, 512], maps, LastLevelMaxPool())
        edges = tuple(tuple(self.smallest * 2 ** (level + third / 3) for third in range(3)) for level in range(5))
        anchors = AnchorGenerator(edges, ((0.5, 1.0, 2.0),) * 5)
        head = RetinaNetHead(maps, 9, kinds, norm_layer=partial(nn.GroupNorm, 16))
        head.regression_head._loss_type = "giou"  # as in version 2 of the large one
        as_is: dict[str, Any] = {"min_size": see, "max_size": see, "image_mean": [0.0], "image_std": [1.0]}
        limits = {"detections_per_img": MOST_BOXES, "topk_candidates": 2 * MOST_BOXES, "score_thresh": LEAST_SCORE, "nms_thresh": SAME}
        self.net = Library(pyramid, kinds, anchor_generator=anchors, head=head, **as_is, **limits)

    has_coco = False


class DeformableDetr(Detector):
    """Boxes by queries that look at a few points of four scales; ResNet-50, 6 + 6 layers, width 256, 300 queries."""

    smallest = 24
    usual_rate = 2e-4
    backbone_part = 0.1
    asks = True
    has_coco = True
    finding_bytes = 1600
    learning_bytes = 10_000
    shape: dict[str, Any] = {"backbone_config": None}  # noqa: RUF012  # nobody changes it

    def __init__(self, kinds: int, see: int, queries: int) -> None:
        super().__init__()
        from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

        # Weights of classes, corners and overlap in matching and loss: 2, 5, 2 (FACTS of the paper; the library's own class cost is 1).
        make_config: Any = DeformableDetrConfig
        config = make_config(
            num_labels=kinds,
            num_queries=queries,
            two_stage_num_proposals=queries,
            auxiliary_loss=True,
            class_cost=2,
            **{name: make() if callable(make) else make for name, make in self.shape.items() if make is not None},
        )
        self.net: Any = DeformableDetrForObjectDetection(config)
        _with_learning_norms(self.net.model.backbone)
        _begin_as_published(self.net, config)
        for parameter in self.backbone().parameters():
            parameter.requires_grad_(True)

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """Of every layer's boxes, each matched to one object at most: focal loss, corners, generalised overlap."""
        edge = images.shape[-1]
        wanted = [{"class_labels": one.kind, "boxes": _as_centres(one.corners / edge)} for one in targets]
        said = self.net(pixel_values=_grey_as_colour(images), labels=wanted)
        weights = {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
        every = [said.loss_dict, _loss_of_proposals(said, wanted, self.net.config)] if self.net.config.two_stage else [said.loss_dict]
        named = [("_".join(key.split("_")[:2]), value) for parts in every for key, value in parts.items()]
        return torch.stack([weights[name] * value for name, value in named if name in weights]).sum()

    def found(self, images: Tensor) -> list[Answer]:
        """The surest kind of every query that is sure enough of any."""
        said = self.net(pixel_values=_grey_as_colour(images))
        answers = []
        for logits, centres in zip(said.logits.sigmoid(), said.pred_boxes, strict=True):
            score, kind = logits.max(dim=1)
            sure = score > LEAST_SCORE
            answers.append(Answer(_as_corners(centres[sure]) * images.shape[-1], kind[sure], score[sure]))
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
            known = DeformableDetrForObjectDetection.from_pretrained(str(file or COCO_DETR), use_safetensors=True)
            state = known.state_dict()
        load_but(self.net, state, "class_embed.", "query_position_embeddings.")


class SmallDeformableDetr(DeformableDetr):
    """The same idea with a ResNet-18, 3 + 3 layers, width 128; queries begin where the encoder sees something (two stages)."""

    smallest = 16
    usual_rate = 5e-4
    backbone_part = 1.0
    finding_bytes = 950
    learning_bytes = 3200
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


DETECTORS: dict[str, Callable[[int, int, int], Detector]] = {
    "retinanet": RetinaNet,
    "retinanet-small": SmallRetinaNet,
    "deformable-detr": DeformableDetr,
    "deformable-detr-small": SmallDeformableDetr,
}


def detector_class(name: str) -> Any:
    """The class of a detector.

    Raises:
        SettingsError: there is none of that name; the nearest is named.
    """
    if name not in DETECTORS:
        raise SettingsError(f"There is no detector '{name}'{nearest(name, DETECTORS)}")
    return DETECTORS[name]


def build(name: str, kinds: int, see: int, queries: int) -> Detector:
    """A detector with random weights.

    Args:
        name: in DETECTORS.
        kinds: how many structures it tells apart.
        see: edge of its tiles, px.
        queries: most boxes in a tile, of Deformable DETR.

    Raises:
        SettingsError: no detector of that name, or it cannot see tiles of that size.
    """
    kind = detector_class(name)
    if see % COARSEST or see <= 0:
        raise SettingsError(f"Detectors see tiles whose edge is a multiple of {COARSEST} px; got --see {see}.")
    network: Detector = kind(kinds, see, queries)
    return network


def begin_with(network: Detector, name: str, weights: str) -> None:
    """Let a detector begin with weights learnt on COCO: ``coco`` fetches its library's, anything else is a file or folder.

    Raises:
        SettingsError: there are none of that detector, they cannot be fetched, or they do not fit.
    """
    if not network.has_coco:
        raise SettingsError(
            f"There are no weights that '{name}' can begin with; 'retinanet' and 'deformable-detr' can. Leave out --weights."
        )
    try:
        network.load_coco(None if weights == "coco" else Path(weights))
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise SettingsError(
            f"The weights '{weights}' for '{name}' cannot be had ({reason}); give a file or folder of them with --weights, or "
            "--weights none to begin with random ones."
        ) from None
    network.keeps_norms = True


def _grey_as_colour(images: Tensor) -> Tensor:
    """What learnt on colour sees grey three times."""
    return images.expand(-1, 3, -1, -1)


def _as_centres(corners: Tensor) -> Tensor:
    """Centre, width and height of boxes (n, 4)."""
    return torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)


def _as_corners(centres: Tensor) -> Tensor:
    return torch.cat([centres[:, :2] - centres[:, 2:] / 2, centres[:, :2] + centres[:, 2:] / 2], dim=1)


def _with_learning_norms(module: nn.Module) -> None:
    """Batch norms whose statistics are learnt for those that are frozen: frozen at random numbers nothing would be normalised."""
    for name, child in module.named_children():
        if type(child).__name__ == "DeformableDetrFrozenBatchNorm2d":
            setattr(module, name, nn.BatchNorm2d(child.get_buffer("weight").numel()))
        else:
            _with_learning_norms(child)


def _loss_of_proposals(said: Any, wanted: Sequence[Mapping[str, Tensor]], config: Any) -> Mapping[str, Tensor]:
    """Of where the encoder sees objects, of any kind: in the authors' code, and without it queries would begin anywhere for ever.

    The library computes these boxes and leaves their loss out.
    """
    from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

    make_matcher: Any = DeformableDetrHungarianMatcher
    matcher = make_matcher(class_cost=config.class_cost, bbox_cost=config.bbox_cost, giou_cost=config.giou_cost)

    def tile_by_tile(proposed: Mapping[str, Tensor], objects: Sequence[Any]) -> list[Any]:  # together, each would be held to all objects
        return [matcher({key: own[at : at + 1] for key, own in proposed.items()}, [one])[0] for at, one in enumerate(objects)]

    criterion: Any = DeformableDetrImageLoss(tile_by_tile, 1, config.focal_alpha, ["labels", "boxes"])
    objects = [{"class_labels": torch.zeros_like(one["class_labels"]), "boxes": one["boxes"]} for one in wanted]
    # The first output is by which it chooses.
    losses: Mapping[str, Tensor] = criterion(
        {"logits": said.enc_outputs_class[..., :1], "pred_boxes": said.enc_outputs_coord_logits.sigmoid()}, objects
    )
    return losses


def _begin_as_published(net: Any, config: Any) -> None:
    """What the authors' code begins with, and the library's leaves out: nothing is sure of anything, and boxes are small."""
    for one in (net.model.input_proj, net.model.encoder, net.model.decoder):
        for name, parameter in one.named_parameters():
            if parameter.dim() > 1 and not any(part in name for part in ("sampling_offsets", "attention_weights")):
                nn.init.xavier_uniform_(parameter)
    for head in net.class_embed:
        nn.init.constant_(head.bias, math.log(0.01 / 0.99))
    for number, head in enumerate(net.bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
        if number == 0 and not config.two_stage:
            nn.init.constant_(head.layers[-1].bias[2:], -2.0)
