"""What holds in every test: a limit on its time, and nothing left behind when it ends.

The reactor is imported in functions only: pytest-twisted installs the one that ``--reactor`` names.
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from hypothesis import settings
from twisted.internet import task
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from devconf.testing import MemoryServer
    from tests.running import Start

#: How long an asynchronous test may take, in seconds, unless it is marked with ``@pytest.mark.limit(seconds)``.
LIMIT = 30.0

#: Set where a test that is skipped is a failure: CI installs what tests need.
NO_SKIPS = "DEVCONF_NO_SKIPS"

# The same examples in each run, and none kept on disk: a failure is the fault of the change at hand.
settings.register_profile("devconf", deadline=None, derandomize=True, database=None)
settings.load_profile("devconf")


def pytest_configure(config: pytest.Config) -> None:
    # A background job has SIGINT ignored, and so would the processes have that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", f"limit(seconds): instead of {LIMIT:g} for an asynchronous test")


def pytest_collection_finish() -> None:
    # What is loaded by now stays: the collections after each test need not go through it again.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(NO_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr}: with {NO_SKIPS} set nothing may be skipped"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    marker = pyfuncitem.get_closest_marker("limit")
    limit = float(marker.args[0]) if marker else LIMIT
    hypothesis = getattr(pyfuncitem.obj, "hypothesis", None)
    if hypothesis is None:
        pyfuncitem.obj = _bounded(pyfuncitem.obj, limit)
    elif inspect.iscoroutinefunction(hypothesis.inner_test):
        hypothesis.inner_test = _bounded(hypothesis.inner_test, limit)


def _bounded(test: Callable[..., Any], limit: float) -> Callable[..., Any]:
    """Return ``test``, cancelled and failed when the Deferred or coroutine that it returns takes too long.

    pytest-timeout cannot do this: it would end all tests, or the reactor.
    """

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> Any:
        from twisted.internet import reactor

        def too_slow(_result: Any, seconds: float) -> None:
            raise AssertionError(f"the test took longer than {seconds:g} s and was cancelled")

        result = test(*args, **kwargs)
        if inspect.iscoroutine(result):
            result = ensureDeferred(result)
        if isinstance(result, Deferred):
            result.addTimeout(limit, reactor, onTimeoutCancel=too_slow)
        return result

    return run


_HEADING = "Unhandled error in Deferred:"


@implementer(ILogObserver)
class LoggedErrors:
    """What was logged as an error in a test. What is still here when it ends fails it."""

    def __init__(self) -> None:
        self._events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        # Twisted says "Unhandled error in Deferred:" in an event of its own, and the failure itself in the next.
        if event["log_level"] in (LogLevel.error, LogLevel.critical) and event.get("log_format") != _HEADING:
            self._events.append(event)

    def expect(self, *kinds: type[BaseException]) -> list[Failure]:
        """Take away the errors that are exceptions of ``kinds``, and return them.

        :raises AssertionError: there is none.
        """
        gc.collect()  # a Deferred logs its unhandled error when it is collected
        taken = [event for event in self._events if "log_failure" in event and event["log_failure"].check(*kinds)]
        assert taken, f"no {', '.join(kind.__name__ for kind in kinds)} was logged, but {self.texts()}"
        self._events = [event for event in self._events if event not in taken]
        return [event["log_failure"] for event in taken]

    def flush(self) -> list[str]:
        """Take away all errors, and return their texts."""
        gc.collect()
        texts = self.texts()
        self._events.clear()
        return texts

    def texts(self) -> list[str]:
        """Return the texts of the errors, with the traceback where there is one."""
        return [
            event["log_failure"].getTraceback() if "log_failure" in event else formatEvent(event)
            for event in self._events
        ]


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[LoggedErrors]:
    """Fail the test for errors in the log that it did not expect, and for delayed calls that it left."""
    errors = LoggedErrors()
    globalLogPublisher.addObserver(errors)
    before = _delayed_calls()
    yield errors
    left = _left_over(before)
    gc.collect()
    globalLogPublisher.removeObserver(errors)
    for call in left:
        call.cancel()
    complaints = [f"left in the reactor: {call}" for call in left]
    complaints += [f"an error was logged: {text}" for text in errors.texts()]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """Whatever is logged while the test runs, in order."""
    events: list[LogEvent] = []
    observer = cast("ILogObserver", events.append)
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


def _delayed_calls() -> list[IDelayedCall]:
    from twisted.internet import reactor

    return [call for call in reactor.getDelayedCalls() if call.active()]


def _left_over(before: list[IDelayedCall]) -> list[IDelayedCall]:
    """Return the delayed calls that are not of ``before``, once those have run that are due at once."""
    from twisted.internet import reactor

    for _ in range(2):
        if not [call for call in _delayed_calls() if call not in before]:
            break
        # Closing a transport takes a turn of the reactor, or two.
        pytest_twisted.blockon(task.deferLater(reactor, 0, lambda: None))
    return [call for call in _delayed_calls() if call not in before]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MemoryServer]:
    """A server in memory; when it is stopped, it leaves no timer behind."""
    from devconf.testing import MemoryServer

    server = MemoryServer(tmp_path)
    yield server
    server.stop()
    assert server.clock.getDelayedCalls() == []


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """An empty database of ours."""
    from devconf.testing import prepared_database

    return prepared_database(tmp_path / "devconf.sqlite")


@pytest.fixture
def reactor() -> Any:
    """The real one."""
    from twisted.internet import reactor

    return reactor


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts services with settings on ports of their own; they are stopped after the test."""
    from tests.running import starting

    yield from starting(tmp_path)
