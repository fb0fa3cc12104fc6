"""Requests with an idempotency key: each is carried out once (``docs/protocol.md`` §2).

A request that is under way is joined in memory; one that is over is found in the store. What carries it out writes
its key and its answer (:mod:`devconf.store.keys`).
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from devconf.clock import Now
from devconf.commands.asker import Asker, Dropped, Everyone
from devconf.errors import CommandFailed, Ecode
from devconf.store import Store, keys
from devconf.store.keys import Key

Progress = Callable[[int, int], None]
Response = dict[str, Any]
#: Carries a request out; fails with ``Dropped`` only.
CarryOut = Callable[[Progress, Asker], Awaitable[Response]]


def key_of(user_unid: str, text: str, command: str, params: msgspec.Struct, named: dict[str, str]) -> Key:
    """Return the key ``text`` of a request.

    :param command: its canonical name.
    :param params: as the command's schema has read them, so that what is written differently is the same.
    :param named: what the response repeats of the params.
    """
    asked = command.encode() + b" " + msgspec.json.encode(params, order="sorted")
    # With the key, which is not stored: params may have a password, and it shall not be found by trying.
    fingerprint = hmac.digest(text.encode(), asked, "sha256").hex()
    return Key(user_unid, sha256(text.encode()).hexdigest(), fingerprint, named)


@define(eq=False)
class _Joined:
    """One that waits for the response to a request."""

    asker: Asker
    progress: Progress
    response: Deferred[Response] = field(factory=Deferred, init=False)


@define(eq=False)
class _UnderWay:
    """A request that is being carried out, and all that wait for its response."""

    fingerprint: str
    everyone: Everyone = field(factory=Everyone, init=False)
    joined: list[_Joined] = field(factory=list, init=False)
    # Those that ask for something else with its key, while it is not known yet what the key was used for; then: None.
    others: list[Deferred[None]] | None = field(factory=list, init=False)
    last: tuple[int, int] | None = field(default=None, init=False)

    def join(self, progress: Progress, asker: Asker) -> Deferred[Response]:
        """Wait for the response."""
        some_have_gone = self.everyone.gone or asker.gone
        joined = _Joined(asker, progress)
        self.joined.append(joined)
        self.everyone.join(asker)
        asker.observe(self._let_go)
        if some_have_gone:
            self._let_go()
        if self.last is not None:
            progress(*self.last)
        return joined.response

    def _let_go(self) -> None:
        """Drop those that have gone."""
        if self.everyone.gone:
            return  # the last ones stay: as long as they do, the request counts among those that run
        gone = [each for each in self.joined if each.asker.gone]
        self.joined = [each for each in self.joined if not each.asker.gone]
        for each in gone:
            self._part(each)
            each.response.errback(Dropped())

    def _part(self, joined: _Joined) -> None:
        joined.asker.ignore(self._let_go)
        self.everyone.part(joined.asker)

    def progress(self, done: int, total: int) -> None:
        self.last = done, total
        for each in self.joined:
            each.progress(done, total)

    def known(self) -> None:
        """Note that it has been looked up what the key was used for."""
        others, self.others = self.others, None
        for each in others or ():
            each.callback(None)

    def finish(self, result: Response | Failure) -> None:
        joined, self.joined = self.joined, []
        for each in joined:
            self._part(each)
        for each in joined:
            each.response.callback(result)
        self.known()


@define(eq=False)
class Keys:
    """The requests with a key that are under way.

    :ivar _now: the wall clock, by which keys are kept.
    """

    _store: Store
    _now: Now
    # What is here is being carried out, and counts among the requests in flight.
    _under_way: dict[tuple[str, str], _UnderWay] = field(factory=dict, init=False)

    def once(self, key: Key, carry_out: CarryOut, progress: Progress, asker: Asker) -> Deferred[Response]:
        """Carry a request out, unless it was, or is: then its response is that one.

        :returns: fires with the response; fails with ``CommandFailed`` (``KEY_USED``: for something else), or with
            ``Dropped``.
        """
        name = (key.user_unid, key.digest)
        found = self._under_way.get(name)
        if found is None:
            found = self._under_way[name] = _UnderWay(key.fingerprint)
            response = found.join(progress, asker)
            running = Deferred.fromCoroutine(self._run(key, carry_out, found))
            running.addBoth(self._over, name, found)
            return response
        if found.fingerprint != key.fingerprint and found.others is not None:
            found.others.append(Deferred())
            return found.others[-1].addCallback(lambda _: self.once(key, carry_out, progress, asker))
        _check(key, found.fingerprint)
        return found.join(progress, asker)

    async def _run(self, key: Key, carry_out: CarryOut, under_way: _UnderWay) -> Response:
        kept = await self._store.run(keys.find, key, self._now())
        if kept is None:
            under_way.known()
            return await carry_out(under_way.progress, under_way.everyone)
        _check(key, kept.fingerprint)
        if kept.answer is None:
            raise CommandFailed(
                Ecode.STOPPING, "the request with this idempotency_key has no outcome yet; ask again later"
            )
        answer: Response = kept.answer
        return answer

    def _over(self, result: Response | Failure, name: tuple[str, str], under_way: _UnderWay) -> None:
        del self._under_way[name]
        under_way.finish(result)


def _check(key: Key, fingerprint: str) -> None:
    if key.fingerprint != fingerprint:
        raise CommandFailed(
            Ecode.KEY_USED, "$.idempotency_key was used for another command, or other params; choose a new one"
        )
