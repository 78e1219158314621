"""ONNX graphs: read with care, their dropout found and made an input, and cut where masks enter. Imports no PyTorch."""
