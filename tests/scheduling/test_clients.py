"""Clients: who waits for his turn how long, and how much one may have waiting."""

from dataclasses import dataclass

import pytest

from mcdropout.metrics import Metrics
from mcdropout.scheduling.backlog import Backlog, Capacity, Claim, OverloadedError
from mcdropout.scheduling.clients import Client, FairQueue
from mcdropout.scheduling.plan import Plan

GREEDY, MODEST, PAYING = Client("greedy"), Client("modest"), Client("paying", share=3.0)


@dataclass(frozen=True)
class Waiting:
    client: Client
    number: int
    cost: float = 1.0


def order(queue: FairQueue[Waiting], most: int = 10**6) -> list[tuple[str, int]]:
    return [(one.client.name, one.number) for one in (queue.popleft() for _ in range(min(most, len(queue))))]


def queue_of(*waiting: Waiting) -> FairQueue[Waiting]:
    queue: FairQueue[Waiting] = FairQueue()
    for one in waiting:
        queue.append(one)
    return queue


def test_one_client_is_served_in_the_order_in_which_it_asks() -> None:
    queue = queue_of(*(Waiting(GREEDY, number, cost) for number, cost in enumerate((5.0, 1.0, 9.0, 2.0))))
    assert order(queue) == [("greedy", number) for number in range(4)]


def test_who_asks_for_little_does_not_wait_for_all_that_another_asked_for_before() -> None:
    queue = queue_of(*(Waiting(GREEDY, number) for number in range(1000)), Waiting(MODEST, 0))
    assert ("modest", 0) in order(queue, 2)


def test_what_a_request_costs_counts_and_not_how_many_there_are() -> None:
    queue = queue_of(
        *(Waiting(GREEDY, number, 100.0) for number in range(3)), *(Waiting(MODEST, number) for number in range(50))
    )
    assert [name for name, _ in order(queue, 52)].count("modest") == 50


def test_a_larger_share_is_served_so_many_times_as_often() -> None:
    queue = queue_of(*(Waiting(client, number) for number in range(300) for client in (MODEST, PAYING)))
    served = [name for name, _ in order(queue, 200)]
    assert served.count("paying") == pytest.approx(150, abs=2)


def test_who_was_idle_has_no_credit_for_it() -> None:
    queue = queue_of(*(Waiting(GREEDY, number) for number in range(100)))
    assert len(order(queue, 50)) == 50
    for number in range(100):
        queue.append(Waiting(MODEST, number))
    served = [name for name, _ in order(queue, 40)]
    assert served.count("modest") == pytest.approx(20, abs=2)


def backlog(client_share: float = 0.8, seconds: float | None = None) -> Backlog:
    return Backlog(Capacity(100, 10**6, seconds, client_share=client_share), Metrics())


def admit(backlog: Backlog, client: Client, rows: int = 1) -> Claim:
    return backlog.admit("net", rows, rows, Plan(1), 0.0, client=client)


def filled(backlog: Backlog, client: Client) -> int:
    """How many rows of a client are admitted, one after another."""
    count = 0
    while backlog.refusal(client=client) is None:
        admit(backlog, client)
        count += 1
    with pytest.raises(OverloadedError) as refused:
        admit(backlog, client)
    assert refused.value.reason == "share"
    return count


def test_a_client_alone_gets_so_much_and_another_finds_room() -> None:
    held = backlog()
    assert filled(held, GREEDY) == 80
    assert held.refusal(client=MODEST) is None
    admit(held, MODEST, 16)


def test_several_who_ask_in_turn_get_as_much_as_one_another_and_leave_room() -> None:
    held = backlog()
    clients = [Client(str(number)) for number in range(4)]
    counts = dict.fromkeys(clients, 0)
    while any(free := [client for client in clients if held.refusal(client=client) is None]):
        for client in free:
            if held.refusal(client=client) is None:
                admit(held, client)
                counts[client] += 1
    assert set(counts.values()) <= {23, 24}
    admit(held, MODEST, 5)


def test_a_larger_share_holds_more() -> None:
    assert filled(backlog(), PAYING) == pytest.approx(100 * 12 / 13, abs=1)


def test_time_is_shared_like_rows() -> None:
    held = backlog(seconds=10.0)
    held.ran("net", 1, 1.0)
    assert filled(held, GREEDY) == 8
    admit(held, MODEST)


def test_what_has_ended_is_no_longer_a_clients() -> None:
    held = backlog()
    claims = [admit(held, GREEDY) for _ in range(80)]
    with pytest.raises(OverloadedError, match="80 rows of this client wait already, of 80 of all"):
        admit(held, GREEDY)
    held.release(claims[:40])
    admit(held, GREEDY)
    held.release(claims[40:])
    assert held.refusal(client=GREEDY) is None


def test_where_a_client_may_have_all_it_gets_all() -> None:
    held = backlog(client_share=1.0)
    for _ in range(100):
        admit(held, GREEDY)
    with pytest.raises(OverloadedError) as error:
        admit(held, GREEDY)
    assert error.value.reason == "queue"
