"""sparsem: from a raw volume-EM stack and a few labeled slices to every organelle and every cell.

    import sparsem

    sample = sparsem.import_stack("liver.tif", "liver.zarr", voxel_nm=(8, 4, 4))
    sparsem.import_annotation(sample, "nucleus", "masks/nucleus")
    sparsem.train(sample, "liver.safetensors", structures=["nucleus"])
    sparsem.predict(sample, "liver.safetensors")
    nuclei = sample.labels["nucleus"][10:20]

The names in ``__all__`` are the public interface. Everything else is internal and may change. Names
are imported when they are first used, so that ``import sparsem`` loads no numerical library.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sparsem import arrays as arrays
    from sparsem.annotation.importing import import_annotation as import_annotation
    from sparsem.annotation.label_volumes import import_labels as import_labels
    from sparsem.boxes.counts import count_boxes as count_boxes
    from sparsem.boxes.importing import import_boxes as import_boxes
    from sparsem.cells.cells import cells as cells
    from sparsem.cells.track import track as track
    from sparsem.detect.masks.masks import box_masks as box_masks
    from sparsem.detect.predict import detect as detect
    from sparsem.detect.score import score_boxes as score_boxes
    from sparsem.detect.training.train import train_detector as train_detector
    from sparsem.errors import SparsemError as SparsemError
    from sparsem.io.ingest import import_stack as import_stack
    from sparsem.labels import edit as edit
    from sparsem.labels.constrain import constrain as constrain
    from sparsem.labels.correct import correct as correct
    from sparsem.labels.inventory import remove_pieces
    from sparsem.labels.objects import objects as objects
    from sparsem.measure.comparison import compare as compare
    from sparsem.measure.contacts import contacts as contacts
    from sparsem.measure.measure import measure as measure
    from sparsem.measure.skeletons import skeletons as skeletons
    from sparsem.phantom.phantom import phantom as phantom
    from sparsem.preprocess.align import align as align
    from sparsem.preprocess.denoise import denoise as denoise
    from sparsem.preprocess.equalize import equalize as equalize
    from sparsem.quality.images import measure_image_quality as measure_image_quality
    from sparsem.quality.quality import quality as quality
    from sparsem.report.export import export as export
    from sparsem.report.report import report as report
    from sparsem.report.scene3d.render import render as render
    from sparsem.review.review import review as review
    from sparsem.score.score import score as score
    from sparsem.segment.predict import predict as predict
    from sparsem.segment.suggest import suggest as suggest
    from sparsem.segment.train import train as train
    from sparsem.store.sample import Sample as Sample
    from sparsem.store.sample import open_sample
    from sparsem.study.demo import demo as demo
    from sparsem.study.study import run as run
    from sparsem.workflow.execution import Execution as Execution

    open = open_sample  # noqa: A001
    remove = remove_pieces

# Public name -> the module that defines it, and its name there if that differs; a module that ends
# with a colon is public itself.
_DEFINED_IN = {
    "Execution": "workflow.execution",
    "Sample": "store.sample",
    "SparsemError": "errors",
    "align": "preprocess.align",
    "arrays": "arrays",
    "box_masks": "detect.masks.masks",
    "cells": "cells.cells",
    "compare": "measure.comparison",
    "constrain": "labels.constrain",
    "contacts": "measure.contacts",
    "correct": "labels.correct",
    "count_boxes": "boxes.counts",
    "demo": "study.demo",
    "denoise": "preprocess.denoise",
    "detect": "detect.predict",
    "edit": "labels.edit:",
    "equalize": "preprocess.equalize",
    "export": "report.export",
    "import_annotation": "annotation.importing",
    "import_boxes": "boxes.importing",
    "import_labels": "annotation.label_volumes",
    "import_stack": "io.ingest",
    "measure": "measure.measure",
    "measure_image_quality": "quality.images",
    "objects": "labels.objects",
    "open": "store.sample:open_sample",
    "phantom": "phantom.phantom",
    "predict": "segment.predict",
    "quality": "quality.quality",
    "remove": "labels.inventory:remove_pieces",
    "render": "report.scene3d.render",
    "report": "report.report",
    "review": "review.review",
    "run": "study.study",
    "score": "score.score",
    "score_boxes": "detect.score",
    "skeletons": "measure.skeletons",
    "suggest": "segment.suggest",
    "track": "cells.track",
    "train": "segment.train",
    "train_detector": "detect.training.train",
}

__all__ = sorted(_DEFINED_IN)


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'sparsem' has no attribute '{name}'")
    module_name, colon, other_name = _DEFINED_IN[name].partition(":")
    module = import_module(f"sparsem.{module_name}")
    is_module = name == module_name or (colon and not other_name)
    value = module if is_module else getattr(module, other_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _PublicFunctionsFirst(ModuleType):
    """A package whose public functions are not hidden by its folders of the same name.

    ``sparsem.measure`` is the function. Python would bind the folder ``sparsem/measure`` to this
    name as soon as anything in it is imported; imports themselves find the folder in
    ``sys.modules`` and do not need the name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        is_folder = isinstance(value, ModuleType) and hasattr(value, "__path__")
        if is_folder and name in _DEFINED_IN:
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _PublicFunctionsFirst
