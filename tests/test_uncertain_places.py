"""Places where a prediction is least certain: which they are, and on what they do not depend."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from typer.testing import CliRunner

from sparsem.annotation.writing import write_annotation
from sparsem.cli.app import app
from sparsem.errors import SampleError
from sparsem.geometry import VoxelSize
from sparsem.labels.correct import correct
from sparsem.review.accepted import accept_place
from sparsem.review.places import ReviewPlace
from sparsem.review.review import review
from sparsem.review.uncertain import CubeGrid, cube_sums, largest_cubes, step_sums
from sparsem.segment.uncertainty import entropy
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, files_in, put
from tests.test_corrections import computed

QUIET = Execution(quiet=True)
SHAPE = (30, 240, 420)
BLOBS = ((4, 50, 60), (15, 120, 200), (25, 200, 350))  # z, y, x of their middles


def blobs() -> NDArray[np.uint8]:
    """A certain object, and three uncertain blobs; the second is the most uncertain one."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    probability = np.zeros(SHAPE, np.uint8)
    probability[5:20, 30:90, 260:360] = 255
    for (blob_z, blob_y, blob_x), value in zip(BLOBS, (60, 130, 200), strict=True):
        distance = (z - blob_z) ** 2 + (y - blob_y) ** 2 + (x - blob_x) ** 2
        probability[distance < 12**2] = value
    return probability


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    sample = Sample.create(tmp_path_factory.mktemp("uncertain") / "s.zarr")
    image = put(sample, "", np.zeros(SHAPE, np.uint8), depth=7)
    probability = blobs()
    made_on = ("raw", image.fingerprint)
    put(sample, "probabilities/nucleus", probability, depth=7, made_on=made_on)
    computed(sample, "nucleus", (probability >= 128).astype(np.uint8))
    return sample


@pytest.fixture
def own_prediction(predicted: Sample, tmp_path: Path) -> Sample:
    return copy_of(predicted, tmp_path / "own.zarr")


def middles(places: tuple[ReviewPlace, ...]) -> list[int]:
    """Return for every place the number of the blob that it lies in, -1 if in none."""
    numbers = []
    for place in places:
        distances = [
            np.linalg.norm(np.subtract((place.z, place.y, place.x), blob)) for blob in BLOBS
        ]
        nearest = int(np.argmin(distances))
        numbers.append(nearest if distances[nearest] < 12 else -1)
    return numbers


def test_the_most_uncertain_blob_comes_first_and_certain_objects_never(
    own_prediction: Sample,
) -> None:
    result = review(own_prediction, "nucleus", on=QUIET)
    bits = [entropy(np.array([value / 255]))[0] for value in (60, 130, 200)]
    in_order = sorted(range(3), key=lambda number: -bits[number])
    assert middles(result.places) == in_order
    assert [place.first for place in result.places] == [int(n != 0) for n in in_order]
    assert {place.kind for place in result.places} == {"uncertain"}
    assert own_prediction.read_table("review_nucleus").num_rows == 3


def test_what_was_drawn_is_certain(own_prediction: Sample, tmp_path: Path) -> None:
    planes = [np.zeros(SHAPE[1:], np.uint8) for _ in range(30)]
    write_annotation(own_prediction, "nucleus", range(13, 30), planes[:17])
    assert set(middles(review(own_prediction, "nucleus", on=QUIET).places)) == {0, 1}
    first = own_prediction.volume("labels", "nucleus").read(slice(None))
    first[0:15, 30:70, 40:80] = 1
    tifffile.imwrite(tmp_path / "corrected.tif", first, photometric="minisblack")
    correct(own_prediction, "nucleus", tmp_path / "corrected.tif", on=QUIET)
    assert 0 not in middles(review(own_prediction, "nucleus", on=QUIET).places)


def test_accepted_places_do_not_return(own_prediction: Sample) -> None:
    first, *others = review(own_prediction, "nucleus", on=QUIET).places
    accept_place(own_prediction, "nucleus", first)
    result = review(own_prediction, "nucleus", on=QUIET)
    assert (list(result.places), result.accepted) == (others, 1)


