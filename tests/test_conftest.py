"""The tests' own safety net: what hangs, what is left behind and what is logged fails the test that did it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

EXAMPLES = """
import pytest
from hypothesis import given, strategies
from twisted.internet import defer, reactor
from twisted.internet.task import deferLater
from twisted.logger import Logger

log = Logger()


async def test_passes():
    await deferLater(reactor, 0.01, lambda: None)


@pytest.mark.limit(0.05)
async def test_hangs():
    await defer.Deferred()


@pytest.mark.limit(0.05)
def test_hangs_without_async():
    return defer.Deferred()


@pytest.mark.limit(0.05)
@given(strategies.booleans())
async def test_hangs_by_example(_):
    await defer.Deferred()


async def test_fails_an_assertion():
    await deferLater(reactor, 0, lambda: None)
    assert 1 == 2


def test_leaves_a_call():
    reactor.callLater(60, print, "never")


def test_leaves_what_is_due_at_once():
    reactor.callLater(0, lambda: None)


def test_logs_a_text():
    log.error("something {what}", what="broke")


def test_logs_a_warning():
    log.warn("mind this")


def test_loses_a_failure():
    defer.fail(KeyError("lost"))


async def test_breaks_in_the_reactor():
    reactor.callLater(0, lambda: 1 / 0)
    await deferLater(reactor, 0.01, lambda: None)


def test_expects_a_failure(logged_errors):
    defer.fail(KeyError("lost"))
    (failure,) = logged_errors.expect(KeyError)
    assert str(failure.value) == "'lost'"


def test_expects_another_failure(logged_errors):
    defer.fail(KeyError("lost"))
    logged_errors.expect(ValueError)


def test_takes_all(logged_errors):
    log.error("something {what}", what="broke")
    assert logged_errors.flush() == ["something broke"]


async def test_passes_at_the_end():
    await deferLater(reactor, 0.01, lambda: None)
"""

SETTINGS = """
[pytest]
addopts = --strict-markers -p no:cacheprovider -p no:randomly
"""


@pytest.fixture
def report(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> dict[str, set[str]]:
    """What became of each of the examples: ``passed``, ``failed``, ``error`` (after the test itself)."""
    here = Path(__file__).parent
    pytester.makeconftest((here / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini(SETTINGS)
    pytester.makepyfile(test_examples=EXAMPLES)
    reactor = request.config.getoption("reactor")
    result = pytester.runpytest_subprocess("-rA", "--tb=short", f"--reactor={reactor}", timeout=60)
    outcomes: dict[str, set[str]] = {"passed": set(), "failed": set(), "error": set(), "why": set()}
    for line in result.outlines:
        outcome, _, name = line.partition(" test_examples.py::")
        if name and outcome in ("PASSED", "FAILED", "ERROR"):
            outcomes[outcome.lower()].add(name.partition(" ")[0])
        outcomes["why"].add(line.strip())
    return outcomes


def test_each_fault_fails_its_own_test_and_no_other(report: dict[str, set[str]]) -> None:
    hanging = {"test_hangs", "test_hangs_without_async", "test_hangs_by_example"}
    assert report["failed"] == {*hanging, "test_fails_an_assertion", "test_expects_another_failure"}
    left_behind = {"test_leaves_a_call", "test_logs_a_text", "test_loses_a_failure", "test_breaks_in_the_reactor"}
    assert report["error"] == {*left_behind, "test_expects_another_failure"}
    assert report["passed"] == {
        *left_behind,
        "test_passes",
        "test_leaves_what_is_due_at_once",
        "test_logs_a_warning",
        "test_expects_a_failure",
        "test_takes_all",
        "test_passes_at_the_end",
    }
    assert "E   AssertionError: the test took longer than 0.05 s and was cancelled" in report["why"]
    assert "an error was logged: something broke" in report["why"]
    assert any(line.startswith("left in the reactor: <DelayedCall ") for line in report["why"])
    assert "Failure: builtins.KeyError: 'lost'" in report["why"]


def test_a_skipped_test_fails_where_nothing_may_be_skipped(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(__file__).parent
    pytester.makeconftest((here / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini(SETTINGS)
    pytester.makepyfile("import pytest\n\n\ndef test_that_skips():\n    pytest.skip('there is no such tool')\n")
    monkeypatch.delenv("DEVCONF_NO_SKIPS", raising=False)
    pytester.runpytest_subprocess(timeout=60).assert_outcomes(skipped=1)
    monkeypatch.setenv("DEVCONF_NO_SKIPS", "1")
    pytester.runpytest_subprocess(timeout=60).assert_outcomes(failed=1)
