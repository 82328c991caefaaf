"""Masks from boxes by the Segment Anything Model (Kirillov et al. 2023) and its successors, as far as transformers has them.

A model looks at a square tile once, which takes long, and then answers for any number of boxes in it, which takes nothing. Which model
it is (SAM, SAM-HQ, SAM 2, SAM 3) its folder or name on the hub says. Tiles are float32 in 0..1; corners ``x0 y0 x1 y1`` in their pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sparsem.boxes.geometry import Corners
from sparsem.errors import SettingsError

IMAGENET = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # mean and deviation of colors, where a model does not say others
AT_ONCE = 64  # boxes

Embedding = dict[str, list[torch.Tensor]]


@dataclass(frozen=True)
class Sam:
    """A loaded model.

    Attributes:
        network: of transformers, one that generates masks.
        device: where it computes.
        edge: of its tiles, px.
        colors: mean and standard deviation that it subtracts and divides by.
    """

    network: Any
    device: torch.device
    edge: int
    colors: tuple[tuple[float, ...], tuple[float, ...]]

    def embedding(self, tile: NDArray[np.float32]) -> Embedding:
        """What the model makes of a gray tile (edge, edge): to be handed to ``masks``, a list of tensors by name."""
        mean, spread = (
            torch.tensor(one, device=self.device).reshape(1, 3, 1, 1) for one in self.colors
        )
        pixels = (
            torch.from_numpy(tile).to(self.device)[None, None].expand(-1, 3, -1, -1) - mean
        ) / spread
        with torch.inference_mode():
            made = self.network.get_image_embeddings(pixels)
        if (
            self.network.config.model_type == "sam_hq"
        ):  # which wants what lies between its layers too
            return {"image_embeddings": [made[0]], "intermediate_embeddings": list(made[1])}
        return {"image_embeddings": list(made) if isinstance(made, list | tuple) else [made]}

    def masks(self, embedding: Embedding, corners: Corners) -> Iterator[NDArray[np.float32]]:
        """What it says of every box in a tile: (edge, edge) float32 logits, positive within the object, one after the other."""
        given = {
            name: parts if name == "intermediate_embeddings" or len(parts) > 1 else parts[0]
            for name, parts in embedding.items()
        }
        for first in range(0, len(corners), AT_ONCE):
            some = torch.from_numpy(corners[first : first + AT_ONCE]).to(self.device)[None]
            with torch.inference_mode():
                said = self.network(**given, input_boxes=some, multimask_output=False)
            for one in said.pred_masks[0, :, 0].float().cpu().numpy():
                yield np.asarray(
                    cv2.resize(one, (self.edge, self.edge), interpolation=cv2.INTER_LINEAR),
                    np.float32,
                )


def load_sam(model: str, device: torch.device) -> Sam:
    """A model from the hub, such as ``facebook/sam-vit-base``, or from a folder.

    Raises:
        SettingsError: it cannot be had, or makes no masks from boxes.
    """
    from transformers import AutoImageProcessor, AutoModelForMaskGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()  # it loads in seconds, and --quiet is quiet
    try:
        network = AutoModelForMaskGeneration.from_pretrained(model, use_safetensors=True)
        size = network.config.prompt_encoder_config.image_size
    except (OSError, ValueError, AttributeError, KeyError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise SettingsError(
            f"The model '{model}' cannot be had ({reason}); give a folder with a SAM of transformers (config.json, model.safetensors), a "
            "name on the Hugging Face hub such as facebook/sam-vit-base, or leave out --sam for outlines without one."
        ) from None
    colors = IMAGENET
    if Path(model, "preprocessor_config.json").is_file() or not Path(model).is_dir():
        processor: Any = AutoImageProcessor.from_pretrained(model)
        colors = (tuple(processor.image_mean), tuple(processor.image_std))
    edge = size if isinstance(size, int) else int(size[0])
    return Sam(network.eval().to(device), device, edge, colors)
