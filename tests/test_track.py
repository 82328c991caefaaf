"""Islands through z: one graph compared with the paper's slice-by-slice text, and drawn cases."""

import itertools
from typing import Any

import cc3d
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsem.cells.linking import link_slices, relabel_islands, remove_fragments, resolve_tracks
from sparsem.phantom.phantom import phantom_slice
from sparsem.phantom.settings import PhantomSettings
from tests.conftest import drawn

Labels = NDArray[Any]


def joined(slices: list[Labels], base: int, window_px: int = 512) -> Labels:
    pairs = [
        link_slices(lower, upper, base, window_px) for lower, upper in itertools.pairwise(slices)
    ]
    tracks = resolve_tracks(pairs, [islands_in(labels, base) for labels in slices], base)
    named = [
        relabel_islands(labels, tracks.identity[of], base)
        for labels, of in zip(slices, tracks.of_slice, strict=True)
    ]
    return np.stack(named)


def in_order(named: Labels, base: int) -> Labels:
    """Unassigned objects numbered from ``base + 1`` on in the order of their identities."""
    present = np.unique(named[named > base])
    return np.where(named > base, base + 1 + np.searchsorted(present, named), named)


def islands_in(labels: Labels, base: int) -> int:
    return max(0, int(labels.max()) - base)


def one_by_one(slices: list[Labels], base: int, window_px: int = 512) -> Labels:
    """Follow the paper's text: slice after slice, with labels replaced in all earlier slices.

    They are replaced when an island meets a cell.
    """
    step = 10 ** int(np.log10((2**32 - 2 - base) / len(slices)))
    out: list[dict[int, int]] = []  # region -> label, slice by slice

    def replace(old: int, new: int) -> None:
        for labels in out:
            for region, label in labels.items():
                if label == old:
                    labels[region] = new

    for z, current in enumerate(slices):
        labels = {int(region): int(region) for region in np.unique(current) if 0 < region <= base}
        out.append(labels)
        for island in range(base + 1, base + 1 + islands_in(current, base)):
            best = best_match(island, current, slices[z - 1], window_px) if z else 0
            labels[island] = out[z - 1][best] if best else z * step + island
        for island in range(base + 1, base + 1 + islands_in(slices[z - 1], base) if z else 0):
            met = best_match(island, slices[z - 1], current, window_px)
            if met:
                first, second = out[z - 1][island], labels[met]
                if first > base and second > base and first != second:
                    replace(max(first, second), min(first, second))
                elif first > base or second > base:
                    replace(
                        max(first, second), min(first, second)
                    )  # cells have the smaller numbers
    return np.stack(
        [
            [[names.get(int(v), 0) for v in row] for row in current]
            for names, current in zip(out, slices, strict=True)
        ]
    )


