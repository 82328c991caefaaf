"""Network architectures, their checkpoints and the device they run on."""

from sparsem.extras import require

require("train")
