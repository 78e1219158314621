"""What a client tries again, when, how often, and what it raises at last, against a real server that fails."""

import asyncio
import pickle
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

import mcdropout
from mcdropout import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    FailedRequestError,
    PredictResponse,
    RefusedRequestError,
    StatusError,
    UnavailableError,
    UnexpectedAnswerError,
    UnreachableError,
)
from tests.client.answering import ANSWER, HANGS_UP, PREDICTION, SILENT, Answering, Reply, answering, overloaded
from tests.patience import patience
from tests.servers import free_port

Predict = Callable[..., PredictResponse]


def blocking(url: str, **options: Any) -> PredictResponse:
    with Client(url, **options) as client:
        return client.predict([1.0])


def awaited(url: str, **options: Any) -> PredictResponse:
    async def ask() -> PredictResponse:
        async with AsyncClient(url, **options) as client:
            return await client.predict([1.0])

    return asyncio.run(ask())


@pytest.fixture(params=[blocking, awaited])
def predict(request: pytest.FixtureRequest) -> Predict:
    """A prediction of a row by either client."""
    found: Predict = request.param
    return found


def raised(predict: Predict, server: Answering, **options: Any) -> Exception:
    with pytest.raises(mcdropout.ClientError) as caught:
        predict(server.url, **options)
    return caught.value


def test_a_server_that_refuses_for_the_time_being_is_asked_again_and_not_before_it_said(predict: Predict) -> None:
    with answering([overloaded(Retry_After="1"), overloaded(429, Retry_After="0"), ANSWER]) as server:
        assert predict(server.url).mean.tolist() == [0.5]
        assert len(server.asked) == 3
        assert server.pauses[0] >= 1.0
        assert {asked.content for asked in server.asked} == {b'{"inputs":[1.0]}'}


def test_a_date_in_retry_after_is_measured_by_the_servers_own_clock(predict: Predict) -> None:
    hours_ago = time.time() - 7200.0  # were it measured by this machine's clock, it would be over
    when = {"Date": formatdate(hours_ago, usegmt=True), "Retry_After": formatdate(hours_ago + 2.0, usegmt=True)}
    with answering([overloaded(**when), ANSWER]) as server:
        predict(server.url)
        assert server.pauses[0] >= 2.0


def test_where_retry_after_says_nothing_pauses_grow(predict: Predict) -> None:
    with answering([overloaded(), overloaded(Retry_After="soon"), overloaded(), ANSWER]) as server:
        predict(server.url)
        assert all(pause >= least for pause, least in zip(server.pauses, (0.1, 0.2, 0.4), strict=True))


def test_a_server_that_hangs_up_is_asked_again(predict: Predict) -> None:
    with answering([HANGS_UP, HANGS_UP, ANSWER]) as server:
        assert predict(server.url).seed == 7
        assert len(server.asked) == 3


def test_a_server_that_goes_on_hanging_up_is_not_reached(predict: Predict) -> None:
    with answering([HANGS_UP]) as server:
        error = raised(predict, server, retries=2)
        assert isinstance(error, UnreachableError)
        assert "cannot be reached in 3 tries" in str(error)
        assert len(server.asked) == 3


def test_retries_are_counted_and_the_last_refusal_is_raised(predict: Predict) -> None:
    with answering([overloaded(Retry_After="0")]) as server:
        error = raised(predict, server, retries=2)
        assert isinstance(error, UnavailableError)
        assert (error.status, error.detail, error.retry_after) == (503, "overloaded", 0.0)
        assert len(server.asked) == 3
        raised(predict, server, retries=0)
        assert len(server.asked) == 4


def test_nobody_waits_for_a_retry_that_would_be_too_late(predict: Predict) -> None:
    with answering([overloaded(Retry_After="86400"), ANSWER]) as server:
        error = raised(predict, server, timeout=patience(30.0))
        assert isinstance(error, UnavailableError)
        assert error.retry_after == 86400.0
        assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 422, 500, 502, 504])
def test_no_other_error_is_tried_again(predict: Predict, status: int) -> None:
    with answering([overloaded(status, Retry_After="0"), ANSWER]) as server:
        error = raised(predict, server)
        assert isinstance(error, StatusError)
        kinds = {504: DeadlineExceededError, 500: FailedRequestError, 502: FailedRequestError}
        assert type(error) is kinds.get(status, RefusedRequestError)
        assert error.status == status
        assert len(server.asked) == 1


