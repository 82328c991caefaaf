"""Settings of a training: how networks are trained and on what, each with its default."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sparsem.errors import SettingsError
from sparsem.settings import (
    Metavar,
    ObjectNames,
    Optimizer,
    OptionName,
    Precision,
    Settings,
    SliceNumbers,
    StructureNames,
)


class LoopSettings(Settings):
    """Settings of any training: number of updates, learning rate, saving of the state."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Training": (
            "batch",
            "updates",
            "learning_rate",
            "schedule",
            "warmup",
            "ema",
            "seed",
            "device",
            "threads",
            "checkpoint_every_s",
        )
    }

    batch: int = Field(5, ge=1, description="tiles in a batch")
    updates: int = Field(2000, ge=1, description="number of weight updates")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="maximum learning rate (default: that of the network; resunet 0.002)",
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine",
        description="learning-rate schedule; cosine: warm-up, then a half cosine down to 0",
    )
    warmup: int = Field(50, ge=0, description="updates over which the learning rate rises")
    ema: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights, which is saved; 0: no averaging",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="random seed of weights, tiles and augmentation"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    threads: int | None = Field(
        None, ge=1, description="threads of the CPU; one for each core if not given"
    )
    image: str | None = Field(
        None, description="image to train on (default: the newest); annotations are aligned to it"
    )
    checkpoint_every_s: float = Field(
        30, ge=0, description="seconds between two saved states of an unfinished training"
    )


class NetworkTrainingSettings(LoopSettings):
    """Settings of the training of a segmentation network.

    The paper uses width 64, tiles of 2048 px shrunk to 512 px, a constant learning rate of 1e-4
    and 5000 updates.
    """

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Network": (
            "architecture",
            "width",
            "pretrained",
            "context_px",
            "input_px",
            "adjacent_slices",
            "from_model",
        ),
        "Training": ("optimizer", "loss", "precision", "max_grad_norm"),
        "Sampling and augmentation": (
            "foreground_fraction",
            "min_foreground_px",
            "intensity_augmentation",
        ),
        "Unlabeled slices": (
            "semi",
            "second_architecture",
            "unlabeled_slices",
            "unlabeled_weight",
            "ramp",
            "cutmix",
        ),
    }

    architecture: str = Field(
        "resunet",
        description=(
            "resunet, unet, unet++, fractalresnet, ceecnet, senformer, transunet, setr-pup "
            "or another"
        ),
    )
    width: int | None = Field(
        None,
        ge=1,
        description=(
            "feature maps of the network's first level (default: that of the architecture; "
            "resunet 16)"
        ),
    )
    pretrained: bool = Field(
        False,
        description="start from ImageNet weights, downloaded once: unet++, senformer, setr",
    )
    context_px: int = Field(
        256, ge=16, le=16384, description="edge of a tile in the image, px: the context"
    )
    input_px: int = Field(
        128, ge=16, le=4096, description="edge to which a tile is shrunk for the network, px"
    )
    adjacent_slices: int = Field(
        0,
        ge=0,
        le=8,
        description="slices above and below that the network also sees; they help at boundaries",
    )
    from_model: Annotated[str | None, OptionName("from"), Metavar("MODEL")] = Field(
        None,
        description=(
            "start from an earlier model, NAME.safetensors; architecture, width, tile, nm per "
            "pixel and adjacent slices are then its own, and other structures get new output layers"
        ),
    )
    updates: int = Field(1000, ge=1, description="number of weight updates")
    optimizer: Optimizer | None = Field(
        None,
        description=(
            "muon: the updates of convolutions are orthogonalized, and half as many reach the same "
            "Dice; adam: the paper's (default: that of the network; resunet muon)"
        ),
    )
    loss: Literal["dice", "linear-dice", "dice+cross-entropy", "tanimoto"] | None = Field(
        None,
        description=(
            "loss; dice has squares in the denominator, as the paper's equation 2 "
            "(default: dice; tanimoto for fractalresnet and ceecnet)"
        ),
    )
    foreground_fraction: float = Field(
        0.8, ge=0, le=1, description="fraction of each batch that must contain a structure"
    )
    min_foreground_px: int = Field(
        100,
        ge=0,
        description="minimum pixels of the structure in such a tile, at full resolution",
    )
    intensity_augmentation: float = Field(
        0.25,
        ge=0,
        le=2,
        description="intensity augmentation in standard deviations; 0: none",
    )
    precision: Precision = Field(
        "auto", description="auto: bfloat16 where the processor computes it fast"
    )
    semi: Literal["cps", "mean-teacher"] | None = Field(
        None,
        description=(
            "also train on unlabeled slices; cps: two networks supervise each other; "
            "mean-teacher: a network and its moving average"
        ),
    )
    second_architecture: str | None = Field(
        None,
        description="--semi cps: architecture of the second network (default: that of the first)",
    )
    unlabeled_slices: int = Field(
        64, ge=1, description="--semi: number of unlabeled slices to train on, evenly spaced"
    )
    unlabeled_weight: float = Field(
        1.0, ge=0, description="--semi: weight of the loss of unlabeled slices after the ramp"
    )
    ramp: Annotated[tuple[float, float], Metavar("START END")] = Field(
        (0.1, 0.4),
        description="--semi: fractions of the updates between which that weight rises from 0",
    )
    cutmix: bool = Field(
        True, description="--semi: paste a box of one tile into another tile (CutMix)"
    )
    max_grad_norm: float | None = Field(
        None, gt=0, description="maximum norm of a gradient (default: 1 with --semi, else no limit)"
    )


