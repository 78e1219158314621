"""The service on Ray Serve: the same app on one machine or many, with as many replicas as the rows that wait ask for.

    serve run mcdropout.ray:app                                        on this machine
    serve run mcdropout.ray:app num_gpus=0.5 device=cuda               two replicas on each GPU
    serve deploy deploy/ray/serve.yaml                              on a cluster that runs

Each replica is a process with its own engine. The default model is on every replica; another is loaded where it is
first asked for, and requests for it go where it is.
"""

from mcdropout.ray.application import application as app
from mcdropout.ray.options import Options

__all__ = ["Options", "app"]
