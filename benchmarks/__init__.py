"""What is measured, and against whom. Run from the root of the repository.

`service` is imported first, since it tells ONNX Runtime to report nothing.
"""

import service as service
