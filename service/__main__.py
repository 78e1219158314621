"""`python -m service`: the same as `mcdropout`."""

from service.cli import app

app()
