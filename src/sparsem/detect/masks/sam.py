"""Masks from boxes by the Segment Anything Model (Kirillov et al. 2023) and its successors.

All models of transformers are supported that generate masks: SAM, SAM-HQ, SAM 2, SAM 3. Which one
it is, is read from its folder, or from its name on the Hugging Face hub. A model computes an
embedding of a square tile once, which takes long, and then answers for any number of boxes in it in
almost no time. Tiles are float32 in 0..1; corners are ``x0 y0 x1 y1`` in their pixels.
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
from sparsem.extras import require

# Mean and standard deviation of colors, for models that state no others.
IMAGENET_COLORS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BATCH_BOXES = 64  # boxes that a model answers for at once

Embedding = dict[str, list[torch.Tensor]]
Colors = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation


@dataclass(frozen=True)
class Sam:
    """A loaded model.

    Attributes:
        network: network of transformers that generates masks.
        device: its device.
        edge: edge of its tiles, px.
        colors: mean and standard deviation with which it normalizes colors.
    """

    network: Any
    device: torch.device
    edge: int
    colors: Colors

    def embedding(self, tile: NDArray[np.float32]) -> Embedding:
        """Return the embedding of a gray tile (edge, edge), for ``masks``."""
        mean, std = (
            torch.tensor(color, device=self.device).reshape(1, 3, 1, 1) for color in self.colors
        )
        gray = torch.from_numpy(tile).to(self.device)
        pixels = (gray[None, None].expand(-1, 3, -1, -1) - mean) / std
        with torch.inference_mode():
            output = self.network.get_image_embeddings(pixels)
        if self.network.config.model_type == "sam_hq":  # it needs those of inner layers too
            return {"image_embeddings": [output[0]], "intermediate_embeddings": list(output[1])}
        levels = list(output) if isinstance(output, list | tuple) else [output]
        return {"image_embeddings": levels}

    def masks(self, embedding: Embedding, corners: Corners) -> Iterator[NDArray[np.float32]]:
        """Yield the mask of each box in a tile: (edge, edge) logits, positive within the object."""
        inputs: dict[str, Any] = {}
        for name, levels in embedding.items():
            is_list = name == "intermediate_embeddings" or len(levels) > 1
            inputs[name] = levels if is_list else levels[0]
        tile_size = (self.edge, self.edge)
        for first in range(0, len(corners), BATCH_BOXES):
            for logits in self._logits(inputs, corners[first : first + BATCH_BOXES]):
                resized = cv2.resize(logits, tile_size, interpolation=cv2.INTER_LINEAR)
                yield np.asarray(resized, np.float32)

    def _logits(self, inputs: dict[str, Any], corners: Corners) -> NDArray[np.float32]:
        """Return the masks of a batch of boxes in the resolution of the network."""
        boxes = torch.from_numpy(corners).to(self.device)[None]
        with torch.inference_mode():
            output = self.network(**inputs, input_boxes=boxes, multimask_output=False)
        return np.asarray(output.pred_masks[0, :, 0].float().cpu().numpy())


def load_sam(model: str, device: torch.device) -> Sam:
    """Load a model from the hub, such as ``facebook/sam-vit-base``, or from a folder.

    Raises:
        SettingsError: the model cannot be loaded, or makes no masks from boxes.
    """
    require("detect")
    from transformers import AutoModelForMaskGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes seconds, and --quiet must print nothing
    try:
        network = AutoModelForMaskGeneration.from_pretrained(model, use_safetensors=True)
        size = network.config.prompt_encoder_config.image_size
    except (OSError, ValueError, AttributeError, KeyError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise SettingsError(
            f"The model '{model}' cannot be loaded ({reason}); give a folder with a SAM of "
            "transformers (config.json, model.safetensors), a name on the Hugging Face hub such as "
            "facebook/sam-vit-base, or leave out --sam for outlines without a model."
        ) from None
    colors = _colors_of(model)
    edge = size if isinstance(size, int) else int(size[0])
    return Sam(network.eval().to(device), device, edge, colors)


def _colors_of(model: str) -> Colors:
    """Return mean and standard deviation of the colors that a model was trained with."""
    from transformers import AutoImageProcessor

    if Path(model, "preprocessor_config.json").is_file() or not Path(model).is_dir():
        processor: Any = AutoImageProcessor.from_pretrained(model)
        return tuple(processor.image_mean), tuple(processor.image_std)
    return IMAGENET_COLORS
