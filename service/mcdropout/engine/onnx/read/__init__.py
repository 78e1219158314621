"""Reading: an ONNX file, checked, and bound to its inputs with any number of rows."""
