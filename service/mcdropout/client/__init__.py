"""The client: predictions of a service as arrays, from Python, blocking or awaited.

`exchange.py` and `calls.py` decide what is sent, tried again and made of the answers; `client.py` and `async_client.py`
are the two transports. A machine that only asks needs httpx, NumPy and orjson: nothing of the server is imported here.
"""

try:
    import httpx as _httpx  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the client takes httpx, which is not installed; pip install 'mcdropout[client]' mends it", name="httpx"
    ) from error

from mcdropout.client.async_client import AsyncClient as AsyncClient
from mcdropout.client.client import Client as Client
from mcdropout.client.description import InputDescription as InputDescription
from mcdropout.client.description import ModelDescription as ModelDescription
from mcdropout.client.description import ModelSummary as ModelSummary
from mcdropout.client.errors import ClientError as ClientError
from mcdropout.client.errors import DeadlineExceededError as DeadlineExceededError
from mcdropout.client.errors import FailedRequestError as FailedRequestError
from mcdropout.client.errors import RefusedRequestError as RefusedRequestError
from mcdropout.client.errors import StatusError as StatusError
from mcdropout.client.errors import UnavailableError as UnavailableError
from mcdropout.client.errors import UnexpectedAnswerError as UnexpectedAnswerError
from mcdropout.client.errors import UnreachableError as UnreachableError
from mcdropout.client.errors import UnusableInputsError as UnusableInputsError
from mcdropout.client.response import PredictedRow as PredictedRow
from mcdropout.client.response import PredictResponse as PredictResponse
