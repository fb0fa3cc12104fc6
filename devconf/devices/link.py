"""One connection of a device: what goes out on it, and what comes back."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface

from devconf import failpoints, sessions, wire
from devconf.devices.pending import NoAnswer, PendingRequests, Withdrawn
from devconf.errors import CommandFailed, Ecode
from devconf.model import Identity

#: Calls that may wait for room on one connection.
CALLS_WAITING = 32
#: Unanswered requests per connection whose answer is still told apart after the deadline.
LATE = 256


class IDeviceTransport(Interface):
    """What a link needs of the protocol it speaks through."""

    writable: bool = Attribute("Whether the device reads what is sent.")
    ended_here: bool = Attribute("Whether the server has ended the connection, for a reason of its own.")

    def send(*parts: bytes) -> None:
        """Hand a message to the socket, in parts that may be common to many messages."""

    def close(code: int, reason: str) -> None:
        """Close the connection; messages that still come are not passed on."""


class IHub(Interface):
    """What a link tells of itself."""

    clock: IReactorTime = Attribute("Monotonic.")
    window: int = Attribute("Messages that may be outstanding on one connection.")

    def next_req_id() -> str:
        """Return a ``req_id`` that was never used before."""

    def has_room(link: Link) -> None:
        """The device may be sent more."""

    def drained(link: Link) -> None:
        """The device has read what was sent."""

    def answered_late(link: Link, order: Any, answer: wire.DeviceAnswer) -> None:
        """An ``order`` that was remembered (:meth:`Link.remember`) has been answered."""

    def asked(link: Link, message: dict[str, Any]) -> bool:
        """The device sent a request of its own; tell whether it may be answered with more than an error."""

    def learn_echo(link: Link) -> None:
        """The device sent a ``req_id`` back for the first time."""

    def drop(link: Link, why: str) -> None:
        """A message was dropped."""


@define(eq=False)
class Link:
    """One connection of a device, from its opening to its end.

    :ivar since: when it was opened, in seconds since the epoch.
    :ivar live: the store knows of it, and orders may be sent.
    :ivar epoch: tells it from the device's other connections; the newest has the greatest.
    :ivar echoes: the device has sent a ``req_id`` back.
    :ivar behind: when it connected, there was something to send.
    :ivar asking: requests of its own that have not been answered.
    :ivar late: what was not answered in time, by ``req_id``: the answer may still come.
    """

    identity: Identity
    address: str
    since: float
    transport: Any  # IDeviceTransport
    hub: Any  # IHub
    epoch: int = 0
    echoes: bool = False
    behind: bool = False
    live: bool = False
    gone: bool = False
    pending: PendingRequests = field(init=False)
    late: OrderedDict[str, Any] = field(factory=OrderedDict, init=False)
    _calls: deque[_Call] = field(factory=deque, init=False)
    _called: dict[str, float] = field(factory=dict, init=False)
    asking: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.pending = PendingRequests(self.hub.clock, self._freed)

    @property
    def dev_unid(self) -> str:
        """The device's id."""
        return self.identity.unid

    @property
    def account(self) -> str:
        """Whose connection it is."""
        return self.identity.unid

    @property
    def writable(self) -> bool:
        """Whether the device has taken all that was sent."""
        return bool(self.transport.writable)

    def room(self) -> int:
        """Return how many more messages may be outstanding (§6): one in all for a device that has never echoed."""
        if not self.live or not self.transport.writable:
            return 0
        window = self.hub.window if self.echoes else 1
        return max(0, window - len(self.pending))

    def request(self, req_id: str, parts: Sequence[bytes], timeout: float) -> Deferred[wire.DeviceAnswer]:
        """Send a request.

        :param parts: what the message consists of.
        :param timeout: seconds, from now.
        :returns: fires with the answer; fails with ``NoAnswer`` or ``ConnectionGone``.
        """
        answer = self.pending.expect(req_id, timeout)
        failpoints.reach("before send")
        self.transport.send(*parts)
        return answer

    def call(self, command: str, params: Any, timeout: float, asker: Any) -> Deferred[wire.DeviceAnswer]:
        """Pass a ``devices/call`` through, in its turn; see :meth:`devconf.devices.hub.Hub.call`."""
        if len(self._calls) >= CALLS_WAITING:
            raise CommandFailed(Ecode.TOO_MANY, "too many calls wait for this device; try again later")
        req_id = self.hub.next_req_id()
        call = _Call(req_id, wire.encode_request(req_id, command, params), self.hub.clock.seconds() + timeout)
        if self.room():
            self._send_call(call)
        elif asker.gone:
            raise Withdrawn
        else:
            self._line_up(call, timeout, asker)
        return call.answer

    def _line_up(self, call: _Call, timeout: float, asker: Any) -> None:
        timer = call.timer = self.hub.clock.callLater(timeout, self._give_up, call)
        self._calls.append(call)

        def leave() -> None:
            if call in self._calls:  # else the device was asked
                self._calls.remove(call)
                timer.cancel()
                call.answer.errback(Withdrawn())

        def over(result: Any) -> Any:
            asker.ignore(leave)
            return result

        asker.observe(leave)
        call.answer.addBoth(over)

    def _give_up(self, call: _Call) -> None:
        self._calls.remove(call)
        self._has_no_turn(call)

    def _has_no_turn(self, call: _Call) -> None:
        why = f"the device {self.dev_unid} had others to answer until the time was over; this was not sent to it"
        call.answer.errback(CommandFailed(Ecode.SILENT, why))

    def _send_call(self, call: _Call) -> None:
        if call.timer is not None:
            call.timer.cancel()
        left = call.deadline - self.hub.clock.seconds()
        if left <= 0:  # its timer has yet to have its turn
            self._has_no_turn(call)
            return
        self._called[call.req_id] = self.hub.clock.seconds()
        answer = self.request(call.req_id, [call.payload], left)
        answer.addErrback(self._unanswered)
        answer.addBoth(self._call_is_over, call.req_id).chainDeferred(call.answer)

    def _call_is_over(self, result: Any, req_id: str) -> Any:
        del self._called[req_id]
        return result

    def called_since(self, when: float) -> bool:
        """Tell whether a call was sent at ``when`` or later, and has not been answered."""
        return any(at >= when for at in self._called.values())

    def _unanswered(self, failure: Failure) -> Failure:
        if failure.check(NoAnswer):
            self.mute()
        return failure

    def mute(self) -> None:
        """A request was not answered: the next answer of a device that does not echo could not be told apart."""
        if not self.echoes:
            self.transport.close(sessions.UNANSWERED, "no answer in time, and answers carry no req_id")

    def remember(self, req_id: str, order: Any) -> None:
        """Let the answer to ``req_id``, should it still come, be given to the delivery with ``order``."""
        self.late[req_id] = order
        if len(self.late) > LATE:
            self.late.popitem(last=False)

    def _freed(self) -> None:
        while self._calls and self.room():
            self._send_call(self._calls.popleft())
        if self.live and self.room():
            self.hub.has_room(self)

    def drained(self) -> None:
        """The device has read what was sent."""
        self.hub.drained(self)
        self._freed()

    def received(self, payload: bytes) -> bool:
        """Take a message of the device (§6); tell whether it was of any use."""
        if self.gone:
            return False
        try:
            message = wire.decode_object(payload)
        except CommandFailed as failure:
            self.reply({}, {"ecode": failure.ecode, "enote": failure.enote})
            return False
        req_id = self._answered_id(message)
        if wire.is_answer(message, req_id is not None):
            return self._answer(req_id, message)
        return bool(self.hub.asked(self, message))

    def _answered_id(self, message: dict[str, Any]) -> str | None:
        """Return the outstanding ``req_id`` that ``message`` answers; old devices echo only ``src_page``."""
        for field_name in ("req_id", "src_page"):
            value = message.get(field_name)
            if isinstance(value, str) and (value in self.pending or value in self.late):
                return value
        return None

    def _answer(self, req_id: str | None, message: dict[str, Any]) -> bool:
        answer = wire.answer_of(message)
        if req_id is not None:
            if not self.echoes:
                self.echoes = True
                self.hub.learn_echo(self)
        elif not self.echoes and "req_id" not in message and "src_page" not in message:
            # One that has never echoed has one message outstanding, and this is taken for its answer.
            req_id = self.pending.oldest()
        if req_id is None:
            self.hub.drop(self, "it answers nothing that was asked")
            return False
        if req_id in self.late:
            self.hub.answered_late(self, self.late.pop(req_id), answer)
        else:
            self.pending.fire(req_id, answer)
        return True

    def reply(self, echoed: dict[str, Any], payload: dict[str, Any]) -> None:
        """Answer a request of the device."""
        self.transport.send(wire.encode_response(echoed, payload))

    def end(self) -> None:
        """The connection no longer counts."""
        self.gone = True
        self.live = False
        self.late.clear()
        while self._calls:
            call = self._calls.popleft()
            if call.timer is not None:
                call.timer.cancel()
            why = f"the device {self.dev_unid} was lost before this was sent to it"
            call.answer.errback(CommandFailed(Ecode.OFFLINE, why))
        self.pending.close()


@define(eq=False)
class _Call:
    req_id: str
    payload: bytes
    deadline: float
    answer: Deferred[wire.DeviceAnswer] = field(factory=Deferred)
    timer: IDelayedCall | None = None