@pytest.mark.parametrize(("depth", "workers"), [(3, 0), (30, 0), (7, 2)])
def test_places_do_not_depend_on_blocks_or_workers(
    predicted: Sample, tmp_path: Path, depth: int, workers: int
) -> None:
    expected = review(copy_of(predicted, tmp_path / "expected.zarr"), "nucleus", on=QUIET).places
    sample = Sample.create(tmp_path / "s.zarr")
    image = put(sample, "", np.zeros(SHAPE, np.uint8), depth=depth)
    made_on = ("raw", image.fingerprint)
    put(sample, "probabilities/nucleus", blobs(), depth=depth, made_on=made_on)
    computed(sample, "nucleus", (blobs() >= 128).astype(np.uint8))
    on = Execution(workers=workers, quiet=True)
    assert review(sample, "nucleus", on=on).places == expected


def test_a_second_run_computes_nothing_and_a_lost_table_comes_back(
    own_prediction: Sample,
) -> None:
    review(own_prediction, "nucleus", on=QUIET)
    before = files_in(own_prediction.path / "tables")
    review(own_prediction, "nucleus", on=QUIET)
    assert files_in(own_prediction.path / "tables") == before
    for file in (own_prediction.path / "tables").iterdir():
        file.unlink()
    review(own_prediction, "nucleus", on=QUIET)
    assert files_in(own_prediction.path / "tables") == before


@pytest.mark.parametrize("grid", [CubeGrid(1, 4, 5), CubeGrid(2, 7, 64)])
def test_sums_equal_a_plain_version(grid: CubeGrid) -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (5, 30, 41), np.uint8)
    known = random.random(values.shape) < 0.2
    bits = entropy(values / 255)
    bits[known] = 0
    height, width = -(-30 // grid.y), -(-41 // grid.x)
    padded = np.zeros((5, height * grid.y, width * grid.x))
    padded[:, :30, :41] = bits
    expected = padded.reshape(5, height, grid.y, width, grid.x).sum(axis=(2, 4))
    sums = step_sums(values, known, grid)
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-3)
    cubes = cube_sums(sums, grid)
    for position in np.ndindex(cubes.shape):
        box = tuple(
            slice(number * edge, (number + 2) * edge)
            for number, edge in zip(position, grid, strict=True)
        )
        np.testing.assert_allclose(cubes[position], padded[box].sum(), rtol=1e-4)


def test_cubes_are_apart_and_in_order() -> None:
    sums = np.random.default_rng(1).random((6, 20, 20)).astype(np.float32)
    cubes = largest_cubes(sums, np.full_like(sums, 0.3), (2, 4, 4), 8)
    values = [sums[cube] for cube in cubes]
    assert len(cubes) == 8
    assert values == sorted(values, reverse=True)
    assert values[0] == sums.max()
    for number, cube in enumerate(cubes):
        for earlier in cubes[:number]:
            distance = np.abs(np.subtract(cube, earlier))
            assert (distance >= (2, 4, 4)).any()
    assert largest_cubes(sums, np.full_like(sums, 2), (2, 4, 4), 8) == []


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_thin_stacks_and_cut_cubes_have_places(tmp_path: Path, depth: int) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    image = put(sample, "", np.zeros((depth, 50, 60), np.uint8))
    probability = np.zeros((depth, 50, 60), np.uint8)
    probability[:, 44:, 50:] = 120  # in the corner, where cubes are cut
    put(sample, "probabilities/nucleus", probability, made_on=("raw", image.fingerprint))
    computed(sample, "nucleus", np.zeros((depth, 50, 60), np.uint8))
    (place,) = review(sample, "nucleus", on=QUIET).places
    assert place.y >= 43
    assert place.x >= 49


def test_a_cube_has_at_least_a_voxel() -> None:
    assert CubeGrid.of(VoxelSize(5, 5, 5)) == (24, 24, 24)
    assert CubeGrid.of(VoxelSize(400, 20, 10)) == (1, 6, 12)


def test_the_command_lists_places_and_says_what_is_missing(own_prediction: Sample) -> None:
    path = str(own_prediction.path)
    result = CliRunner().invoke(app, ["review", path, "nucleus", "-n", "2", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "2 places to review" in result.output
    assert "the prediction, the structure, is uncertain" in result.output
    with pytest.raises(SampleError, match="did you mean 'nucleus'"):
        review(own_prediction, "nuclei", on=QUIET)
