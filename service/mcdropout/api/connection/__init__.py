"""Connections: what a client may do before an app is asked, and what it gets where it may not."""

from mcdropout.api.connection.limits import Limits as Limits
from mcdropout.api.connection.protocol import check_internals as check_internals
from mcdropout.api.connection.protocol import protocol as protocol
from mcdropout.api.connection.refusal import Refusal as Refusal
