"""What a device is, and whether a model fits it."""
