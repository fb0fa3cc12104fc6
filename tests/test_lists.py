"""Lists that one connection asks for at once: some are read at a time, and each is answered."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred, succeed

from devconf.operators.protocol import LISTS, Lists


def waiting(made: Deferred[None]) -> Deferred[None]:
    return made


def test_so_many_are_read_at_a_time_in_order() -> None:
    lists = Lists(lambda: True)
    begun: list[Deferred[None]] = []

    def begin() -> Deferred[None]:
        begun.append(Deferred())
        return begun[-1]

    for _ in range(LISTS + 2):
        lists.ask(begin)
    assert len(begun) == LISTS
    begun[3].callback(None)
    assert len(begun) == LISTS + 1
    begun[LISTS].callback(None)
    assert len(begun) == LISTS + 2
    begun[0].callback(None)
    assert len(begun) == LISTS + 2


def test_those_that_fail_at_once_do_not_begin_from_within_each_other() -> None:
    lists, first, count = Lists(lambda: True), [Deferred[None]() for _ in range(LISTS)], [0]

    def begin() -> Deferred[None]:
        count[0] += 1
        return succeed(None)

    for each in first:
        lists.ask(partial(waiting, each))
    for _ in range(5000):
        lists.ask(begin)
    assert count == [0]
    first[0].callback(None)
    assert count == [5000]


def test_of_who_is_gone_none_is_begun() -> None:
    lists, first = Lists(lambda: True), [Deferred[None]() for _ in range(LISTS)]
    for each in first:
        lists.ask(partial(waiting, each))
    lists.ask(lambda: first[99])
    lists.forget()
    for each in first:
        each.callback(None)


def test_for_a_client_that_does_not_read_none_is_begun() -> None:
    reads, begun = [False], [0]
    lists = Lists(lambda: reads[0])

    def begin() -> Deferred[None]:
        begun[0] += 1
        return succeed(None)

    for _ in range(3):
        lists.ask(begin)
    assert begun == [0]
    reads[0] = True
    lists.go_on()
    assert begun == [3]
