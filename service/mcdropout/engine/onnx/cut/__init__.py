"""Cutting: a masked graph into prefix and suffix."""
