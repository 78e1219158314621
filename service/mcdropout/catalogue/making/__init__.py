"""Making: a bundle of what people have, an ONNX file, a folder of Hugging Face, a function that makes a network.

A kind of source is a file here and a row of the table (`table.py`): how it is known, and what it says of the bundle.
What no source says is asked for (`asking.py`); the rest, files, example and `model.yaml`, is the same for all
(`make.py`).
"""
