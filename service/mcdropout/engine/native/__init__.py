"""The C extension `native.c`: masks drawn, and chains of masked linear layers without the multiplications by zero.

It is optional. Installing the package compiles it where there is a C compiler; where there is none, NumPy draws the
masks and ONNX Runtime runs the layers.
"""
