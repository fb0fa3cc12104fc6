"""A log that peers do not fill: what one of them does again and again has so many lines a minute, and then a count."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, formatEvent

from devconf.config import Config
from devconf.sparing import LINES, MINUTE, SparingLog
from devconf.testing import MemoryServer


def texts(logged: list[LogEvent]) -> list[str]:
    """What has been logged since this was last asked."""
    taken = [str(formatEvent(event)) for event in logged]
    logged.clear()
    return taken


def test_each_kind_has_its_lines(logged: list[LogEvent]) -> None:
    clock = Clock()
    log = SparingLog(clock, Logger())
    for number in range(100):
        log.info("one: {number}", number=number)
    log.info("other: {number}", number=1)
    assert texts(logged) == [*(f"one: {number}" for number in range(LINES)), "other: 1"]
    clock.advance(MINUTE)
    for number in range(2):
        log.info("one: {number}", number=number)
        log.info("other: {number}", number=number)
    assert texts(logged) == ["80 more of this: one: {number}", "one: 0", "other: 0", "one: 1", "other: 1"]


def test_old_pages_do_not_fill_it(tmp_path: Path, logged: list[LogEvent]) -> None:
    """Their unknown params pass in each of their requests."""
    server = MemoryServer(tmp_path, config=Config(tolerated_params=("old", "older")))
    texts(logged)
    for _ in range(100):
        assert server.ask("get tasks", {"old": 1})["ecode"] == 0
    line = "get /wsapi/v1/devconf_fx/tasks: unknown params passed: "
    assert texts(logged) == [f"{line}['old']"] * LINES
    server.advance(MINUTE)
    assert server.ask("get tasks", {"old": 1, "older": 2})["ecode"] == 0
    assert texts(logged) == ["80 more of this: {command}: unknown params passed: {passed}", f"{line}['old', 'older']"]
    server.stop()
