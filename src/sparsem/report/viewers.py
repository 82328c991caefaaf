"""Commands and links by which other programs open a sample without any export."""

import json
import urllib.parse
from typing import Any

from sparsem.labels.results import result_names
from sparsem.store.names import OBJECTS
from sparsem.store.sample import Sample

NEUROGLANCER = "https://neuroglancer-demo.appspot.com/#!"


def viewers(sample: Sample) -> dict[str, str]:
    """Return how to open a sample: a command for napari, a command and a link for Neuroglancer."""
    state = json.dumps(neuroglancer_state(sample))
    return {
        "napari": f'napari --plugin napari-ome-zarr "{sample.path}"',
        "neuroglancer server": f'npx http-server "{sample.path.parent}" --cors -p 9000',
        "neuroglancer": NEUROGLANCER + urllib.parse.quote(state, safe=""),
    }


def neuroglancer_state(sample: Sample, server: str = "http://localhost:9000") -> dict[str, Any]:
    """Return the state of Neuroglancer that shows the image and all results.

    Args:
        sample: the sample to show.
        server: address at which the folder of the sample is served.
    """
    root = f"zarr3://{server}/{urllib.parse.quote(sample.path.name)}"
    layers = [{"type": "image", "name": "raw", "source": root}]
    label_names = sample.names("labels")
    for name in result_names(sample):
        objects = f"{name}{OBJECTS}"
        shown = objects if objects in label_names else name
        source = f"{root}/labels/{shown}"
        layers.append({"type": "segmentation", "name": shown, "source": source})
    return {"layers": layers, "layout": "4panel"}
