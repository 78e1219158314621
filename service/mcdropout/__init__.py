"""Serve a trained network's predictions together with how far to trust them, by Monte Carlo dropout."""

import os
from importlib.metadata import version

# From version 1.29 on ONNX Runtime reports its use to its makers, unless told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = version("mcdropout")
