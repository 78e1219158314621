"""`python -m mcdropout`: the same as `mcdropout`."""

from mcdropout.cli import run

run()
