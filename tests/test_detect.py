"""Detectors: training, resuming, detection with any number of workers, held-out images, scores."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sparsem.boxes.geometry import Boxes, intersection_over_union
from sparsem.boxes.tables import (
    detected_box_structures,
    read_annotated_boxes,
    read_detected_boxes,
    write_annotated_boxes,
)
from sparsem.cli.app import app
from sparsem.detect.inference import (
    GrayStatistics,
    detect_in_image,
    sample_gray_statistics,
    tiling_of,
    window_reader,
)
from sparsem.detect.models.deformable_detr import COCO_DETR
from sparsem.detect.models.detector import MIN_SCORE, DetectionTarget
from sparsem.detect.models.networks import DETECTORS, build_detector, load_initial_weights
from sparsem.detect.predict import detect
from sparsem.detect.score import score_boxes
from sparsem.detect.settings import DetectScoreSettings, DetectSettings, DetectTrainSettings
from sparsem.detect.training.recipe import (
    DetectorRecipe,
    load_detector,
    read_detector,
    save_detector,
)
from sparsem.detect.training.splitting import ImageId, ImageRole, named_images, split_images
from sparsem.detect.training.tiles import (
    DetectionSampler,
    TrainingImage,
    boxes_in_window,
    turn_tile,
)
from sparsem.detect.training.train import train_detector
from sparsem.errors import InputError, ResumeError, SampleError, SettingsError
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.models.architectures import count_parameters
from sparsem.models.checkpoint import load_state, network_state
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.study.study import run
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, kill_ten_times
from tests.spots import NAMES, sample_of

pytestmark = pytest.mark.xdist_group("detector")  # one process trains it

QUIET = Execution(quiet=True)
AGAIN = Execution(quiet=True, overwrite=True)
HELD = {"split": "none", "validation": ("spots:5",), "test": ("spots:6-7",)}
SHORT = DetectTrainSettings(
    input_px=128,
    updates=3,
    batch=1,
    validate_every=2,
    warmup=1,
    checkpoint_every_s=0,
    device="cpu",
    **HELD,
)
TRAINED = changed(
    SHORT, {"updates": 40, "batch": 2, "ema": 0.8, "validate_every": 100, "checkpoint_every_s": 30}
)


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return sample_of(tmp_path_factory.mktemp("spots") / "spots.zarr", (8, 160, 192))[0]


@pytest.fixture(scope="module")
def model(spots: Sample) -> Path:
    file = spots.path.parent / "spots.safetensors"
    train_detector([spots], file, TRAINED, on=QUIET)
    return file


def without_boxes(sample: Sample, folder: Path) -> Sample:
    """Return a copy of a sample, of the same name, without the boxes that other tests detected."""
    folder.mkdir(exist_ok=True)
    copy = copy_of(sample, folder / sample.path.name)
    for name in detected_box_structures(copy):
        copy.remove_table(f"boxes_{name}")
    shutil.rmtree(copy.path / ".sparsem" / "work", ignore_errors=True)
    for record in (copy.path / ".sparsem").rglob("detect-*.json"):
        record.unlink()
    return copy


@pytest.fixture
def spots_copy(spots: Sample, tmp_path: Path) -> Sample:
    return without_boxes(spots, tmp_path)


# networks


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_has_a_loss_and_an_answer(name: str) -> None:
    torch.manual_seed(0)
    network = build_detector(name, 2, 128, 20)
    images = torch.randn(2, 1, 128, 128)
    target = DetectionTarget(
        torch.tensor([[10.0, 10, 40, 50], [60, 60, 100, 90]]), torch.tensor([0, 1])
    )
    empty_target = DetectionTarget(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    loss = network.train().loss(images, [target, empty_target])
    assert loss.isfinite()
    loss.backward()
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert sum(
        parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        for parameter in trainable
    ) > 0.8 * len(trainable)
    with torch.inference_mode():
        answers = network.eval().detect(images)
    assert len(answers) == 2
    for detections in answers:
        assert detections.corners.shape == (len(detections.score), 4)
        assert ((detections.kind >= 0) & (detections.kind < 2)).all()
        assert (detections.score >= MIN_SCORE).all()


def test_starting_points_of_queries_are_trained_for_any_structure() -> None:
    torch.manual_seed(0)
    network = build_detector("deformable-detr-small", 2, 128, 20)
    objects = DetectionTarget(
        torch.tensor([[10.0, 10, 40, 50], [60, 60, 100, 90]]), torch.tensor([1, 1])
    )
    network.train().loss(torch.randn(1, 1, 128, 128), [objects]).backward()
    net: Any = network.net
    which, where = net.class_embed[-1].weight.grad, net.bbox_embed[-1].layers[-1].bias.grad
    assert where.abs().min() > 0
    assert (
        which[0].abs().max() > 0
    )  # the output by which the encoder chooses, though no object is of its structure
    assert which[1].abs().max() == 0


def test_the_large_ones_are_those_of_the_papers() -> None:
    from torchvision.models.detection import retinanet_resnet50_fpn_v2
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    plain = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91)
    assert (
        sum(parameter.numel() for parameter in plain.parameters()) == 38_198_935
    )  # as torchvision states
    assert count_parameters(build_detector("retinanet", 91, 128, 10)) == sum(
        parameter.numel() for parameter in plain.parameters()
    )
    config: Any = DeformableDetrConfig
    detr = DeformableDetrForObjectDetection(config(num_labels=91))
    detector, frozen = (
        build_detector("deformable-detr", 91, 128, 300),
        sum(parameter.numel() for parameter in detr.parameters()),
    )
    norms = sum(
        2 * module.num_features
        for module in detector.backbone().modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    )
    assert (
        count_parameters(detector) == frozen + norms
    )  # norms that are trained; those of the library are frozen


def test_a_fresh_deformable_detr_gives_low_scores() -> None:
    """The authors' code does the same.

    The library leaves class scores at 0.5, and reducing them would take days of training.
    """
    torch.manual_seed(0)
    network: Any = build_detector("deformable-detr-small", 2, 128, 20).eval()
    with torch.inference_mode():
        output: Any = network.net(pixel_values=torch.randn(1, 3, 128, 128))
    assert output.logits.sigmoid().mean() < 0.05


@pytest.mark.parametrize("name", ["retinanet", "deformable-detr"])
def test_a_detector_begins_with_weights_of_other_classes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    coco: Any = build_detector(name, 91, 128, 30)
    file = tmp_path / "coco.safetensors"
    save_file(
        {key: tensor.contiguous().clone() for key, tensor in coco.net.state_dict().items()}, file
    )
    torch.manual_seed(2)
    detector = build_detector(name, 2, 128, 30)
    load_initial_weights(detector, name, str(file))
    same = [
        key
        for key, tensor in network_state(detector).items()
        if tensor.shape == network_state(coco)[key].shape
        and torch.equal(tensor, network_state(coco)[key])
    ]
    assert len(same) > 0.95 * len(network_state(detector))
    norms = [
        module
        for module in detector.train().backbone().modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    assert norms
    assert not any(module.training for module in norms)  # statistics of COCO stay


def test_weights_are_fetched_by_the_names_of_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_V2_Weights
    from transformers import DeformableDetrForObjectDetection

    asked: list[Any] = []
    detr: Any = build_detector("deformable-detr", 91, 128, 300)
    retina: Any = build_detector("retinanet", 91, 128, 10)

    def from_pretrained(name: str, **options: Any) -> Any:
        asked.append((name, options))
        return detr.net

    def state_dict(self: Any, *_: Any, **options: Any) -> Any:
        asked.append((self.url, options))
        return retina.net.state_dict()

    monkeypatch.setattr(DeformableDetrForObjectDetection, "from_pretrained", from_pretrained)
    monkeypatch.setattr(RetinaNet_ResNet50_FPN_V2_Weights, "get_state_dict", state_dict)
    load_initial_weights(build_detector("deformable-detr", 1, 128, 300), "deformable-detr", "coco")
    load_initial_weights(build_detector("retinanet", 1, 128, 10), "retinanet", "coco")
    assert asked[0] == (COCO_DETR, {"use_safetensors": True})
    assert asked[1][0].endswith("retinanet_resnet50_fpn_v2_coco-5905b1c5.pth")
    assert asked[1][1]["weights_only"] is True  # no pickles


@pytest.mark.parametrize(
    ("name", "weights", "sentence"),
    [
        ("retinanet-small", "coco", "no initial weights for 'retinanet-small'"),
        ("retinanet", "nowhere.pth", "cannot be loaded .*nowhere.pth.*--weights none"),
        ("retinanet", "other", "cannot be loaded .they lack"),
        ("retinanet", "pickle", "cannot be loaded"),
    ],
)
def test_unavailable_weights_are_refused(
    name: str, weights: str, sentence: str, tmp_path: Path
) -> None:
    if weights == "other":
        save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
        weights = str(tmp_path / "other.safetensors")
    if weights == "pickle":
        torch.save(
            GrayStatistics, tmp_path / "bad.pth"
        )  # a class, which a pickle would run code of
        weights = str(tmp_path / "bad.pth")
    with pytest.raises(SettingsError, match=sentence):
        load_initial_weights(build_detector(name, 1, 128, 10), name, weights)


def test_unknown_detectors_are_refused() -> None:
    with pytest.raises(SettingsError, match="no detector 'retinanets'; did you mean 'retinanet'"):
        build_detector("retinanets", 1, 128, 10)
    with pytest.raises(SettingsError, match=r"a multiple of 128 px; got --input-px 100"):
        build_detector("retinanet-small", 1, 100, 10)


# tiles


@pytest.mark.parametrize("symmetry", range(8))
def test_boxes_turn_with_their_tile(symmetry: int) -> None:
    image = np.zeros((1, 12, 12), np.float32)
    image[0, 2:5, 1:9] = 1
    turned_image, corners = turn_tile(image, np.array([[1, 2, 9, 5]], np.float32), symmetry)
    y, x = np.nonzero(turned_image[0])
    assert corners.tolist() == [[x.min(), y.min(), x.max() + 1, y.max() + 1]]


def test_boxes_in_a_window_are_cut() -> None:
    corners = np.array(
        [[10, 10, 20, 20], [45, 10, 65, 20], [49, 30, 89, 40], [60, 60, 70, 70]], np.float32
    )
    inside, kind = boxes_in_window(corners, np.arange(4), (5, 5, 55, 55))
    assert kind.tolist() == [
        0,
        1,
    ]  # half of the second is in; of the third less than a third is; the fourth lies elsewhere
    assert inside.tolist() == [[5, 5, 15, 15], [40, 5, 50, 15]]


def test_a_batch_is_a_function_of_seed_and_update_and_sees_rare_structures(spots: Sample) -> None:
    image = spots.image()
    corners = np.array(
        [[10, 10, 30, 30], *[[60, 60 + n, 80, 80 + n] for n in range(30)]], np.float32
    )
    kind = np.array([1, *[0] * 30], np.int64)
    training_image = TrainingImage(
        "spots:0", image, 0, corners, kind, sample_gray_statistics(image), (64, 64)
    )
    empty = TrainingImage(
        "spots:1", image, 1, corners[:0], kind[:0], sample_gray_statistics(image), (64, 64)
    )
    sampler = DetectionSampler([training_image, empty], 128, 4, 0.2, 7)
    batch, repeated, later = sampler.draw(3), sampler.draw(3), sampler.draw(4)
    assert np.array_equal(batch.images, repeated.images)
    assert not np.array_equal(batch.images, later.images)
    assert batch.images.shape == (4, 1, 128, 128)
    rare = [1 in kinds for update in range(40) for kinds in sampler.draw(update).kinds]
    assert 0.3 < np.mean(rare) < 0.8  # one box of 31
    for boxes in batch.corners:
        assert boxes.min(initial=0) >= 0
        assert boxes.max(initial=0) <= 128


def test_gray_levels_are_those_of_the_sample(spots: Sample) -> None:
    image = spots.image()
    voxels = image.read(slice(None)).astype(float)
    levels = sample_gray_statistics(image)
    assert levels.mean == pytest.approx(voxels.mean(), abs=1)
    assert levels.std == pytest.approx(voxels.std(), abs=1)


# roles of images


def image_ids(samples: int, images: int) -> list[ImageId]:
    return [ImageId(f"S{sample:02d}", z) for sample in range(samples) for z in range(images)]


def test_whole_samples_are_held_out() -> None:
    roles = split_images(image_ids(20, 5), "sample", set(), set(), set(), seed=3)
    by_sample = {
        name: {role for image_id, role in roles.items() if image_id.sample == name}
        for name in {image_id.sample for image_id in roles}
    }
    assert all(len(roles_of_sample) == 1 for roles_of_sample in by_sample.values())
    counted = [
        sum(roles_of_sample == {role} for roles_of_sample in by_sample.values())
        for role in (ImageRole.TRAIN, ImageRole.VALIDATE, ImageRole.TEST)
    ]
    assert counted == [16, 2, 2]
    assert roles == split_images(image_ids(20, 5), "sample", set(), set(), set(), seed=3)
    assert roles != split_images(image_ids(20, 5), "sample", set(), set(), set(), seed=4)


def test_the_last_images_of_a_stack_are_held_out() -> None:
    roles = split_images(image_ids(1, 20), "image", set(), set(), {ImageId("S00", 0)}, seed=0)
    order = [roles[ImageId("S00", z)].value for z in range(20)]
    assert order == ["exclude", *["train"] * 15, "validate", "validate", "test", "test"]


def test_only_named_images_are_held_out() -> None:
    every = image_ids(2, 50)
    test = named_images(every, ["S01.zarr", "S00:40-49"], "--test")
    assert len(test) == 60
    roles = split_images(
        every, "none", named_images(every, ["S00:39"], "--validation"), test, set(), 0
    )
    assert [role.value for image_id, role in roles.items() if image_id == ImageId("S00", 39)] == [
        "validate"
    ]
    assert sum(role is ImageRole.TRAIN for role in roles.values()) == 39


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            (image_ids(2, 9), "sample", set(), set(), set(), 0),
            "Cannot split 2 annotated samples.*--split image",
        ),
        (
            (image_ids(1, 2), "image", set(), set(), set(), 0),
            "Cannot split 2 annotated images",
        ),
        (
            (image_ids(1, 2), "none", set(image_ids(1, 2)), set(), set(), 0),
            "all are held out or excluded",
        ),
        (
            (image_ids(1, 2), "none", {ImageId("S00", 1)}, {ImageId("S00", 1)}, set(), 0),
            "S00:1 is named for two",
        ),
    ],
)
def test_impossible_splits_are_refused(given: Any, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        split_images(*given)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [("S09", "names no annotated image"), ("S00:x", "takes a sample, or its slices")],
)
def test_invalid_choices_of_images_are_refused(choice: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        named_images(image_ids(1, 3), [choice], "--test")


# training


def test_a_detector_is_trained(spots: Sample, model: Path) -> None:
    recipe = read_detector(model)
    assert recipe.structures == NAMES
    assert recipe.training["train"] == [f"spots:{z}" for z in range(5)]
    assert recipe.training["test"] == ["spots:6", "spots:7"]
    assert recipe.training["weights"] == "best"
    assert np.mean(list(recipe.training["validation_ap50"].values())) > 0.3
    log = model.with_suffix(".training.csv").read_text().splitlines()
    assert log[0] == "update,seconds,learning_rate,loss,validation_ap50_disc,validation_ap50_square"
    losses = [float(line.split(",")[3]) for line in log[1:]]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_objects_get_a_size_that_the_detector_finds_well(spots: Sample, model: Path) -> None:
    recipe = read_detector(model)
    boxes = [read_annotated_boxes(spots, name).boxes for name in NAMES]
    edges = np.concatenate(
        [
            np.sqrt(
                np.prod(structure_boxes.corners[:, 2:] - structure_boxes.corners[:, :2], axis=1)
            )
            for structure_boxes in boxes
        ]
    )
    smallest: float = DETECTORS["retinanet-small"].min_object_px  # type: ignore[attr-defined]
    shrunk = np.percentile(edges, 10) * 10 / recipe.pixel_nm[0]
    assert shrunk == pytest.approx(smallest, abs=1.5)
    assert recipe.tile_shape(spots.voxel_size) == (115, 115)


@pytest.mark.parametrize("name", ["retinanet-small", "deformable-detr-small"])
def test_an_interrupted_training_ends_the_same(
    spots: Sample, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changed(SHORT, {"architecture": name, "queries": 20})
    train_detector([spots], tmp_path / "whole.safetensors", settings, on=QUIET)
    seen = []

    def stop(self: DetectionSampler, update: int) -> Any:
        seen.append(update)
        if len(seen) > 2:
            raise KeyboardInterrupt
        return drawn(self, update)

    drawn = DetectionSampler.draw
    with monkeypatch.context() as patch:
        patch.setattr(DetectionSampler, "draw", stop)
        with pytest.raises(KeyboardInterrupt):
            train_detector([spots], tmp_path / "parts.safetensors", settings, on=QUIET)
    assert (tmp_path / "parts.state.safetensors").exists()
    train_detector([spots], tmp_path / "parts.safetensors", settings, on=QUIET)
    assert (tmp_path / "parts.safetensors").read_bytes() == (
        tmp_path / "whole.safetensors"
    ).read_bytes()
    assert not (tmp_path / "parts.state.safetensors").exists()


def test_other_settings_do_not_replace_a_detector(spots: Sample, model: Path) -> None:
    before = model.read_bytes()
    train_detector([spots], model, TRAINED, on=QUIET)  # the same again is done
    with pytest.raises(ResumeError, match="updates: 40 -> 41"):
        train_detector([spots], model, changed(TRAINED, {"updates": 41}), on=QUIET)
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            {"structures": ("disk",)},
            SampleError,
            "no annotated boxes of 'disk'; did you mean 'disc'",
        ),
        ({"architecture": "yolo"}, SettingsError, "no detector 'yolo'"),
        ({"input_px": 200}, SettingsError, "multiple of 128"),
        (
            {"validation": (), "test": (), "split": "sample"},
            SettingsError,
            "Cannot split 1 annotated sample into",
        ),
        (
            {"test": ("liver",)},
            SettingsError,
            "--test liver names no annotated image; spots have annotated images",
        ),
        ({"device": "cuda:9"}, SettingsError, "--device cuda:9"),
        ({"weights": "coco"}, SettingsError, "no initial weights for 'retinanet-small'"),
    ],
)
def test_impossible_trainings_are_refused(
    spots: Sample, tmp_path: Path, change: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        train_detector([spots], tmp_path / "x.safetensors", changed(SHORT, change), on=QUIET)
    assert not list(tmp_path.iterdir())


def test_training_needs_boxes(tissue: Sample, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"No structure has annotated boxes in .*detect import"):
        train_detector([tissue], tmp_path / "x.safetensors", SHORT, on=QUIET)
    with pytest.raises(
        InputError, match=r"Expected NAME.safetensors as the name of the detector; got 'x.pth'"
    ):
        train_detector([tissue], "x.pth", SHORT, on=QUIET)


# files


def test_detectors_and_networks_are_distinguished(model: Path, tmp_path: Path) -> None:
    from sparsem.models.checkpoint import read_recipe, save_tensors

    with pytest.raises(InputError, match=r"predicts boxes.*sparsem detect predict"):
        read_recipe(model)
    save_tensors(tmp_path / "net.safetensors", {}, {"model": "resunet"})
    with pytest.raises(InputError, match="segments structures pixel by pixel and finds no boxes"):
        read_detector(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"structures": []}, "no finished detector: values of its recipe are out of range"),
        ({"structures": ["../x"]}, "no finished detector: A name consists of letters"),
        ({"pixel_nm": [0, 1]}, "no finished detector: values of its recipe are out of range"),
        (
            {"counts_from": {"disc": 7}},
            "no finished detector: values of its recipe are out of range",
        ),
        ({"confidence": {"disc": [[0.1]]}}, "no finished detector"),
        ({"detector": "yolo"}, "is damaged: There is no detector 'yolo'"),
        ({"input_px": 256.5}, "is damaged|no finished detector"),
    ],
)
def test_damaged_detectors(
    model: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    from sparsem.models.checkpoint import load_tensors, save_tensors

    tensors, about = load_tensors(model)
    save_tensors(tmp_path / "bad.safetensors", tensors, {**about, **change})
    with pytest.raises(InputError, match=sentence):
        load_detector(tmp_path / "bad.safetensors")


def test_weights_that_are_shared_are_kept_once(tmp_path: Path) -> None:
    """Heads of Deformable DETR share their weights."""
    torch.manual_seed(0)
    network = build_detector("deformable-detr", 2, 128, 20)
    recipe = DetectorRecipe("deformable-detr", NAMES, 128, (10.0, 10.0), 20)
    save_detector(tmp_path / "d.safetensors", network, recipe)
    again, _ = load_detector(tmp_path / "d.safetensors")
    assert all(
        torch.equal(saved, loaded)
        for saved, loaded in zip(
            network.state_dict().values(), again.state_dict().values(), strict=True
        )
    )
    assert len(network_state(network)) < len(network.state_dict())
    with pytest.raises(RuntimeError, match="is missing"):
        load_state(network, {})


# detection


def test_boxes_are_where_objects_are(spots: Sample, model: Path) -> None:
    detected = detect(spots, model, DetectSettings(device="cpu"), on=QUIET).boxes
    assert sorted(detected_box_structures(spots)) == sorted(NAMES)
    scores = score_boxes([spots], DetectScoreSettings())
    assert {
        name: entry.images for name, entry in scores.of_kind("predicted").items()
    } == dict.fromkeys(NAMES, 2)  # held-out images: neither training nor validation uses them
    assert np.mean([entry.scores.ap50 for entry in scores.boxes]) > 0.3
    everywhere = score_boxes([spots], DetectScoreSettings(images="all"))
    assert [entry.images for entry in everywhere.boxes] == [8, 8]
    for name in NAMES:
        assert (
            detected[name].counts
            == (detected[name].boxes.score >= read_detector(model).threshold(name))
        ).all()
        assert ((detected[name].confidence >= 0) & (detected[name].confidence <= 1)).all()
    assert spots.read_table("box_scores").num_rows == 2


def test_found_boxes_do_not_depend_on_workers_or_batch(
    spots: Sample, model: Path, tmp_path: Path
) -> None:
    samples = [without_boxes(spots, tmp_path / name) for name in ("one", "two")]
    detect(samples[0], model, DetectSettings(device="cpu"), on=QUIET)
    detect(
        samples[1],
        model,
        DetectSettings(device="cpu", batch=1),
        on=Execution(workers=2, quiet=True),
    )
    for name in NAMES:
        first, second = (read_detected_boxes(sample, name).boxes for sample in samples)
        np.testing.assert_array_equal(first.z, second.z)
        np.testing.assert_allclose(
            first.corners, second.corners, atol=0.011
        )  # a batch of another size rounds otherwise
        np.testing.assert_allclose(first.score, second.score, atol=2e-4)


def test_a_killed_run_finds_the_same(spots: Sample, model: Path, tmp_path: Path) -> None:
    samples = [without_boxes(spots, tmp_path / name) for name in ("one", "two")]
    detect(samples[0], model, DetectSettings(device="cpu"), on=QUIET)
    given = {
        "sample": str(samples[1].path),
        "model": str(model),
        "settings": {"device": "cpu"},
        "seconds": 1.5,
    }
    assert not detected_box_structures(samples[1])
    assert kill_ten_times("detect", given, kills=4) > 0
    for name in NAMES:
        tables = [(sample.path / "tables" / f"boxes_{name}.csv").read_bytes() for sample in samples]
        assert tables[0] == tables[1]


def test_a_mosaic_is_searched_as_its_parts_are(model: Path, tmp_path: Path) -> None:
    """Boxes away from the cuts are the same, and an object at a cut has one box."""
    mosaic, truth = sample_of(
        tmp_path / "mosaic.zarr", (1, 420, 600), seed=5, annotate=False, count=40
    )
    network, recipe = load_detector(model)
    image = mosaic.image()
    levels, voxel, device = sample_gray_statistics(image), image.voxel_size, torch.device("cpu")
    whole_slicing = tiling_of((420, 600), recipe, voxel, 0.2)
    window = window_reader(image, 0)
    whole = detect_in_image(window, whole_slicing, network, recipe, levels, 1, device)
    step = whole_slicing.offsets[1][2]
    part_slicing = tiling_of((420, 600 - step), recipe, voxel, 0.2)
    part = detect_in_image(
        lambda x0, y0, x1, y1: window(x0 + step, y0, x1 + step, y1),
        part_slicing,
        network,
        recipe,
        levels,
        1,
        device,
    )
    part_corners = part.corners + np.array([step, 0, step, 0], np.float32)
    edge = recipe.tile_shape(voxel)[1]
    away = [corners[corners[:, 0] > step + edge] for corners in (whole.corners, part_corners)]
    assert len(away[0]) > 5
    np.testing.assert_allclose(
        sorted(map(tuple, away[0].tolist())), sorted(map(tuple, away[1].tolist())), atol=0.02
    )
    sure = whole.select(whole.score > 0.5)
    twice = 0
    for kind in (0, 1):
        of_kind = sure.corners[sure.kind == kind]
        is_similar = np.triu(intersection_over_union(of_kind, of_kind), 1) > 0.6
        twice += int(is_similar.any(axis=0).sum())
    assert twice < 0.1 * len(
        sure.kind
    )  # a certain and an uncertain box at a cut may remain two boxes
    assert len(sure.kind) > 0.5 * len(truth)


def test_boxes_of_another_detector_are_replaced_only_on_request(
    spots_copy: Sample, model: Path, tmp_path: Path
) -> None:
    detect(spots_copy, model, DetectSettings(device="cpu"), on=QUIET)
    shutil.copy(model, tmp_path / "same.safetensors")
    detect(
        spots_copy, tmp_path / "same.safetensors", DetectSettings(device="cpu"), on=QUIET
    )  # the same detector under another name
    with pytest.raises(ResumeError, match=r"overlap: 0.2 -> 0.4"):
        detect(spots_copy, model, DetectSettings(device="cpu", overlap=0.4), on=QUIET)
    spots_copy.remove_table("boxes_disc")
    detect(spots_copy, model, DetectSettings(device="cpu"), on=QUIET)
    assert "boxes_disc" in spots_copy.tables  # a removed table is written again


def test_boxes_that_another_detector_found_are_not_taken_for_its_own(
    spots_copy: Sample, model: Path, tmp_path: Path
) -> None:
    disc_model = tmp_path / "disc.safetensors"
    train_detector([spots_copy], disc_model, changed(SHORT, {"structures": ("disc",)}), on=QUIET)
    both = detect(spots_copy, model, DetectSettings(device="cpu"), on=QUIET).boxes
    with pytest.raises(
        ResumeError, match=r"boxes of 'disc' that another detector found; use --overwrite"
    ):
        detect(spots_copy, disc_model, DetectSettings(device="cpu"), on=QUIET)
    alone = detect(spots_copy, disc_model, DetectSettings(device="cpu"), on=AGAIN).boxes
    assert len(alone["disc"].boxes) != len(both["disc"].boxes)
    with pytest.raises(ResumeError, match=r"boxes of 'disc' that another detector found"):
        detect(spots_copy, model, DetectSettings(device="cpu"), on=QUIET)
    again = detect(spots_copy, model, DetectSettings(device="cpu"), on=AGAIN).boxes
    assert np.array_equal(again["disc"].boxes.corners, both["disc"].boxes.corners)


def test_training_images_are_recognized_in_another_sample(
    spots_copy: Sample, model: Path, tmp_path: Path
) -> None:
    """The name of the sample and the settings of its import make no difference."""
    voxels = spots_copy.image().read(slice(None))
    tifffile.imwrite(tmp_path / "again.tif", voxels[::-1], photometric="minisblack")
    settings = ImportSettings(voxel_nm=(50, 10, 10), block_depth=3)
    second_sample = import_stack(
        tmp_path / "again.tif", tmp_path / "other.zarr", settings, on=QUIET
    )
    for name in NAMES:
        boxes = read_annotated_boxes(spots_copy, name).boxes
        write_annotated_boxes(
            second_sample,
            Boxes.from_arrays((name,), 7 - boxes.z, 0, boxes.corners),
            range(8),
            "raw",
            overwrite=False,
        )
    detect(second_sample, model, DetectSettings(device="cpu"), on=QUIET)
    counted = score_boxes([second_sample]).of_kind("predicted")["disc"].counts
    assert counted.images == (("other", 0), ("other", 1))  # 7 and 6 of the first one


def test_no_boxes_are_found_in_black(model: Path, tmp_path: Path) -> None:
    """Black pixels hold no objects, in an image of their own and next to recorded pixels."""
    sample, _ = sample_of(tmp_path / "half.zarr", (2, 150, 300), seed=4, annotate=False, count=9)
    network, recipe = load_detector(model)
    levels, slicing = (
        sample_gray_statistics(sample.image()),
        tiling_of((150, 300), recipe, sample.voxel_size, 0.2),
    )
    black = sample.image().read(slice(0, 1))[0].copy()
    black[:, 150:] = 0
    detections = []
    for gray in (black, np.zeros_like(black)):

        def window(x0: int, y0: int, x1: int, y1: int, gray: Any = gray) -> Any:
            return gray[y0:y1, x0:x1]

        detections.append(
            detect_in_image(window, slicing, network, recipe, levels, 4, torch.device("cpu"))
        )
    assert len(detections[0].kind) > 5
    assert (detections[0].corners[:, 0] < 150).all()
    assert len(detections[1].kind) == 0


def test_excluded_images_are_not_scored(spots: Sample, tmp_path: Path) -> None:
    settings = changed(
        SHORT, {"updates": 1, "exclude": ("spots.zarr:3-4",), "test": ("spots:6-7",)}
    )
    train_detector([spots], tmp_path / "m.safetensors", settings, on=QUIET)
    sample = without_boxes(spots, tmp_path / "one")
    detect(sample, tmp_path / "m.safetensors", DetectSettings(device="cpu"), on=QUIET)
    assert score_boxes([sample]).of_kind("predicted")["disc"].counts.images == (
        ("spots", 6),
        ("spots", 7),
    )


def test_an_image_smaller_than_a_tile_is_searched(model: Path, tmp_path: Path) -> None:
    small, truth = sample_of(tmp_path / "small.zarr", (1, 70, 90), seed=9, annotate=False, count=3)
    detected = detect(small, model, DetectSettings(device="cpu"), on=QUIET).boxes
    for stored in detected.values():
        assert (stored.boxes.corners >= 0).all()
        assert (stored.boxes.corners <= [90, 70, 90, 70]).all()
    assert len(truth) == sum(len(stored.slices) * 3 for stored in list(detected.values())[:1])


def test_a_score_needs_held_out_images(spots_copy: Sample, model: Path) -> None:
    detect(spots_copy, model, DetectSettings(device="cpu"), on=QUIET)
    for name in NAMES:
        boxes = read_annotated_boxes(spots_copy, name).boxes
        write_annotated_boxes(spots_copy, boxes[boxes.z < 3], range(3), "raw", overwrite=True)
    with pytest.raises(SampleError, match=r"trained on every annotated image.*--images all"):
        score_boxes([spots_copy])
    assert isinstance(
        score_boxes([spots_copy], DetectScoreSettings(images="all"))
        .score_table()
        .to_pylist()[0]["map"],
        float,
    )


def test_scores_need_detected_boxes(spots: Sample, tissue: Sample) -> None:
    with pytest.raises(SampleError, match="No structure has both annotated and detected boxes"):
        score_boxes([tissue])
    with pytest.raises(SampleError, match="has no boxes of 'disk'"):
        read_detected_boxes(tissue, "disk")


# the whole path


@pytest.mark.usefixtures("few_plots")
def test_a_study_of_boxes(spots: Sample, tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "raw.tif", spots.image().read(slice(None)), photometric="minisblack"
    )
    rows = [
        f"{z},{name},{','.join(f'{corner:g}' for corner in corners)}"
        for name in NAMES
        for boxes in (read_annotated_boxes(spots, name).boxes,)
        for z, corners in zip(boxes.z, boxes.corners, strict=True)
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(["z,class,x0,y0,x1,y1", *rows]))
    study = """
    sample = "s.zarr"
    [import]
    source = "raw.tif"
    voxel_nm = [50, 10, 10]
    [detect.boxes]
    source = "boxes.csv"
    min_px = 5
    [detect.train]
    input_px = 128
    updates = 30
    batch = 2
    ema = 0.5
    split = "image"
    device = "cpu"
    [detect.masks]
    [measure]
    texture = false
    [report]
    """
    (tmp_path / "study.toml").write_text(study)
    result = run(tmp_path / "study.toml", on=QUIET)
    assert result.boxes is not None
    assert [entry.images for entry in result.boxes.boxes] == [1, 1]
    assert set(result.volumes) == {"labels/disc", "labels/square"}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "disc, boxes" in page
    assert "Boxes: s" in page
    assert result.sample.read_table("measured").num_rows == 2
    before = (tmp_path / "detector.safetensors").stat().st_mtime_ns
    run(tmp_path / "study.toml", on=QUIET)  # what is done stays done
    assert (tmp_path / "detector.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            'sample = "s.zarr"\n[import]\nsource = "raw.tif"\n',
            r"there is nothing to predict; name labeled slices, \[annotate.NAME\], or boxes",
        ),
        (
            'sample = "s.zarr"\n[import]\nsource = "raw.tif"\n[detect]\n',
            "needs boxes to train on",
        ),
        (
            'sample = "s.zarr"\n[import]\nsource = "raw.tif"\n[detect.tran]\n',
            "did you mean 'train'",
        ),
    ],
)
def test_invalid_studies_of_boxes_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(SettingsError, match=sentence):
        run(tmp_path / "study.toml", on=QUIET)


def test_the_commands_of_boxes(
    spots: Sample, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy_of(spots, tmp_path / "spots.zarr")
    (tmp_path / "samples.csv").write_text("sample,grade\nspots,3\n")
    steps = [
        (
            f"predict spots.zarr {model} --device cpu",
            r"Wrote spots.zarr/tables/boxes_disc.parquet and .csv: \d+ objects",
        ),
        (
            "score spots.zarr",
            r"(?s)mAP .*disc .*predicted .*Annotated .rows. detected as .columns.:",
        ),
        (
            "masks spots.zarr --structure disc",
            r"Wrote spots.zarr/labels/disc .outlines: no model was given, --sam.",
        ),
        (
            "count spots.zarr --metadata samples.csv --out counts.csv",
            r"spots: \d+ of disc in 8 images",
        ),
        ("export spots.zarr found.json", r"Wrote found.json: \d+ boxes"),
        ("constrain spots.zarr --undo", "There was nothing to remove"),
    ]
    for words, sentence in steps:
        result = CliRunner().invoke(app, ["detect", *words.split()])
        assert result.exit_code == 0, f"{words}\n{result.output}\n{result.exception}"
        assert re.search(sentence, result.output), result.output
    printed = json.loads(
        CliRunner().invoke(app, ["detect", "score", "spots.zarr", "--json", "--quiet"]).stdout
    )
    assert {row["structure"] for row in printed["scores"]} == set(NAMES)
    assert (
        (tmp_path / "counts.csv")
        .read_text()
        .splitlines()[0]
        .startswith('"sample","grade","structure"')
    )
    assert isinstance(
        CliRunner()
        .invoke(app, ["detect", "count", "spots.zarr", "--out", "counts.xlsx"])
        .exception,
        InputError,
    )
    assert isinstance(
        CliRunner().invoke(app, ["detect", "constrain", "spots.zarr"]).exception, SampleError
    )
