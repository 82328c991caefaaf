"""How networks learn, and from what: every setting of a training, with its default."""

from typing import Literal

from pydantic import Field

from sparsem.models.device import Precision
from sparsem.settings import Settings, SliceNumbers


class LoopSettings(Settings):
    """The course of any training: how many updates, how fast, and how often its state is saved."""

    batch: int = Field(5, ge=1, description="tiles an update")
    updates: int = Field(2000, ge=1, description="weight updates")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="of Adam, at its highest; the network's usual one if not given, resunet 0.002",
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="cosine: a warm-up, then down to 0"
    )
    warmup: int = Field(50, ge=0, description="updates over which the learning rate rises")
    ema: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="running average of the weights, which is what is saved; 0 takes the last",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of weights, tiles and augmentation")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    image: str | None = Field(
        None, description="image to learn from; the newest one if not given: annotations move along"
    )
    checkpoint_every_s: float = Field(
        30, ge=0, description="seconds between two saved states of an unfinished training"
    )


class NetworkTrainingSettings(LoopSettings):
    """How a network learns. The paper's own numbers: width 64, tile 2048 seen at 512, learning rate 1e-4 constant, 5000 updates."""

    architecture: str = Field(
        "resunet",
        description="resunet, unet, unet++, fractalresnet, ceecnet, senformer, transunet, setr-pup or another",
    )
    width: int | None = Field(
        None,
        ge=1,
        description="feature maps of the network's first level; its usual ones if not given, resunet 16",
    )
    pretrained: bool = Field(
        False,
        description="begin with weights learnt on ImageNet, fetched once: unet++, senformer, setr",
    )
    context_px: int = Field(
        256, ge=16, le=16384, description="edge of a tile in the image, px: the context"
    )
    input_px: int = Field(128, ge=16, le=4096, description="edge at which the network sees it, px")
    adjacent_slices: int = Field(
        0,
        ge=0,
        le=8,
        description="slices above and below that the network sees too; they help at boundaries",
    )
    loss: Literal["dice", "linear-dice", "dice+cross-entropy", "tanimoto"] | None = Field(
        None,
        description="dice is squared, as the paper's equation 2; if not given it is dice, for networks with several heads tanimoto",
    )
    foreground_fraction: float = Field(
        0.8, ge=0, le=1, description="part of each batch that must hold a structure"
    )
    min_foreground_px: int = Field(
        100, ge=0, description="how many pixels of it, at full resolution"
    )
    intensity_augmentation: float = Field(
        0.25, ge=0, le=2, description="gray-level augmentation in standard deviations; 0 for none"
    )
    precision: Precision = Field(
        "auto", description="auto: bfloat16 where the processor computes it fast"
    )
    semi: Literal["cps", "mean-teacher"] | None = Field(
        None,
        description="learn from unlabeled slices too: cps, two networks teach each other; mean-teacher, a network and its average",
    )
    second_architecture: str | None = Field(
        None,
        description="--semi cps: architecture of the second network; that of the first if not given",
    )
    unlabeled_slices: int = Field(
        64, ge=1, description="--semi: slices without labels that are learnt from, evenly spaced"
    )
    unlabeled_weight: float = Field(
        1.0, ge=0, description="--semi: weight of what unlabeled slices teach, once it has risen"
    )
    ramp: tuple[float, float] = Field(
        (0.1, 0.4),
        description="--semi: parts of the updates between which that weight rises from 0",
    )
    cutmix: bool = Field(True, description="--semi: boxes of one tile are put into another")
    max_grad_norm: float | None = Field(
        None, gt=0, description="largest norm of a gradient; 1 with --semi, else none, if not given"
    )


class TrainSettings(NetworkTrainingSettings):
    """What a network learns, from which slices, and how."""

    structure: tuple[str, ...] = Field(
        (),
        description="what to learn; repeat it for several in one model; all that is annotated if not given",
    )
    cells: str | None = Field(
        None,
        description="an annotation of objects that touch: its NAME-interior and NAME-boundary are learnt, beside any --structure",
    )
    boundary_nm: float | None = Field(
        None,
        gt=0,
        description="width of the boundary of --cells; three pixels of the network if not given",
    )
    slices: SliceNumbers = Field(
        (),
        description="learn from these of the labeled slices only; from all of them if not given",
    )
    folds: int = Field(
        0,
        ge=0,
        description="train so many times more, each time without some labeled slices, and tell the Dice that is reached there",
    )
    n_validation_slices: int = Field(
        0,
        ge=0,
        description="number of labeled slices, evenly spaced, held out to choose the best weights and to report their Dice",
    )
    validation_slices: SliceNumbers = Field(
        (), description="the labeled slices to hold out, by number, instead of --validation-slices"
    )
    unlabeled_sample: tuple[str, ...] = Field(
        (), description="--semi: a sample without labels to learn from as well; repeat it for more"
    )
    save_second: bool = Field(
        False, description="--semi cps: write the other network too, as NAME.second.safetensors"
    )
    validate_every: int = Field(100, ge=1, description="updates between two validations")
