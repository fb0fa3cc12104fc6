"""Passwords in threads: how many may wait for one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from devconf import passwords
from devconf.passwords import WAITING, ThreadedPasswords


class Slow:
    """Passwords of which each comparison waits for the ``gate``; then it is right."""

    def __init__(self, reactor: Any) -> None:
        self.gate = threading.Event()
        self._threaded = ThreadedPasswords(reactor)

    def compare(self, _stored: str, _password: str) -> bool:
        return self.gate.wait(60)

    def verify(self) -> Deferred[bool]:
        return self._threaded.verify("stored", "password")

    def end(self) -> Deferred[None]:
        self.gate.set()
        return self._threaded.stop()


@pytest.fixture
def slow(reactor: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow(reactor)
    monkeypatch.setattr(passwords, "verify_password", slow.compare)
    yield slow
    pytest_twisted.blockon(slow.end())


def told(waiting: Deferred[Any]) -> list[str]:
    """What ``waiting`` has failed with, or nothing yet; whatever it is then is taken care of."""
    failures: list[str] = []

    def failed(failure: Failure) -> None:
        failures.append(str(failure.value))

    waiting.addErrback(failed)
    return failures


async def test_a_login_whose_client_has_gone_counts_until_a_thread_has_done_it(reactor: Any, slow: Slow) -> None:
    for _ in range(WAITING):
        gone = slow.verify()
        assert told(gone) == []
        gone.cancel()
    too_many = ["1004290001: too many are logging in; try again later"]
    assert told(slow.verify()) == too_many
    slow.gate.set()
    while told(next_one := slow.verify()) == too_many:
        await deferLater(reactor, 0)
    assert await next_one is True
