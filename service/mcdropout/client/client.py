"""The client that waits: `Client`."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx

from mcdropout.client import calls
from mcdropout.client.description import ModelDescription, ModelSummary
from mcdropout.client.exchange import Failed, Outcome, Pause, Received, Send, Steps, service_at
from mcdropout.client.response import PredictResponse

T = TypeVar("T")


class Client:
    """A client of an mcdropout service. Its connections are kept between calls; threads may share it.

    with Client("http://127.0.0.1:8000") as client:
        response = client.predict(rows, model="mnist-cnn", mc=50, seed=7)
        response.mean, response.mutual_information
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout: float | None = 60.0,
        retries: int = 3,
        http: httpx.Client | None = None,
    ) -> None:
        """
        Args:
            url: the service's address.
            key: sent as `Authorization: Bearer KEY`; None to send none.
            timeout: the most seconds that a call takes, tries and pauses between them included; None for any.
            retries: how often a request is tried again at most, where no answer came, or 503 or 429.
            http: what to send with, such as one with a proxy or certificates, which is not closed here; one of its own
                where not given.

        Raises:
            ValueError: one of these cannot be used.
        """
        self._service = service_at(url, key, timeout, retries)
        self._described: dict[str, ModelDescription] = {}
        self._owned = http is None
        self._http = httpx.Client() if http is None else http

    def predict(
        self,
        inputs: Any,
        *,
        model: str | None = None,
        mc: int | Literal["auto"] | None = None,
        seed: int | None = None,
        tolerance: float | None = None,
        deadline_ms: float | None = None,
        samples: bool = False,
        fields: str | Sequence[str] | None = None,
        reduce: str | None = None,
        regions: str | Sequence[int] | None = None,
        p: float | None = None,
    ) -> PredictResponse:
        """Predict rows, and how far to trust each prediction.

        Args:
            inputs: one row, or several, in the shape that `model(name).inputs` tells: an array, nested lists, a list of
                arrays that differ in length where the shape has a name in it, or, of a model of several inputs, a dict
                of these by their names. A DataFrame, a row a line: its columns by the names that the model has
                for them, text where it takes categories, else in their order, or by the names of inputs of one value
                each. A PIL image, or the path of one, or a list of them. A text, or a list of them, where the model's
                bundle makes rows of texts. NaN and None are for what is missing. Bytes are a JSON body, sent as it is.
            model: which; the default one where not given.
            mc: stochastic passes; 0 for the deterministic baseline, "auto" for as many as each row needs; the model's
                default where not given.
            seed: what the masks are drawn from; drawn where not given, and always in the answer.
            tolerance: with `mc="auto"`, a row stops when no standard error of its mean is above this.
            deadline_ms: answer by then, in milliseconds from arrival, with the passes that there are.
            samples: whether every pass's output is wanted too.
            fields: the names of the statistics that are wanted; all where not given.
            reduce: of a dense answer one number instead of each map: "mean", "max", "min", "sum", "p95", "volume>0.5".
            regions: with `reduce`, into how many regions the places are cut: "4x4" or (4, 4).
            p: what each site is to drop with in place of its own, where the model's rates allow it.

        Raises:
            UnusableInputsError: the inputs cannot be sent.
            UnreachableError: no answer came in time.
            RefusedRequestError, UnavailableError, DeadlineExceededError, FailedRequestError: the service's errors.
            UnexpectedAnswerError: what answered is no mcdropout service.
        """
        query = calls.PredictQuery(mc, seed, tolerance, deadline_ms, samples, fields, reduce, regions, p)
        return self._carry_out(calls.predict(self._service, self._described, inputs, model, query))

    def models(self) -> tuple[ModelSummary, ...]:
        """All models, and whether they may serve."""
        return self._carry_out(calls.models(self._service))

    def model(self, name: str | None = None) -> ModelDescription:
        """All about a model, the default one where none is named."""
        return self._carry_out(calls.model(self._service, name))

    def ready(self) -> bool:
        """Whether the service may answer: its models were loaded or refused, and the default one serves."""
        return self._carry_out(calls.ready(self._service))

    def wait_until_ready(self, seconds: float = 60.0) -> None:
        """Wait until the service may answer.

        Raises:
            UnreachableError, UnavailableError: it could not be reached, or was not ready, in so many seconds.
        """
        self._carry_out(calls.wait_until_ready(self._service, seconds))

    def close(self) -> None:
        """Close the connections."""
        if self._owned:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._service.url!r})"

    def _carry_out(self, steps: Steps[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                outcome = None
            else:
                outcome = self._send(step)

    def _send(self, step: Send) -> Received | Failed:
        """What comes of a request. A limit of httpx is for each read, so that the sum of them is watched here."""
        ends = None if step.seconds is None else time.monotonic() + step.seconds
        parts: list[bytes] = []
        try:
            with self._http.stream(
                step.method, step.url, headers=dict(step.headers), content=step.content, timeout=step.seconds
            ) as response:
                for part in response.iter_bytes():
                    parts.append(part)
                    if ends is not None and time.monotonic() > ends:
                        raise httpx.ReadTimeout("the answer did not end in time")
        except httpx.RequestError as error:
            return Failed(error, in_time=not isinstance(error, httpx.TimeoutException))
        return Received(response.status_code, dict(response.headers), b"".join(parts))
