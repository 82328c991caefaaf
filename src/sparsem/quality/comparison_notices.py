"""Sentences that a reader needs to judge the comparison of protocols."""

import math
from collections.abc import Iterator, Sequence

from sparsem.quality.comparison_tests import (
    SIGNIFICANCE,
    GroupImages,
    GroupTest,
    GroupValues,
    group_values,
)
from sparsem.quality.full_reference import REFERENCE_METRICS
from sparsem.quality.image_metrics import METRICS
from sparsem.quality.settings import CompareSettings
from sparsem.quality.statistics import Difference, smallest_p


def comparison_notices(
    groups: GroupImages,
    values: GroupValues,
    tests: Sequence[GroupTest],
    study: CompareSettings,
) -> Iterator[str]:
    """Yield sentences that a reader needs to judge the results of a study.

    Args:
        groups: name -> its images.
        values: measurements by metric and group.
        tests: of pairs of groups.
        study: its settings.
    """
    yield from _notices_on_group_sizes(groups, study)
    yield from notices_on_power([test.difference for test in tests])
    yield from _notices_on_resin(groups)
    yield from _notices_on_missing_metrics(values, study)


def _notices_on_group_sizes(groups: GroupImages, study: CompareSettings) -> Iterator[str]:
    """Yield sentences on groups of one, and on measurements that are not independent."""
    for name, images in groups.items():
        count = len(group_values(images, "noise", study.by))
        files = len({image.source for image in images})
        if count < 2:
            yield (
                f"'{name}' is one {study.by}: it has no spread, and differences from it are not "
                "tested."
            )
        elif study.by == "image" and files < count:
            origin = "stack" if files == 1 else "files"
            yield (
                f"'{name}' is {count} slices of {files} {origin}: slices of a stack are not "
                "independent, so that p values are too small and intervals too narrow."
            )
    if study.by == "tile":
        yield (
            "Tiles of one image are not independent: p values are too small and intervals too "
            "narrow."
        )


def notices_on_power(differences: Sequence[Difference]) -> Iterator[str]:
    """Yield a sentence if groups are too small for any difference to be significant."""
    tested = [difference for difference in differences if not math.isnan(difference.p)]
    sizes = {difference.n for difference in tested}
    min_p = min((smallest_p(n) for n in sizes), default=0.0)
    if min_p * len(tested) > SIGNIFICANCE:
        yield (
            "No difference can be significant here: the smallest p that groups of this size can "
            f"reach is {min_p:.2g}, and {len(tested)} tests were made."
        )


def _notices_on_resin(groups: GroupImages) -> Iterator[str]:
    """Yield sentences on images without marked resin, and on resin that varies too much."""
    images = [image for group_images in groups.values() for image in group_images]
    origins = [image.resin for image in images]
    n_proposed = origins.count("proposed")
    if n_proposed:
        yield (
            f"Resin is not marked in {n_proposed} of {len(images)} images: there, noise in resin "
            "is that of the most featureless squares, a proposal; check the folders named resin."
        )
    n_suspicious = sum(image.is_resin_suspicious for image in images)
    if n_suspicious:
        yield (
            f"In {n_suspicious} of {len(images)} images, what is marked as resin varies more than "
            "twice as much as noise does: check that it is resin."
        )
    n_none = origins.count("none")
    if n_none:
        yield (
            f"Resin is not marked in {n_none} of {len(images)} images, and no area in them is as "
            "featureless as resin."
        )


def _notices_on_missing_metrics(values: GroupValues, study: CompareSettings) -> Iterator[str]:
    """Yield sentences on metrics that no image has, with the reason."""
    has_reference = study.denoise or any(group.reference for group in study.group)
    missing = [metric for metric in METRICS if metric not in values]
    missing_names = [METRICS[metric].name for metric in missing if metric in REFERENCE_METRICS]
    if missing_names and not has_reference:
        yield f"Not measured: {', '.join(missing_names)}; they need a reference, or denoise."
    elif missing_names:
        yield f"Not measured: {', '.join(missing_names)}; the images are too small."
    with_weights_only = ["brisque", "dists"] if has_reference else ["brisque"]
    without_weights = [METRICS[metric].name for metric in missing if metric in with_weights_only]
    if without_weights:
        names = ", ".join(without_weights)
        yield f"Not measured: {names}; the files of their weights are missing (weights)."
