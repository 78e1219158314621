"""The C extension: masks drawn, chains of masked linear layers without the multiplications by zero, and what passes say
of a row summed up in one call.

It is optional. Installing the package compiles it where there is a C compiler; where there is none, NumPy draws the
masks and sums up, and ONNX Runtime runs the layers.
"""
