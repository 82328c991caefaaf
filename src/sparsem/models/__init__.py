"""Network architectures, their checkpoints and the device they run on."""
