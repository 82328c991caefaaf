"""Optional parts of sparsem, and one sentence where a part is missing.

The core (import, measure, score, export, report) installs without torch. Modules of a part call
``require`` before they import its libraries.
"""

from importlib.util import find_spec

from sparsem.errors import MissingExtraError

# Name of the extra -> the import that shows that it is installed, and what it is for.
EXTRAS = {
    "train": ("torch", "training and prediction of networks, and image-quality metrics"),
    "detect": ("transformers", "detection of objects in boxes, and Segment Anything"),
    "zoo": ("segmentation_models_pytorch", "UNet++, SenFormer and pretrained encoders"),
    "napari": ("napari", "the window in which one labels, trains and reviews"),
    "render": ("pyvista", "renderings, videos and meshes"),
    "denoise": ("careamics", "denoising by Noise2Void"),
    "cluster": ("distributed", "local workers and clusters"),
}


def is_installed(extra: str) -> bool:
    """Return whether the libraries of an extra are installed."""
    module, _ = EXTRAS[extra]
    return find_spec(module) is not None


def require(extra: str) -> None:
    """Check that an extra is installed.

    Raises:
        MissingExtraError: it is not; the message has the command that installs it.
    """
    if not is_installed(extra):
        module, purpose = EXTRAS[extra]
        raise MissingExtraError(
            f"This needs {module}, for {purpose}, which is not installed; "
            f'install it with: pip install "sparsem[{extra}]"'
        )
