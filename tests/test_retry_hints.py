"""What the server says of when to come back, and how the programs of ours heed it."""

from __future__ import annotations

import pytest

from devconf import hints
from devconf.connection import Disconnected
from tests.client_bench import Bench as ClientBench
from tests.device_bench import Bench

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("reason", "seconds"),
    [
        ("the server is stopping; retry after 5 s", 5),
        ("retry after 60 s", 60),
        ("retry after 0 s", 0),
        ("retry after 99999999 s", 3600),
        ("retry after 9999999999 s", 0),
        ("retry after 5 s or so", 0),
        ("retry after -5 s", 0),
        ("do not retry after 5 minutes", 0),
        ("", 0),
    ],
)
def test_the_reason_of_a_close_code_may_end_with_a_hint(reason: str, seconds: float) -> None:
    assert hints.in_reason(reason) == seconds
    assert Disconnected(1001, reason).retry_after == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 7 "}, 7),
        ({"retry-after": "123456789012345678901234567890"}, 3600),
        ({"retry-after": "-7"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "\u0667"}, 0),
        ({"retry-after": "Sun, 06 Nov 1994 08:50:37 GMT", "date": DATE}, 60),
        ({"retry-after": "Sun, 06 Nov 1994 08:48:37 GMT", "date": DATE}, 0),
        ({"retry-after": "Mon, 06 Nov 2094 08:48:37 GMT", "date": DATE}, 3600),
        ({"retry-after": "Sun, 06 Nov 1994 08:50:37 GMT"}, 0),
        ({"retry-after": "Sun, 06 Nov 1994 08:50:37 GMT", "date": "today"}, 0),
        ({"retry-after": "Sun, 06 Nov 1994 08:50:37 GMT", "date": "Sun, 06 Nov 1994 08:49:37 -0000"}, 0),
        ({}, 0),
    ],
)
def test_an_answer_over_http_may_have_seconds_or_a_date(headers: dict[str, str], seconds: float) -> None:
    assert hints.in_headers(headers.get) == seconds


def pause(bench: Bench | ClientBench) -> float:
    """How long it takes until there is a new connection, in seconds."""
    count, started = len(bench.server.sockets), bench.server.reactor.seconds()
    while len(bench.server.sockets) == count:
        bench.server.advance(0.5)
    return bench.server.reactor.seconds() - started


@pytest.mark.parametrize(
    ("code", "reason", "wait"),
    [
        (1001, "the server is stopping; retry after 5 s", 5 + 2.5),
        (1013, "overloaded; retry after 40 s", 40 + 15),
        (4002, "two of you; retry after 60 s", 60 + 0.5),
        (4999, "for any reason; retry after 20 s", 20 + 0.5),
        (4001, "replaced; retry after 60 s", 300 + 150),
        (4001, "replaced; retry after 600 s", 600 + 150),
    ],
)
def test_it_stays_away_as_long_as_it_is_told_and_some_more_at_random(code: int, reason: str, wait: float) -> None:
    for bench in (Bench(), ClientBench()):
        bench.start().drop(code, reason)
        assert pause(bench) == wait


def test_without_chance_it_is_just_what_was_told() -> None:
    bench = Bench(fraction=0.0)
    bench.start().drop(1001, "the server is stopping; retry after 5 s")
    assert pause(bench) == 5


@pytest.mark.parametrize("where", ["login", "register", "ws_url"])
def test_an_answer_over_http_is_heeded(where: str) -> None:
    bench = Bench()
    bench.server.answers[where] = [{"ecode": 1005030002, "enote": "stopping"}]
    bench.server.headers[where] = {"retry-after": "30"}
    bench.device.start()
    bench.server.flush()
    assert bench.reports == ["cannot connect: 1005030002: stopping"]
    assert pause(bench) == 30.5


def test_an_answer_of_a_proxy_is_heeded() -> None:
    bench = Bench()
    bench.server.answers["login"] = [b"<h1>503 Service Unavailable</h1>"]
    bench.server.headers["login"] = {"retry-after": "30"}
    bench.device.start()
    bench.server.flush()
    assert pause(bench) == 30.5


def test_a_socket_that_is_refused_is_heeded() -> None:
    bench = Bench()
    bench.server.full = True
    bench.server.headers["socket"] = {"Retry-After": "30"}
    bench.device.start()
    bench.server.flush()
    (report,) = bench.reports
    assert "[503]" in report
    bench.server.full = False
    assert pause(bench) == 30.5


def test_each_hint_comes_on_top_of_pauses_that_grow() -> None:
    """What is thrown out at once again and again is patient, hint or not."""
    bench = Bench()
    bench.start()
    waits = []
    for _ in range(5):
        bench.server.sockets[-1].drop(1001, "retry after 10 s")
        waits.append(pause(bench))
    assert waits == [12.5, 12.5, 12.5, 14.0, 18.0]
