"""Access: the keys by which clients are known, and what each may do. Knows no HTTP."""

from mcdropout.access.keyring import Keyring as Keyring
from mcdropout.access.keys import Key as Key
from mcdropout.access.keys import KeysError as KeysError
from mcdropout.access.keys import Role as Role
