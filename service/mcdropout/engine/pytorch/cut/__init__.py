"""Cutting: a PyTorch network exported, cut where masks enter, and written as ONNX."""
