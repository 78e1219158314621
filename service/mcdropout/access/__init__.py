"""Access: the keys by which clients are known, and what each may do; certificates. Knows no HTTP."""

from mcdropout.access.certificates import Certificates as Certificates
from mcdropout.access.certificates import TlsError as TlsError
from mcdropout.access.keyring import Keyring as Keyring
from mcdropout.access.keys import Key as Key
from mcdropout.access.keys import KeysError as KeysError
from mcdropout.access.keys import Role as Role
