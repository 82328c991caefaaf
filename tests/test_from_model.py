"""Training that starts from an earlier model."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsem.annotation.writing import write_annotation
from sparsem.detect.models.detector import DetectionTarget, Detector
from sparsem.detect.models.networks import build_detector
from sparsem.errors import InputError, SettingsError
from sparsem.models.architectures import ARCHITECTURES, architecture_class, build_network
from sparsem.models.checkpoint import load_checkpoint, load_tensors, network_state, read_recipe
from sparsem.models.transfer import RATE_FACTOR, take_over_weights
from sparsem.segment.network_training import train_network
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution

from .conftest import QUICK, kill_ten_times, truth_of

QUIET = Execution(quiet=True)


def quick(**changes: Any) -> TrainSettings:
    return changed(QUICK, changes)


def _network(name: str, outputs: int, seed: int) -> torch.nn.Module:
    kind = architecture_class(name)
    tile = max(64, 2 * kind.tile_multiple)
    torch.manual_seed(seed)
    return build_network(name, kind.width_multiple, outputs, tile).eval()


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_outputs_follow_the_names_of_structures(name: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    earlier = _network(name, 3, seed=1)
    network = _network(name, 3, seed=2)
    take_over_weights(
        network,
        ("c", "a", "b"),
        network_state(earlier),
        ("a", "b", "c"),
        lambda n: _network(name, n, seed=3),
        Path("earlier.safetensors"),
    )
    tile = max(64, 2 * architecture_class(name).tile_multiple)
    images = torch.rand(1, 1, tile, tile, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = earlier(images), network(images)
    torch.testing.assert_close(found, expected[:, [2, 0, 1]], rtol=1e-4, atol=1e-4)


def _loss(network: Detector, images: torch.Tensor, target: DetectionTarget) -> torch.Tensor:
    torch.manual_seed(0)  # of dropout
    return network.train().loss(images, [target])


@pytest.mark.parametrize("name", ["retinanet-small", "deformable-detr-small"])
def test_outputs_of_detectors_follow_the_names_of_structures(name: str) -> None:
    torch.manual_seed(1)
    earlier = build_detector(name, 3, 128, 20).eval()
    torch.manual_seed(2)
    network = build_detector(name, 3, 128, 20).eval()
    take_over_weights(
        network,
        ("c", "a", "b"),
        network_state(earlier),
        ("a", "b", "c"),
        lambda n: build_detector(name, n, 128, 20),
        Path("earlier.safetensors"),
        network.nameless_outputs,
    )
    images = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([[10.0, 10, 60, 70], [60, 50, 110, 100]])
    kinds = torch.tensor([0, 2])  # a and c
    order = torch.tensor([1, 2, 0])  # positions of a, b, c among c, a, b
    with torch.no_grad():
        expected = _loss(earlier, images, DetectionTarget(corners, kinds))
        found = _loss(network, images, DetectionTarget(corners, order[kinds]))
        other = _loss(network, images, DetectionTarget(corners, kinds))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert abs(other - expected) > 1e-3 * abs(expected)


def test_a_structure_that_is_not_known_gets_new_outputs() -> None:
    earlier, network = _network("resunet", 2, seed=1), _network("resunet", 2, seed=2)
    new = network_state(network)["head.weight"].clone()
    take_over_weights(
        network,
        ("b", "x"),
        network_state(earlier),
        ("a", "b"),
        lambda n: _network("resunet", n, seed=3),
        Path("earlier.safetensors"),
    )
    head = network_state(network)["head.weight"]
    torch.testing.assert_close(head[0], network_state(earlier)["head.weight"][1])
    torch.testing.assert_close(head[1], new[1])


@pytest.fixture(scope="module")
def earlier(tissue: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("earlier") / "earlier.safetensors"
    settings = quick(width=6, context_px=80, input_px=48, updates=4, slices=(0, 9))
    train_network([tissue], out, settings, on=QUIET)
    return out


def test_a_training_continues_with_the_network_of_the_earlier_model(
    tissue: Sample, earlier: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(
        structures=("mitochondrion", "nucleus"),
        from_model=earlier,
        slices=(18,),
        batch=2,
        updates=3,
        learning_rate=1e-12,  # so that only what was taken over is seen
        schedule="constant",
    )
    recipe = train_network([tissue], tmp_path / "m.safetensors", settings, on=QUIET)
    before = read_recipe(earlier)
    assert (recipe.width, recipe.input_px) == (6, 48)
    assert recipe.pixel_nm == before.pixel_nm
    assert recipe.structures == ("mitochondrion", "nucleus")
    digests = {digest for _, digest in recipe.training["slices"]["trained"]}
    assert digests > {digest for _, digest in before.training["slices"]["trained"]}
    weights, _ = load_tensors(tmp_path / "m.safetensors")
    earlier_weights, _ = load_tensors(earlier)
    torch.testing.assert_close(weights["head.weight"][1], earlier_weights["head.weight"][0])
    assert recipe.training["record"]["learning_rate"] == 1e-12


def test_the_default_rate_is_lower_and_the_path_does_not_matter(
    tissue: Sample, earlier: Path, tmp_path: Path
) -> None:
    scratch = train_network([tissue], tmp_path / "a.safetensors", quick(updates=1), on=QUIET)
    settings = quick(updates=1, width=6, context_px=80, input_px=48, from_model=earlier)
    out = tmp_path / "b.safetensors"
    recipe = train_network([tissue], out, settings, on=QUIET)
    rate = scratch.training["record"]["learning_rate"]
    assert recipe.training["record"]["learning_rate"] == pytest.approx(rate * RATE_FACTOR)
    moved = shutil.copy(earlier, tmp_path / "moved.safetensors")
    again = train_network([tissue], out, changed(settings, {"from_model": moved}), on=QUIET)
    assert again == recipe  # the same content under another name: it is finished


def test_another_voxel_size_keeps_the_nm_per_pixel(
    own_tissue: Sample, earlier: Path, tmp_path: Path
) -> None:
    coarse = Sample(shutil.copytree(own_tissue.path, tmp_path / "coarse.zarr"))
    metadata = (coarse.path / "zarr.json").read_text()
    (coarse.path / "zarr.json").write_text(metadata.replace("20.0", "40.0"))
    assert coarse.voxel_size.x == 40
    settings = quick(updates=1, width=6, context_px=80, input_px=48, from_model=earlier)
    held_out = changed(settings, {"validation_slices": (9,)})
    with pytest.raises(InputError, match="was trained on the slice"):
        train_network([own_tissue], tmp_path / "n.safetensors", held_out, on=QUIET)
    recipe = train_network([coarse], tmp_path / "m.safetensors", settings, on=QUIET)
    assert recipe.pixel_nm == read_recipe(earlier).pixel_nm
    assert recipe.factors(coarse.voxel_size) == pytest.approx((80 / 48 / 2, 80 / 48 / 2))


def test_resuming_ends_in_the_same_weights(
    own_tissue: Sample, earlier: Path, tmp_path: Path
) -> None:
    for name in ("nucleolus", "mitochondrion"):
        shutil.rmtree(own_tissue.path / "annotations" / name)
    settings = quick(updates=25, width=6, context_px=80, input_px=48, from_model=earlier)
    train_network([own_tissue], tmp_path / "whole.safetensors", settings, on=QUIET)
    given = {
        "sample": str(own_tissue.path),
        "out": str(tmp_path / "killed.safetensors"),
        "seconds": 3,
        "settings": {**settings.model_dump(mode="json"), "checkpoint_every_s": 0},
    }
    assert kill_ten_times("train", given) > 0
    for a, b in zip(
        network_state(load_checkpoint(tmp_path / "whole.safetensors")[0]).values(),
        network_state(load_checkpoint(tmp_path / "killed.safetensors")[0]).values(),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"from_model": "none.safetensors"}, "There is no model file none.safetensors"),
        ({"architecture": "unet"}, "earlier.safetensors has --architecture resunet, but unet was"),
        ({"width": 32}, "has --width 6, but 32 was given"),
        ({"semi": "cps"}, "they cannot both start from one model"),
        ({"pretrained": True}, "starts from ImageNet weights or from --from, not both"),
    ],
)
def test_a_contradiction_to_the_earlier_model_is_refused(
    tissue: Sample, earlier: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    settings = {"structures": ("nucleus",), "updates": 1, "from_model": earlier, **changes}
    with pytest.raises((InputError, SettingsError), match=sentence):
        train_network([tissue], tmp_path / "m.safetensors", TrainSettings(**settings), on=QUIET)


def test_a_detector_is_not_a_network_for_pixels(tissue: Sample, tmp_path: Path) -> None:
    from sparsem.detect.training.recipe import DetectorRecipe, save_detector

    recipe = DetectorRecipe("retinanet-small", ("nucleus",), 128, (20, 20), 20)
    save_detector(tmp_path / "d.safetensors", recipe.build(), recipe)
    settings = quick(from_model=tmp_path / "d.safetensors")
    with pytest.raises(InputError, match="predicts boxes and not pixels"):
        train_network([tissue], tmp_path / "m.safetensors", settings, on=QUIET)


def test_an_annotation_of_one_more_slice_can_be_held_out(
    own_tissue: Sample, earlier: Path, tmp_path: Path
) -> None:
    write_annotation(
        own_tissue, "nucleus", (0, 5, 9), truth_of(own_tissue, "nucleus", (0, 5, 9)), overwrite=True
    )
    settings = quick(
        updates=2, width=6, context_px=80, input_px=48, from_model=earlier, validation_slices=(5,)
    )
    recipe = train_network([own_tissue], tmp_path / "m.safetensors", settings, on=QUIET)
    assert recipe.training["held_out"] == ["own 5"]
