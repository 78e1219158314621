"""Serve a trained network's predictions together with how far to trust them, by Monte Carlo dropout."""

from importlib.metadata import version

__version__ = version("mcdropout")
