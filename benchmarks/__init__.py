"""What is measured, and against whom. Run from the root of the repository.

`mcdropout` is imported first, since it tells ONNX Runtime to report nothing.
"""

import mcdropout as mcdropout
