"""Settling: what a reading of a network's output leaves open, found in what the network says and answers."""

from mcdropout.engine.settling.evidence import End as End
from mcdropout.engine.settling.evidence import Evidence as Evidence
from mcdropout.engine.settling.evidence import reads_below as reads_below
from mcdropout.engine.settling.settle import settle as settle