def best_match(island: int, of: Labels, among: Labels, window_px: int) -> int:
    """Return the region with the highest IoU in the window around the island.

    0 if none overlaps.
    """
    y, x = np.nonzero(of == island)
    middle = [(int(side.min()) + int(side.max()) + 1) // 2 for side in (y, x)]
    near = tuple(slice(max(0, m - window_px // 2), m + window_px // 2) for m in middle)
    scores = {}
    for region in np.unique(among[of == island]).tolist():
        if region:
            island_mask, region_mask = (of == island)[near], (among == region)[near]
            either = np.count_nonzero(island_mask | region_mask)
            scores[region] = np.count_nonzero(island_mask & region_mask) / either if either else 0.0
    return min(scores, key=lambda region: (-scores[region], region)) if scores else 0


def numbered_islands(labels: Labels, base: int) -> Labels:
    """Number the islands of a slice without gaps, as ``number_islands`` does."""
    present = np.unique(labels[labels > base])
    return np.where(labels > base, base + 1 + np.searchsorted(present, labels), labels).astype(
        np.uint32
    )


stacks = hnp.arrays(np.uint32, (6, 5, 6), elements=st.sampled_from([0, 0, 1, 2, 3, 4, 5, 6]))


@settings(max_examples=300)
@given(stack=stacks, window_px=st.sampled_from([2, 4, 512]))
def test_one_graph_gives_the_result_of_the_papers_text(stack: Labels, window_px: int) -> None:
    slices = [numbered_islands(labels, 2) for labels in stack]
    assert joined(slices, 2, window_px).tolist() == one_by_one(slices, 2, window_px).tolist()


def test_the_phantoms_protrusions_find_their_cells_with_both_implementations() -> None:
    tissue = PhantomSettings(shape=(32, 192, 192), voxel_nm=(20, 20, 20), cells=3, seed=1)
    truth = [phantom_slice(tissue, z).labels["cells"] for z in range(32)]
    base = int(max(labels.max() for labels in truth))
    slices = [main_parts_and_islands(labels, base) for labels in truth]
    result = joined(slices, base)
    assert result.tolist() == one_by_one(slices, base).tolist()
    met = (np.stack(slices) > base) & (
        result <= base
    )  # protrusions whose root lies outside of the volume never meet their cell
    assert np.count_nonzero(met) > 500
    assert np.mean(result[met] == np.stack(truth)[met]) > 0.97


def main_parts_and_islands(labels: Labels, base: int) -> Labels:
    """The largest part of every cell under its id, its other parts as islands."""
    parts = cc3d.connected_components(labels, connectivity=8)
    pixels, cell = np.bincount(parts.ravel()), np.zeros(int(parts.max()) + 1, np.int64)
    cell[parts.ravel()] = labels.ravel()
    main = {
        cell_id: max(np.flatnonzero(cell == cell_id), key=lambda part: pixels[part])
        for cell_id in np.unique(cell[1:]).tolist()
        if cell_id
    }
    names = np.array(
        [
            int(cell_id) if main.get(cell_id) == part else base + part
            for part, cell_id in enumerate(cell.tolist())
        ]
    )
    return numbered_islands(np.where(labels > 0, names[parts], 0), base)


def stack_of(*rows: str) -> list[Labels]:
    """Slices drawn side by side, with blanks between them.

    1 and 2 are cells, 3 and more islands.
    """
    split = [row.split() for row in rows]
    return [drawn(*(row[z] for row in split)).astype(np.uint32) for z in range(len(split[0]))]


CASES = {
    "an island that meets a cell was the cell's all along": (
        (".3... .3... 111.. 11.22", "..... ..... 11... 11.22"),
        (".1... .1... 111.. 11.22", "..... ..... 11... 11.22"),
    ),
    "one that leaves a cell stays the cell's, also when it meets another": (
        ("111.2 11.32 11.32 11222", "111.2 11..2 11..2 11222"),
        ("111.2 11.22 11.22 11222", "111.2 11..2 11..2 11222"),
    ),
    "an object that never meets a cell has an identity of its own": (
        ("11... 11... 11...", "....3 ...3. ..33.", "..... ..... .4..."),
        ("11... 11... 11...", "....3 ...4. ..44.", "..... ..... .5..."),
    ),
    "two islands that become one are one": (
        ("333.. 3.... .....", "..... 3.44. 3333.", "..... ..... ....."),
        ("333.. 3.... .....", "..... 3.33. 3333.", "..... ..... ....."),
    ),
    "an island that splits is one, and of its cell when one part meets it": (
        ("..... .333. .3.4. .3.11", "..2.. ..... ..... ...11"),
        ("..... .111. .1.1. .1.11", "..2.. ..... ..... ...11"),
    ),
    "the island of a cell that ended meets no cell": (
        ("1.... ..... .....", "1..3. ...3. ...3.", "1.... ..... ....."),
        ("1.... ..... .....", "1..3. ...3. ...3.", "1.... ..... ....."),
    ),
    "an island under two cells goes to the one that it shares more with": (
        (".33333. .33333. 1112222", "....... ....... 1112222"),
        (".22222. .22222. 1112222", "....... ....... 1112222"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_islands_as_drawn(case: str) -> None:
    before, after = (stack_of(*rows) for rows in CASES[case])
    assert in_order(joined(before, 2), 2).tolist() == np.stack(after).tolist()


def test_an_unassigned_object_keeps_its_identity_when_other_slices_change() -> None:
    slices = stack_of("11... 11... 11...", "..... ...3. ..33.", "..... ..... .4...")
    named = joined(slices, 2)
    identity = (
        3 + 10**9
    )  # the largest power of ten that leaves numbers for three slices: slice 1, island 1
    assert np.unique(named[named > 2]).tolist() == [identity, identity + 10**9 + 1]
    changed = [np.where(slices[0] > 0, 0, slices[0]), *slices[1:]]
    changed[0][2, 1] = 3  # an island that is there now and was not before
    assert set(np.unique(joined(changed, 2))) >= {identity, identity + 10**9 + 1}


def test_small_objects_that_meet_no_cell_are_left_out_and_counted() -> None:
    slices = stack_of("11... 11... 11...", "....3 ...3. ..33.", "..... ..... .4...")
    pairs = [link_slices(lower, upper, 2, 512) for lower, upper in itertools.pairwise(slices)]
    every = resolve_tracks(pairs, [islands_in(labels, 2) for labels in slices], 2)
    pixels = [np.bincount(labels.ravel())[3:] for labels in slices]
    tracks, left_out = remove_fragments(every, pixels, 2, 2)
    named = np.stack(
        [
            relabel_islands(labels, tracks.identity[of], 2)
            for labels, of in zip(slices, tracks.of_slice, strict=True)
        ]
    )
    everything = joined(slices, 2)
    voxels = {
        identity: np.count_nonzero(everything == identity)
        for identity in np.unique(everything[everything > 2]).tolist()
    }
    small = [identity for identity, count in voxels.items() if count < 2]
    assert sorted(left_out) == [1] * len(small)
    assert small
    assert named.tolist() == np.where(np.isin(everything, small), 0, everything).tolist()
    assert remove_fragments(every, pixels, 2, 1)[1] == []


def test_a_cell_that_fills_the_slice_does_not_win_against_an_island_of_the_same_size() -> None:
    lower, upper = stack_of("......... 111111111", "..333.... 133311111", "......... 111111111")
    assert joined([lower, upper], 2)[0, 1, 3] == 3  # the island above it is the better match
    links = link_slices(lower, upper, 2, 512)
    assert list(
        zip(links.lower.tolist(), links.upper.tolist(), links.pixels.tolist(), strict=True)
    ) == [(3, 1, 1), (3, 3, 2)]


def test_the_window_decides_how_much_of_a_cell_counts() -> None:
    lower = drawn(*["." * 40] * 4 + ["3" * 6 + "." * 34] + ["." * 40] * 4).astype(np.uint32)
    upper = drawn(
        *["1" * 4 + "." * 2 + "1" * 34] * 4
        + ["1111" + "44" + "1" * 34]
        + ["1" * 4 + "." * 2 + "1" * 34] * 4
    ).astype(np.uint32)
    upper = np.where(upper == 4, 3, upper).astype(np.uint32)
    whole, near = (link_slices(lower, upper, 2, window) for window in (512, 2))
    assert whole.upper[whole.merges].tolist() == [
        3
    ]  # compared with the whole cell, the overlap is small
    assert near.upper[near.merges].tolist() == [1]  # within the window, the overlap is large


def test_an_empty_stack_and_one_without_islands() -> None:
    empty = np.zeros((3, 4), np.uint32)
    assert not joined([empty, empty], 2).any()
    cells = drawn("11.2", "11.2").astype(np.uint32)
    assert joined([cells, empty[:2], cells], 2).tolist() == [
        cells.tolist(),
        [[0] * 4] * 2,
        cells.tolist(),
    ]
    assert resolve_tracks([], [], 2).of_slice == []


def test_ids_beyond_16_bit_keep_their_place() -> None:
    base = 4_000_000_000
    lower = np.array([[base, 0, base + 1]], np.uint32)
    upper = np.array([[base, base, base]], np.uint32)
    assert joined([lower, upper], base).tolist() == [[[base, 0, base]], [[base, base, base]]]
