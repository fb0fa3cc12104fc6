"""What a deliberate fault is, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred

from devconf.store import Store
from tests.simulation.host import replaced

Put = Callable[[ExitStack], None]


@frozen
class Fault:
    """Something that is wrong.

    :ivar by: the invariants that it breaks: it is found when one of these is seen to be broken.
    :ivar required: the issue names it.
    """

    name: str
    by: tuple[str, ...]
    put: Put
    required: bool = True

    @contextmanager
    def present(self) -> Iterator[None]:
        """Let it be wrong for a while."""
        with ExitStack() as stack:
            self.put(stack)
            yield


known: dict[str, Fault] = {}


def fault(name: str, *by: str, required: bool = True) -> Callable[[Put], Put]:
    """Make the decorated function the deliberate fault ``name``, which breaks the invariants ``by``."""

    def note(put: Put) -> Put:
        known[name] = Fault(name, by, put, required)
        return put

    return note


def tell_early(stack: ExitStack, which: Callable[[Any], bool]) -> None:
    """Let the store say of the functions ``which`` that they are done when they have run, and not when committed."""
    run = Store.run

    def tell(self: Store, function: Any, *args: Any) -> Deferred[Any]:
        if not which(function):
            return run(self, function, *args)
        told: Deferred[Any] = Deferred()

        def tell_and_go_on(connection: Any, *inner: Any) -> Any:
            result = function(connection, *inner)
            told.callback(result)
            return result

        run(self, tell_and_go_on, *args).addErrback(lambda failure: None if told.called else told.errback(failure))
        return told

    stack.enter_context(replaced(Store, "run", tell))