def test_a_server_that_never_answers_is_given_up_when_the_time_is_over(predict: Predict) -> None:
    with answering([SILENT]) as server:
        error = raised(predict, server, timeout=0.5)
        assert isinstance(error, UnreachableError)
        assert "did not answer within 0.5 seconds" in str(error)
        assert len(server.asked) == 1


def test_the_time_is_over_for_a_server_whose_answer_does_not_end(predict: Predict) -> None:
    with answering([Reply(document=PREDICTION, drip=0.1)]) as server:
        error = raised(predict, server, timeout=0.5)
        assert "did not answer within 0.5 seconds" in str(error)


def test_nobody_listening_is_an_error_that_names_the_address(predict: Predict) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UnreachableError, match=f"{url} cannot be reached in 2 tries"):
        predict(url, retries=1)


def test_an_answer_that_is_none_of_this_service_is_an_error_that_shows_it(predict: Predict) -> None:
    for reply, said in (
        (Reply(document=["a list"]), "no JSON object but '[\"a list\"]'"),
        (Reply(document={"answer": 42}), "no prediction"),
        (Reply(302, {"location": "/login"}), "status 302 to '/login'"),
        (Reply(204), "status 204"),
    ):
        with answering([reply]) as server:
            error = raised(predict, server)
            assert isinstance(error, UnexpectedAnswerError)
            assert said in str(error)


def test_an_error_of_a_proxy_which_is_no_problem_document_is_shown_as_well(predict: Predict) -> None:
    with answering([Reply(502, {"x-request-id": "abc"}, "<h1>Bad gateway</h1>")]) as server:
        error = raised(predict, server)
        assert isinstance(error, FailedRequestError)
        assert (error.title, error.request_id) == ("Bad Gateway", "abc")
        assert "<h1>Bad gateway</h1>" in error.detail


def test_the_key_is_sent_and_shown_nowhere(predict: Predict) -> None:
    with answering([ANSWER, overloaded(401)]) as server:
        predict(server.url, key="secret-7")
        assert server.asked[0].headers["authorization"] == "Bearer secret-7"
        error = raised(predict, server, key="secret-7")
        assert "secret-7" not in f"{error!r} {error} {Client(server.url, key='secret-7')!r}"
    with answering([ANSWER]) as server:
        predict(server.url)
        assert "authorization" not in server.asked[0].headers


def test_a_connection_is_used_again() -> None:
    with answering([ANSWER]) as server, Client(server.url) as client:
        for _ in range(3):
            client.predict([1.0])
        assert len({asked.port for asked in server.asked}) == 1


def test_what_sends_is_the_users_own_where_given_and_stays_open() -> None:
    import httpx

    with answering([ANSWER]) as server, httpx.Client(headers={"x-team": "seven"}) as http:
        with Client(server.url, http=http) as client:
            client.predict([1.0])
        assert server.asked[0].headers["x-team"] == "seven"
        assert not http.is_closed


def test_a_prediction_goes_below_the_path_of_an_address() -> None:
    with answering([ANSWER]) as server, Client(f"{server.url}/below/") as client:
        client.predict([1.0], model="a/b c", mc="auto", fields=["mean", "entropy"], regions=(2, 3), samples=True)
        expected = "/below/models/a%2Fb%20c/predict?mc=auto&samples=true&fields=mean%2Centropy&regions=2x3"
        assert server.asked[0].path == expected


def test_an_error_is_the_same_behind_the_border_of_a_process() -> None:
    error = UnavailableError(503, "Service Unavailable", "overloaded", "id", 2.0)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.retry_after) == (UnavailableError, str(error), 2.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "localhost:8000"}, "such as http://127.0.0.1:8000"),
        ({"url": "ftp://host"}, "such as http://127.0.0.1:8000"),
        ({"timeout": 0}, "timeout is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"key": "a b"}, "key holds"),
        ({"key": "a\nb"}, "key holds"),
    ],
)
def test_what_a_client_cannot_use_is_refused_with_what_is_accepted(options: dict[str, Any], said: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=said) as caught:
            kind(**options)
        assert "a\nb" not in str(caught.value)
