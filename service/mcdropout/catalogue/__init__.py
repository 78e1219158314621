"""The catalogue: bundles on disk, and the models that are loaded of them."""
