"""The Open Inference Protocol v2, as KServe, Triton and MLServer speak it: predictions as named tensors.

What a request asks for (`asking`), the rows that its tensors hold (`rows`) and the statistics as tensors (`outputs`)
are the same however they travel: over HTTP (`http`, with `json_text` and `binary` for its two forms), or gRPC.
"""

from mcdropout.api.oip.http import routes as routes