class TrainSettings(NetworkTrainingSettings):
    """Settings of the stage ``train``: structures, slices, validation, and all of the training."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Validation": ("folds", "n_validation_slices", "validation_slices", "validate_every"),
        "Unlabeled slices": ("unlabeled_sample", "save_second"),
    }

    structures: StructureNames = Field(
        (),
        description=(
            "structure to train; repeat it for several in one model (default: all annotated)"
        ),
    )
    objects: ObjectNames = Field(
        (),
        description=(
            "structure whose objects touch, as mitochondria: in addition to its mask the boundary "
            "between its objects, NAME-boundary, is trained; repeat it for several"
        ),
    )
    cells: str | None = Field(
        None,
        description=(
            "annotation of cells; its outputs NAME-interior and NAME-boundary are "
            "trained in addition to any --structure"
        ),
    )
    boundary_nm: float | None = Field(
        None,
        gt=0,
        description=(
            "width of the boundary of --objects and --cells (default: three pixels of the network)"
        ),
    )
    slices: SliceNumbers = Field(
        (), description="labeled slices to train on (default: all of them)"
    )
    folds: int = Field(
        0,
        ge=0,
        description=(
            "cross-validation: train this many more networks, each without a part of the labeled "
            "slices, and report their Dice on that part"
        ),
    )
    n_validation_slices: int = Field(
        0,
        ge=0,
        description=(
            "number of labeled slices, evenly spaced, held out to select the best weights and to "
            "report their Dice"
        ),
    )
    validation_slices: SliceNumbers = Field(
        (), description="labeled slices to hold out, by number, instead of --n-validation-slices"
    )
    unlabeled_sample: tuple[str, ...] = Field(
        (), description="--semi: another sample, unlabeled, to train on as well; repeat it for more"
    )
    save_second: bool = Field(
        False, description="--semi cps: also write the other network, as NAME.second.safetensors"
    )
    validate_every: int = Field(100, ge=1, description="updates between two validations")


def refuse_other_network(settings: LoopSettings, network: Mapping[str, Any], path: Path) -> None:
    """Refuse settings that state another network than that of the earlier model.

    Args:
        settings: settings of the training.
        network: name of a field -> its value in the earlier model.
        path: the earlier model.

    Raises:
        SettingsError: a field has neither its default nor this value.
    """
    for name, expected in network.items():
        stated = getattr(settings, name)
        default = type(settings).model_fields[name].default
        if stated not in (default, expected):
            option = f"--{name.replace('_', '-')}"
            raise SettingsError(
                f"{path.name} has {option} {expected}, but {stated} was given; a training that "
                f"starts from it keeps its network. Leave out {option}."
            )
