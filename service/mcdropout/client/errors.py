"""What the client raises. Every message says what was asked, what came of it, and what would be accepted."""

from collections.abc import Mapping


class ClientError(Exception):
    """The base of all errors of the client."""


class UnusableInputsError(ClientError, ValueError):
    """The inputs cannot be sent; the message says what would be accepted. Nothing was sent."""


class UnreachableError(ClientError):
    """No answer came: nobody listens there, the connection broke, or the time was over."""


class UnexpectedAnswerError(ClientError):
    """What answered is no mcdropout service, or one that this client does not understand."""


class StatusError(ClientError):
    """The server answered with an error, as RFC 9457 problem details.

    Attributes:
        status: the HTTP status code.
        title: the kind of problem in words.
        detail: what was received, and what would be accepted.
        request_id: the request's id, as in the server's log; None where the answer has none.
        retry_after: the seconds after which the server asks to be tried again; None where it does not.
    """

    def __init__(
        self, status: int, title: str, detail: str, request_id: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{status} {title}: {detail}" + (f" (request {request_id})" if request_id else ""))
        self.status, self.title, self.detail = status, title, detail
        self.request_id, self.retry_after = request_id, retry_after

    def __reduce__(self) -> tuple[type["StatusError"], tuple[object, ...]]:
        return type(self), (self.status, self.title, self.detail, self.request_id, self.retry_after)


class RefusedRequestError(StatusError):
    """The request cannot be answered as it is (4xx): its query, its inputs, its key, or a model that is not there."""


class UnavailableError(StatusError):
    """The server is overloaded, or the model is not ready (503); later it may be answered."""


class DeadlineExceededError(StatusError):
    """The deadline, of this request or of a proxy on the way, came before there was an answer (504)."""


class FailedRequestError(StatusError):
    """The server failed to answer (any other 5xx), or the network answered what cannot be used."""


_BY_STATUS: Mapping[int, type[StatusError]] = {503: UnavailableError, 504: DeadlineExceededError}


def kind_of(status: int) -> type[StatusError]:
    """The error that stands for an HTTP status of 400 or more."""
    return _BY_STATUS.get(status, RefusedRequestError if status < 500 else FailedRequestError)
