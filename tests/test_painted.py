"""Annotations that are painted in, and arrays whose decoded chunks are kept."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from sparsem.annotation.labeled_slices import read_annotation
from sparsem.annotation.painted import BACKGROUND, PaintedAnnotation
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.store.cached import CachedArray, ChunkCache, cached_levels
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

from .test_corrections import blobs, labels_only


def _wait_until_saved(painted: PaintedAnnotation, seconds: float = 10) -> None:
    limit = time.monotonic() + seconds
    while painted.unsaved and time.monotonic() < limit:
        time.sleep(0.02)
    assert not painted.unsaved, painted.problem


def test_a_stroke_is_on_disk_a_moment_later(own_tissue: Sample) -> None:
    painted = PaintedAnnotation(own_tissue, "lysosome", "raw")
    assert painted.slices == []
    painted[4, 10:20, 30:40] = 1
    painted[4, 50:60, 30:40] = painted.background
    _wait_until_saved(painted)
    objects, known = read_annotation(own_tissue, "lysosome").objects(0)
    assert painted.slices == [4]
    assert known.sum() == 200  # nothing is known elsewhere
    assert objects.sum() == 100
    assert objects[10:20, 30:40].all()
    again = PaintedAnnotation(own_tissue, "lysosome")
    np.testing.assert_array_equal(again[4], painted[4])
    painted.close()


def test_the_padding_of_a_small_image_stays_unlabeled(tmp_path: Path) -> None:
    """In a montage the images have their own sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate([(40, 60), (90, 70)]):
        image = np.full(size, 9, np.uint8)
        image[::2] = 200
        tifffile.imwrite(folder / f"{number}.tif", image, photometric="minisblack")
    settings = ImportSettings(voxel_nm=(50, 5, 5), montage=True)
    sample = import_stack(folder, tmp_path / "m.zarr", settings, on=Execution(quiet=True))
    painted = PaintedAnnotation(sample, "nucleus", "raw")
    painted[0] = painted.background
    painted[0, 10:20, 10:90] = 1
    assert (painted[0] == painted.background).sum() + 500 == 40 * 60
    painted.close()
    _, known = read_annotation(sample, "nucleus").objects(0)
    assert known[:40, :60].all()
    assert known.sum() == 40 * 60


def test_existing_labels_are_shown_and_background_is_known(own_tissue: Sample) -> None:
    painted = PaintedAnnotation(own_tissue, "nucleus")
    annotation = read_annotation(own_tissue, "nucleus")
    for index, z in enumerate(annotation.z):
        objects, _ = annotation.objects(index)
        np.testing.assert_array_equal(painted[z] == painted.background, objects == 0)
        np.testing.assert_array_equal(painted[z] == 1, objects == 1)
    assert not painted[1].any()
    painted[0, :5, :5] = 0  # erased: not known any more
    painted.close()
    _, known = read_annotation(own_tissue, "nucleus").objects(0)
    assert known.sum() == known.size - 25


def test_indices_of_painting_tools(own_tissue: Sample) -> None:
    painted = PaintedAnnotation(own_tissue, "cells", "raw", numbered=True)
    plain = np.zeros(painted.shape, np.uint32)
    assert painted.background == BACKGROUND[4]
    for array in (painted, plain):
        array[2, 3, 4] = 7
        array[2:4, 5:9, ...] = 8
        array[(np.array([1, 2, 2]), np.array([0, 1, 2]), np.array([5, 5, 6]))] = [1, 2, 3]
        array[5] = 9
        array[-1, ..., 3] = 4
    np.testing.assert_array_equal(painted[...], plain)
    np.testing.assert_array_equal(painted[1:6, 2:10, ::3], plain[1:6, 2:10, ::3])
    indices = (np.array([2, 5, 0]), np.array([3, 3, 3]), np.array([4, 4, 4]))
    np.testing.assert_array_equal(painted[indices], plain[indices])
    painted.close()


def test_what_cannot_be_saved_is_put_aside_and_found_again(own_tissue: Sample) -> None:
    painted = PaintedAnnotation(own_tissue, "lysosome", "raw")
    with own_tissue.locked():
        painted[4, 10:20, 30:40] = 1
        limit = time.monotonic() + 10
        while not painted.problem and time.monotonic() < limit:
            time.sleep(0.02)
        assert "Another run is writing" in painted.problem
        assert painted.unsaved == [4]
        again = PaintedAnnotation(own_tissue, "lysosome", "raw")  # as after a crash
        assert again[4, 10:20, 30:40].all()
    _wait_until_saved(painted)
    _wait_until_saved(again)
    assert read_annotation(own_tissue, "lysosome").z == (4,)
    assert not list((own_tissue.path / ".sparsem" / "unsaved").rglob("*.npy"))
    painted.close()
    again.close()


def test_a_kill_loses_at_most_the_stroke_in_progress(own_tissue: Sample, tmp_path: Path) -> None:
    script = tmp_path / "paint.py"
    script.write_text(
        "import sys, time\n"
        "from sparsem.annotation.painted import PaintedAnnotation\n"
        "from sparsem.store.sample import Sample\n"
        "painted = PaintedAnnotation(Sample.open(sys.argv[1]), 'lysosome', 'raw')\n"
        "for n in range(1, 90):\n"
        "    painted[n % 19, n, :] = 1\n"
        "    while painted.unsaved: time.sleep(0.005)\n"
        "    print(n, flush=True)\n"
    )
    for seconds in (0.5, 0.9):
        command = [sys.executable, str(script), str(own_tissue.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(seconds)
            process.kill()
            saved = [int(line) for line in [first, *process.stdout.read().split()]]
        painted = PaintedAnnotation(own_tissue, "lysosome", "raw")
        for n in saved:
            assert (painted[n % 19, n, :] == 1).all(), n


def test_labels_get_what_was_painted(own_tissue: Sample) -> None:
    from .test_corrections import computed, whole

    computed(own_tissue, "lysosome", np.zeros(own_tissue.image("raw").shape, np.uint8))
    painted = PaintedAnnotation(own_tissue, "lysosome", "raw")
    painted[4, 10:20, 30:40] = 1
    painted.close()
    labels = whole(own_tissue, "lysosome")
    assert labels.sum() == 100
    assert labels[4, 10:20, 30:40].all()


# Decoded chunks.


parts = st.one_of(
    st.integers(-4, 3),
    st.slices(4).filter(lambda part: part.step is None or part.step > 0),
    st.just(slice(None)),
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    labels = blobs((4, 530, 530), seed=3, n=40)
    return labels_only(labels, tmp_path_factory.mktemp("wide") / "wide")


@given(z=parts, y=st.slices(530), x=st.integers(-530, 529))
def test_a_cached_array_reads_like_numpy(wide: Sample, z: object, y: slice, x: int) -> None:
    volume = wide.volume("labels", "cells")
    array = CachedArray(volume, 0, ChunkCache(2_000_000))  # less than two chunks
    plain = volume.read(slice(None))
    np.testing.assert_array_equal(array[z, y, x], plain[z, y, x])  # type: ignore[index]
    np.testing.assert_array_equal(array[..., x], plain[..., x])


def test_levels_are_those_of_the_volume(wide: Sample) -> None:
    volume = wide.volume("labels", "cells")
    for level, array in enumerate(cached_levels(volume, ChunkCache())):
        np.testing.assert_array_equal(np.asarray(array), volume.read(slice(None), level))
    with pytest.raises(IndexError, match="outside of axis 0, which has 4"):
        cached_levels(volume, ChunkCache())[0][4]
