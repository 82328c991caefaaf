"""Masks in boxes: outlines without a model, and a Segment Anything Model with random weights.

Masks become labels that other stages read.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes, boxes_of_labels, intersection_over_union
from sparsem.boxes.tables import (
    DETECTED_PREFIX,
    StoredBoxes,
    are_masks_outdated,
    read_detected_boxes,
    write_detected_boxes,
)
from sparsem.detect.inference import sample_gray_statistics
from sparsem.detect.masks.masks import box_masks, paint_masks
from sparsem.detect.masks.outline import mask_in_box
from sparsem.detect.masks.outliner import BoxOutliner
from sparsem.detect.masks.sam import Sam, load_sam
from sparsem.detect.masks.sam_masks import sam_masks, sam_tiles
from sparsem.detect.settings import MasksSettings
from sparsem.errors import ResumeError, SampleError, SettingsError
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.measure.measure import measure
from sparsem.measure.settings import MeasureSettings
from sparsem.preprocess.equalize import equalize
from sparsem.preprocess.settings import EqualizeSettings
from sparsem.report.notices import notices
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, kill_ten_times
from tests.spots import sample_of

QUIET = Execution(quiet=True)
CPU = torch.device("cpu")


def ellipse(
    shape: tuple[int, int], center: tuple[float, float], axes: tuple[float, float], degrees: float
) -> NDArray[np.bool_]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = np.deg2rad(degrees)
    u = (x - center[1]) * np.cos(angle) + (y - center[0]) * np.sin(angle)
    v = (y - center[0]) * np.cos(angle) - (x - center[1]) * np.sin(angle)
    return np.asarray((u / axes[0]) ** 2 + (v / axes[1]) ** 2 <= 1)


@pytest.mark.parametrize("degrees", [0, 30, -45, 90])
@pytest.mark.parametrize("size", [1, 8])  # the large ellipse is outlined on a coarser grid
@pytest.mark.parametrize("bright", [True, False])
def test_an_ellipse_is_found_in_its_box(degrees: float, size: int, bright: bool) -> None:
    shape = (90 * size, 100 * size)
    true = ellipse(shape, (45.0 * size, 50.0 * size), (32.0 * size, 14.0 * size), degrees)
    noise = np.random.default_rng(0).normal(0, 15, shape)
    image = np.clip(128 + (40 if bright else -40) * true + noise, 0, 255).astype(np.uint8)
    _, corners = boxes_of_labels(true.astype(np.uint8))
    mask, (top, left) = mask_in_box(image, corners[0].tolist())
    result = np.zeros(shape, bool)
    result[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    assert np.count_nonzero(result & true) / np.count_nonzero(result | true) > 0.9


def test_a_box_at_the_border_beyond_it_or_without_contrast_gives_a_mask() -> None:
    image = np.full((40, 50), 90, np.uint8)
    for corners in ((0, 0, 20, 12), (45, 30, 60, 45), (10, 10, 11, 11), (10.2, 10.2, 10.6, 30)):
        mask, (top, left) = mask_in_box(image, corners)
        assert mask.any()
        assert top + mask.shape[0] <= 40
        assert left + mask.shape[1] <= 50
    assert not mask_in_box(image, (60, 60, 70, 70))[0].size


def test_outlines_of_real_mitochondria(real_data: Any) -> None:
    """Outlines overlap the ground truth more than the ellipse of each box does."""
    z = 30
    image = tifffile.imread(real_data("epfl_fibsem_mitochondria/raw.tif"), key=z)
    labels = tifffile.imread(
        real_data("epfl_fibsem_mitochondria/labels_mitochondria_instances2d.tif"), key=z
    )
    scores = []
    for number, corners in zip(*boxes_of_labels(labels), strict=True):
        mask, (top, left) = mask_in_box(image, corners.tolist())
        area = (slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1]))
        true = labels[area] == number
        upright = ellipse(
            mask.shape,
            ((mask.shape[0] - 1) / 2, (mask.shape[1] - 1) / 2),
            (mask.shape[1] / 2, mask.shape[0] / 2),
            0,
        )
        scores.append(
            [
                np.count_nonzero(candidate & true) / np.count_nonzero(candidate | true)
                for candidate in (mask, upright)
            ]
        )
    outline_score, ellipse_score = np.mean(scores, axis=0)
    assert outline_score > 0.8
    assert outline_score > ellipse_score + 0.01


# tiles for a model


def test_every_box_is_whole_in_its_tile_and_few_tiles_are_needed() -> None:
    random = np.random.default_rng(0)
    low = random.uniform(0, 3000, (500, 2))
    corners = np.column_stack([low, low + random.uniform(4, 900, (500, 2))]).astype(np.float32)
    corners = np.clip(corners, 0, [3100, 3000, 3100, 3000]).astype(np.float32)
    views = sam_tiles(corners, (3000, 3100), 1024)
    for (x0, y0, x1, y1), view in zip(corners.tolist(), views, strict=True):
        assert view.left <= x0
        assert view.top <= y0
        assert x1 <= view.left + view.edge
        assert y1 <= view.top + view.edge
        assert max(x1 - x0, y1 - y0) <= view.edge / 2
    assert len(set(views)) < 250


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minimal SAM with random weights, as a folder of transformers."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    encoder = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 128,
        "patch_size": 16,
        "mlp_dim": 64,
    }
    config: Any = SamConfig
    sam_config = config(
        vision_config={
            **encoder,
            "output_channels": 256,
            "global_attn_indexes": [1],
            "window_size": 4,
        },
        prompt_encoder_config={"image_size": 128, "patch_size": 16},
        mask_decoder_config={"mlp_dim": 64, "num_hidden_layers": 1},
    )
    folder = tmp_path_factory.mktemp("sam")
    SamModel(sam_config).save_pretrained(folder)
    return folder


def test_a_model_masks_many_boxes_in_a_tile_that_it_embedded_once(sam: Path) -> None:
    model = load_sam(str(sam), CPU)
    assert model.edge == 128
    tile = np.random.default_rng(0).random((128, 128), np.float32)
    embedding = model.embedding(tile)
    corners = np.array([[10, 10, 40, 50], [60, 60, 100, 90], [0, 0, 128, 128]], np.float32)
    masks = list(model.masks(embedding, corners))
    assert [mask.shape for mask in masks] == [(128, 128)] * 3
    # The same masks as transformers computes in one call.
    pixels = (
        torch.from_numpy(tile)[None, None].expand(-1, 3, -1, -1)
        - torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    ) / (torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1))
    with torch.inference_mode():
        whole = model.network(
            pixel_values=pixels, input_boxes=torch.from_numpy(corners)[None], multimask_output=False
        )
    small = whole.pred_masks[0, :, 0].numpy()
    assert small.shape[1:] == (32, 32)
    for mask, expected in zip(masks, small, strict=True):
        assert np.corrcoef(mask[2::4, 2::4].ravel(), expected.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("family", ["sam_hq", "sam2"])
def test_other_model_families_make_masks(family: str, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    if family == "sam_hq":
        encoder = {
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 128,
            "patch_size": 16,
            "mlp_dim": 64,
        }
        config: Any = transformers.SamHQConfig
        model_config = config(
            vision_config={
                **encoder,
                "output_channels": 256,
                "global_attn_indexes": [0, 1, 2, 3],
                "window_size": 4,
            },
            prompt_encoder_config={"image_size": 128, "patch_size": 16},
            mask_decoder_config={"mlp_dim": 64, "num_hidden_layers": 1, "vit_dim": 32},
        )
        network: Any = transformers.SamHQModel(model_config)
    else:
        backbone = {
            "model_type": "sam2_hiera_det_model",
            "image_size": [128, 128],
            "hidden_size": 16,
            "embed_dim_per_stage": [16, 32, 64, 128],
            "blocks_per_stage": [1, 1, 2, 1],
            "num_attention_heads_per_stage": [1, 1, 2, 4],
            "global_attention_blocks": [3],
            "window_size_per_stage": [4, 4, 4, 4],
        }
        sizes = [[32, 32], [16, 16], [8, 8]]
        vision = {
            "backbone_config": backbone,
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": sizes,
        }
        config = transformers.Sam2Config
        model_config = config(
            vision_config=vision,
            prompt_encoder_config={"image_size": 128, "patch_size": 16},
            mask_decoder_config={},
        )
        network = transformers.Sam2Model(model_config)
    network.save_pretrained(tmp_path / "model")
    model = load_sam(str(tmp_path / "model"), CPU)
    embedding = model.embedding(np.random.default_rng(0).random((128, 128), np.float32))
    masks = list(
        model.masks(embedding, np.array([[10, 10, 40, 50], [60, 60, 100, 90]], np.float32))
    )
    assert [mask.shape for mask in masks] == [(128, 128)] * 2
    assert all(np.isfinite(mask).all() for mask in masks)


def test_embeddings_of_another_image_are_not_used(
    sample_and_boxes: tuple[Sample, Boxes], sam: Path
) -> None:
    sample, _ = sample_and_boxes
    settings = MasksSettings(sam=str(sam), keep_embeddings=True, device="cpu", structures=("disc",))
    box_masks(sample, settings, on=QUIET)
    folders = set((sample.path / ".sparsem" / "embeddings").iterdir())
    equalize(sample, EqualizeSettings(method="clahe"), on=QUIET)
    stored = read_detected_boxes(sample, "disc")
    write_detected_boxes(sample, f"{DETECTED_PREFIX}disc", replace(stored, image="equalized"))
    box_masks(sample, settings, on=Execution(quiet=True, overwrite=True))
    assert len(set((sample.path / ".sparsem" / "embeddings").iterdir()) - folders) == 1


def test_a_box_that_a_person_draws_gets_the_same_mask(
    sample_and_boxes: tuple[Sample, Boxes], sam: Path
) -> None:
    """With and without a model; the tile of a box is embedded once."""
    sample, boxes = sample_and_boxes
    image = sample.image()
    plane = image.read(slice(0, 1))[0]
    of_slice = boxes.corners[boxes.z == 0]
    plain = BoxOutliner(image)
    with_model = BoxOutliner(image, str(sam), "cpu")
    model, levels = load_sam(str(sam), CPU), sample_gray_statistics(image)
    expected = sam_masks(plane, 0, of_slice, model, levels, None)
    for box, (mask, position) in zip(of_slice, expected, strict=True):
        corners = tuple(box.tolist())
        outlined, at = with_model.outline(plane, 0, corners)
        assert at == position
        np.testing.assert_array_equal(outlined, mask)
        outlined, at = plain.outline(plane, 0, corners)
        mask, position = mask_in_box(plane, corners)
        assert at == position
        np.testing.assert_array_equal(outlined, mask)
    with pytest.raises(SettingsError, match="cannot be loaded"):
        BoxOutliner(image, str(sam / "none"), "cpu").outline(plane, 0, corners)


def test_a_small_image_of_a_montage_is_read_without_its_padding(tmp_path: Path) -> None:
    from tests.spots import spot_image

    gray, corners, _ = spot_image(3, (90, 100), 3)
    labels = []
    for name, others in (("alone", ()), ("beside", (np.full((200, 220), 200, np.uint8),))):
        folder = tmp_path / name
        folder.mkdir()
        for number, image in enumerate((gray, *others)):
            tifffile.imwrite(folder / f"p{number}.tif", image, photometric="minisblack")
        sample = import_stack(
            folder,
            tmp_path / f"{name}.zarr",
            ImportSettings(voxel_nm=(50, 10, 10), montage=True),
            on=QUIET,
        )
        boxes = Boxes.from_arrays(("disc",), np.zeros(len(corners), int), 0, corners)
        stored = StoredBoxes(
            boxes,
            (0,),
            "raw",
            {"fingerprint": "by hand", "used_slices": []},
            boxes.score,
            np.ones(len(boxes), bool),
        )
        write_detected_boxes(sample, f"{DETECTED_PREFIX}disc", stored)
        box_masks(sample, MasksSettings(), on=QUIET)
        labels.append(volumes(sample)["disc"][0, :90, :100])
    assert np.array_equal(labels[0], labels[1])


def test_objects_at_the_border_of_their_image_are_cut(tmp_path: Path) -> None:
    """A small image of a montage ends before its slice does."""
    (tmp_path / "m").mkdir()
    gray = np.full((60, 80), 200, np.uint8)
    for name, shape in (("large", (100, 120)), ("small", (60, 80))):
        tifffile.imwrite(
            tmp_path / "m" / f"{name}.tif", np.resize(gray, shape), photometric="minisblack"
        )
    sample = import_stack(
        tmp_path / "m",
        tmp_path / "m.zarr",
        ImportSettings(voxel_nm=(50, 10, 10), montage=True),
        on=QUIET,
    )
    corners = np.array(
        [[20, 20, 40, 40], [20, 40, 40, 60], [60, 10, 80, 30], [20, 40, 40, 60]], np.float32
    )
    z = np.array([1, 1, 1, 0])
    boxes, about = (
        Boxes.from_arrays(("disc",), z, 0, corners),
        {"fingerprint": "by hand", "used_slices": []},
    )
    stored = StoredBoxes(boxes, (0, 1), "raw", about, boxes.score, np.ones(4, bool))
    write_detected_boxes(sample, f"{DETECTED_PREFIX}disc", stored)
    box_masks(sample, MasksSettings(), on=QUIET)
    measure(sample, MeasureSettings(texture=False), on=QUIET)
    rows = sample.read_table("disc").to_pylist()
    assert sorted(
        (row["image"], row["first_y"], row["first_x"], row["cut_by_edge"]) for row in rows
    ) == [
        (0, 40, 20, False),
        (1, 10, 60, True),
        (1, 20, 20, False),
        (1, 40, 20, True),
    ]


def test_colors_are_those_of_the_model(sam: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "other"
    shutil.copytree(sam, folder)
    about = {
        "image_processor_type": "SamImageProcessor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    assert load_sam(str(folder), CPU).colors == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize("what", ["nothing", "nowhere/at-all", "resunet"])
def test_unavailable_models_are_refused(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # the environment is read when the library is loaded
    if what == "nothing":
        (tmp_path / "empty").mkdir()
        what = str(tmp_path / "empty")
    with pytest.raises(SettingsError, match=r"cannot be loaded .*leave out --sam"):
        load_sam(what, CPU)


# the stage


@pytest.fixture
def sample_and_boxes(tmp_path: Path) -> tuple[Sample, Boxes]:
    """Three images whose true boxes are stored as detected boxes."""
    sample, boxes = sample_of(tmp_path / "spots.zarr", (3, 120, 150), count=6)
    for name in boxes.names:
        structure_boxes = boxes.of_structure(name)
        about = {"fingerprint": f"by hand {name}"}
        write_detected_boxes(
            sample,
            f"{DETECTED_PREFIX}{name}",
            StoredBoxes(
                structure_boxes,
                (0, 1, 2),
                "raw",
                about,
                structure_boxes.score,
                np.ones(len(structure_boxes), bool),
            ),
        )
    return sample, boxes


def volumes(sample: Sample) -> dict[str, NDArray[Any]]:
    return {
        name: sample.volume("labels", name).read(slice(None)) for name in sample.names("labels")
    }


def test_masks_become_labels_that_are_measured(sample_and_boxes: tuple[Sample, Boxes]) -> None:
    sample, boxes = sample_and_boxes
    result = box_masks(sample, MasksSettings(), on=QUIET)
    assert result.volumes == ["labels/disc", "labels/square"]
    assert (
        result.boxes
        == result.visible
        == {name: int((boxes.kind == kind).sum()) for kind, name in enumerate(boxes.names)}
    )
    assert box_masks(sample, MasksSettings(), on=QUIET) == result  # done before
    labels = volumes(sample)["disc"]
    discs = boxes.of_structure("disc")
    assert labels.dtype == np.uint32
    assert np.unique(labels).tolist() == list(range(len(discs) + 1))
    for number, (z, corners) in enumerate(zip(discs.z, discs.corners, strict=True), 1):
        _, mask_corners = boxes_of_labels(labels[z] == number)
        assert intersection_over_union(mask_corners, corners[None]).item() > 0.8
    counted = measure(sample, MeasureSettings(texture=False), on=QUIET)
    assert counted.objects["disc"] == len(discs)


def test_3d_connectivity_makes_one_mask(sample_and_boxes: tuple[Sample, Boxes]) -> None:
    sample, _ = sample_and_boxes
    box_masks(sample, MasksSettings(connectivity="3d", structures=("disc",)), on=QUIET)
    labels = volumes(sample)["disc"]
    assert labels.dtype == np.uint8
    assert np.unique(labels).tolist() == [0, 1]


def test_images_of_a_montage_are_not_connected(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in "ab":
        tifffile.imwrite(
            tmp_path / "m" / f"{name}.tif",
            np.full((40, 50), 90, np.uint8),
            photometric="minisblack",
        )
    sample = import_stack(
        tmp_path / "m",
        tmp_path / "m.zarr",
        ImportSettings(voxel_nm=(50, 10, 10), montage=True),
        on=QUIET,
    )
    boxes = Boxes.from_arrays(("disc",), [0, 1], 0, [[5, 5, 30, 30]] * 2)
    write_detected_boxes(
        sample,
        f"{DETECTED_PREFIX}disc",
        StoredBoxes(boxes, (0, 1), "raw", {"fingerprint": "a"}, boxes.score, np.ones(2, bool)),
    )
    with pytest.raises(
        SettingsError,
        match=r"separate images, and objects are not connected across them; leave out --connectivity 3d",
    ):
        box_masks(sample, MasksSettings(connectivity="3d"), on=QUIET)


def test_masks_of_other_boxes_are_outdated(sample_and_boxes: tuple[Sample, Boxes]) -> None:
    sample, boxes = sample_and_boxes
    box_masks(sample, MasksSettings(), on=QUIET)
    assert not are_masks_outdated(sample, "disc")
    remaining = boxes.of_structure("disc")[1:]
    write_detected_boxes(
        sample,
        f"{DETECTED_PREFIX}disc",
        StoredBoxes(
            remaining,
            (0, 1, 2),
            "raw",
            {"fingerprint": "others"},
            remaining.score,
            np.ones(len(remaining), bool),
        ),
    )
    assert are_masks_outdated(sample, "disc")
    assert not are_masks_outdated(sample, "square")
    assert any(
        "masks of disc were computed from other boxes" in notice.text
        for notice in notices(sample, ["disc", "square"], "cells")
    )


def test_the_box_with_the_higher_score_gets_the_pixel() -> None:
    labels = np.zeros((4, 4), np.uint32)
    square = np.ones((3, 3), bool)
    assert (
        paint_masks(
            labels,
            [(square, (0, 0)), (square, (1, 1))],
            np.array([5, 6]),
            np.array([0.9, 0.3], np.float32),
        )
        == 2
    )
    assert labels[1, 1] == 5
    assert labels[3, 3] == 6


@pytest.mark.parametrize("keep", [False, True])
def test_a_model_masks_every_box(
    sample_and_boxes: tuple[Sample, Boxes], sam: Path, keep: bool
) -> None:
    sample, boxes = sample_and_boxes
    box_masks(sample, MasksSettings(sam=str(sam), keep_embeddings=keep, device="cpu"), on=QUIET)
    for name, labels in volumes(sample).items():
        structure_boxes = boxes.of_structure(name)
        assert np.unique(labels).tolist() == list(range(len(structure_boxes) + 1))
        for number, (z, (x0, y0, x1, y1)) in enumerate(
            zip(structure_boxes.z, structure_boxes.corners.astype(int), strict=True), 1
        ):
            outside = labels[z] == number
            outside[y0:y1, x0:x1] = False
            assert not outside.any()
    embeddings = list((sample.path / ".sparsem" / "embeddings").rglob("*.safetensors"))
    assert bool(embeddings) is keep


def test_stored_embeddings_are_used_again(
    sample_and_boxes: tuple[Sample, Boxes], sam: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, _ = sample_and_boxes
    settings = MasksSettings(sam=str(sam), keep_embeddings=True, device="cpu")
    box_masks(sample, changed(settings, {"structures": ("disc",)}), on=QUIET)
    before = volumes(sample)["disc"]

    def refuse(*_: Any) -> None:
        raise AssertionError("looked at a tile again")

    monkeypatch.setattr(Sam, "embedding", refuse)
    box_masks(
        sample,
        changed(settings, {"structures": ("disc",)}),
        on=Execution(quiet=True, overwrite=True),
    )
    assert np.array_equal(volumes(sample)["disc"], before)


def test_a_box_without_a_mask_gets_an_outline(
    sample_and_boxes: tuple[Sample, Boxes], sam: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, _ = sample_and_boxes
    box_masks(sample, MasksSettings(structures=("disc",)), on=QUIET)
    outlines = volumes(sample)["disc"]
    monkeypatch.setattr(
        Sam,
        "masks",
        lambda self, embedding, corners: iter(np.full((len(corners), 128, 128), -1, np.float32)),
    )
    box_masks(
        sample,
        MasksSettings(structures=("disc",), sam=str(sam), device="cpu"),
        on=Execution(quiet=True, overwrite=True),
    )
    assert np.array_equal(volumes(sample)["disc"], outlines)


def test_masks_do_not_depend_on_workers_or_kills(
    sample_and_boxes: tuple[Sample, Boxes], tmp_path: Path
) -> None:
    samples = [
        sample_and_boxes[0],
        *(copy_of(sample_and_boxes[0], tmp_path / f"{name}.zarr") for name in ("killed", "spread")),
    ]
    box_masks(samples[0], MasksSettings(), on=QUIET)
    assert (
        kill_ten_times(
            "masks", {"sample": str(samples[1].path), "settings": {}, "seconds": 0.25}, kills=4
        )
        > 0
    )
    box_masks(samples[2], MasksSettings(), on=Execution(workers=2, quiet=True))
    for sample in samples[1:]:
        for name, labels in volumes(samples[0]).items():
            assert np.array_equal(labels, volumes(sample)[name])


def test_impossible_masks_are_refused(
    sample_and_boxes: tuple[Sample, Boxes], tissue: Sample, sam: Path
) -> None:
    sample, _ = sample_and_boxes
    with pytest.raises(SampleError, match=r"has no boxes; find some"):
        box_masks(tissue)
    with pytest.raises(SampleError, match=r"has no boxes of 'disk'; did you mean 'disc'"):
        box_masks(sample, MasksSettings(structures=("disk",)), on=QUIET)
    box_masks(sample, MasksSettings(), on=QUIET)
    with pytest.raises(ResumeError, match=r"connectivity: 2d -> 3d.*--overwrite"):
        box_masks(sample, MasksSettings(connectivity="3d"), on=QUIET)
    with pytest.raises(ResumeError, match=r"now with model"):
        box_masks(sample, MasksSettings(sam=str(sam)), on=QUIET)
