"""Network architectures, checkpoints, and the device that networks run on."""
