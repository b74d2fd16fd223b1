"""Which seeds belong to what."""

FIRST_TRAINING_SEED = 900_000
