"""Plan → deliver → settle: how every command runs that changes what devices should have (``docs/design.md``).

client -> plan (one transaction) -> deliver (watch the orders) -> settle (one transaction) -> client
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import define, field, frozen
from msgspec import UNSET
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from devconf import failpoints
from devconf.clock import Now, Random
from devconf.commands.arrivals import Arrivals, Concerned
from devconf.commands.locks import Locks
from devconf.commands.registry import Call
from devconf.commands.schemas import optional
from devconf.commands.settle import Settled, entry, payload_of, settle
from devconf.devices.delivery import Delivery
from devconf.devices.hub import Hub
from devconf.devices.watch import Seen
from devconf.errors import CommandFailed, Ecode
from devconf.events import Events
from devconf.model import OFFLINE, OrderKey
from devconf.store import Store, awaited, complain, journal, keys
from devconf.store.keys import Key

#: Seconds until a settle that failed is tried again, with its lock held.
SETTLE_AGAIN = 1.0


@frozen
class Plan:
    """What a plan has found and written.

    :ivar rule: how it is settled; empty: it is done already (a forced delete), and devices are told in passing.
    :ivar targets: each order that the command is about, and the rev that has to be answered.
    :ivar rows_before: their rows as they were before the plan, to undo it.
    :ivar before: what else is needed to undo it.
    :ivar algo_comb: what a picture task's devices are to get while the task still has the old one.
    :ivar payload: of the response.
    :ivar ids: of what the plan has made, for the history.
    :ivar erases: what it has replaced has to vanish from the disk, whatever devices say.
    """

    rule: str
    targets: dict[OrderKey, int] = field(factory=dict)
    rows_before: dict[OrderKey, dict[str, Any] | None] = field(factory=dict)
    before: dict[str, Any] = field(factory=dict)
    algo_comb: list[Any] | None = None
    payload: dict[str, Any] = field(factory=dict)
    ids: dict[str, str] = field(factory=dict)
    erases: bool = False


#: Checks a request against what is stored, and writes the intent. Raises ``CommandFailed``.
Planner = Callable[[Connection, float], Plan]

_IDS = ("task_id", "subtask_id", "unid", "dev_unid")


def _empty(_result: Any) -> dict[str, Any]:
    return {}


@define
class Machine:
    """Runs commands."""

    _log = Logger()

    clock: IReactorTime
    now: Now
    random: Random
    store: Store
    events: Events
    hub: Hub
    delivery: Delivery
    locks: Locks
    arrivals: Arrivals
    _stopped: bool = field(default=False, init=False)
    _pauses: dict[Deferred[None], None] = field(factory=dict, init=False)

    async def run(
        self, call: Call, lock: str, planner: Planner, told: dict[str, Any], concerned: Concerned
    ) -> dict[str, Any]:
        """Run a command.

        :param lock: the name of what it changes.
        :param told: its params as the history keeps them, without secrets.
        :param concerned: the devices that are waited for, if it says so.
        :returns: the payload of its response.
        :raises CommandFailed: as the plan, or the settling, says.
        """
        await self.wait_for_devices(call, concerned)
        release = await self.locks.acquire(lock, call.asker)
        try:
            return await self._run(call, planner, told)
        finally:
            release()

    async def wait_for_devices(self, call: Call, concerned: Concerned) -> None:
        """Wait for the devices that ``call`` concerns, if it has a ``connect_wait``.

        :raises CommandFailed: as :meth:`Arrivals.wait`.
        """
        seconds = optional(call.params.connect_wait)
        if seconds:
            await self.arrivals.wait(seconds, call.asker, concerned)

    async def _run(self, call: Call, planner: Planner, told: dict[str, Any]) -> dict[str, Any]:
        command_id = self.random.identifier()
        named = {"command_id": command_id}
        header, planned_at = self.header(command_id, call, told), self.now()
        try:
            plan, completed = await self.store.run(_plan, planner, planned_at, header, call.key)
        except CommandFailed as failure:
            failure.payload = {**named, **failure.payload}
            raise
        failpoints.reach("after plan")
        if plan.erases:
            self.store.scrub()
        if not plan.rule:
            self.delivery.nudge(plan.targets)
            self.tell({**header, **plan.ids}, planned_at, planned_at, Ecode.OK, "ok")
            self._tell_completed(completed)
            return {**named, **plan.payload}
        seen = await self.delivery.watch(plan.targets, call.progress)
        failpoints.reach("before settle")
        settled, settled_at = await self._settle(command_id, seen)
        failpoints.reach("after settle")
        self.delivery.release(plan.targets, settled.changed)
        self.tell({**header, **plan.ids}, planned_at, settled_at, settled.ecode, settled.enote)
        self._tell_completed(settled.completed)
        payload = payload_of(command_id, plan.rule, plan.payload, settled)
        if settled.ecode:
            raise CommandFailed(settled.ecode, settled.enote, **payload)
        return payload

    async def _settle(self, command_id: str, seen: dict[OrderKey, Seen]) -> tuple[Settled, float]:
        while True:
            now = self.now()
            try:
                settled = await self.store.run(settle, command_id, now, seen)
            except Exception:
                complain(self._log, Failure(), "a command could not be settled; trying again")
                if self._stopped:
                    raise CommandFailed(
                        Ecode.STOPPING, "the server stops; this is settled when it starts again"
                    ) from None
                await self._pause()
            else:
                if settled is None:
                    raise RuntimeError(f"command {command_id} has been settled by somebody else")
                return settled, now

    async def _pause(self) -> None:
        pause: Deferred[None] = deferLater(self.clock, SETTLE_AGAIN)
        self._pauses[pause] = None
        with suppress(CancelledError):
            await pause
        self._pauses.pop(pause, None)

    def stop(self) -> None:
        """Try to settle once more what could not be settled, and no longer: the store is about to be closed."""
        self._stopped = True
        for pause in list(self._pauses):
            pause.cancel()

    def header(self, command_id: str, call: Call, told: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of the history that say who asked for what."""
        waited = optional(getattr(call.params, "connect_wait", UNSET))
        return {
            "command_id": command_id,
            "command": call.command,
            "user_unid": call.identity.unid,
            "user_name": call.identity.name,
            "params": told if waited is None else {**told, "connect_wait": waited},
            **{name: told.get(name) for name in _IDS},
        }

    async def record(
        self,
        call: Call,
        told: dict[str, Any],
        function: Callable[[Connection, float], Any],
        payload: Callable[[Any], dict[str, Any]] = _empty,
    ) -> Any:
        """Run a command that no device has to hear of, as one transaction together with its line in the history.

        :param payload: makes that of its response, of what ``function`` returns.
        :returns: what ``function`` returns.
        :raises CommandFailed: as it raised.
        """
        header, now = self.header(self.random.identifier(), call, told), self.now()
        result = await self.store.run(_recorded, function, now, header, call.key, payload)
        self.tell(header, now, now, Ecode.OK, "ok")
        return result

    def tell(self, header: dict[str, Any], planned_at: float, settled_at: float, ecode: Ecode, enote: str) -> None:
        """Tell those who subscribed to ``commands`` that one is over."""
        outcome = {"planned_at": planned_at, "settled_at": settled_at, "ecode": int(ecode), "enote": enote}
        item = journal.item({**header, **outcome})
        self.events.publish("commands", journal.event(item), owner=header["user_unid"])

    def _tell_completed(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            self.events.publish("commands", journal.event(item), owner=item["user_unid"])

    async def recover(self, ended: Callable[[], bool]) -> int:
        """Settle what a crash has left planned.

        :param ended: whether the service has been told to stop; then what is left is for its next start.
        :returns: how many commands were settled.
        """
        settled = 0
        for command_id in await self.store.run(journal.unsettled):
            if ended():
                break
            await self.store.run(settle, command_id, self.now(), None)
            settled += 1
        return settled


def _plan(
    connection: Connection, planner: Planner, now: float, header: dict[str, Any], key: Key | None
) -> tuple[Plan, list[dict[str, Any]]]:
    """Write a plan; return it, and the commands that are completed by one that is settled at once."""
    plan = planner(connection, now)
    targets = [[*key, rev, plan.rows_before.get(key)] for key, rev in plan.targets.items()]
    journal.begin(
        connection,
        now,
        **{**header, **plan.ids},
        rule=plan.rule,
        plan={"targets": targets, "before": plan.before, **_to_answer(plan, key)},
        algo_comb=plan.algo_comb,
    )
    if key is not None:
        keys.begin(connection, key, now)
    if plan.rule:
        return plan, []
    journal.settle(connection, header["command_id"], now, Ecode.OK, "ok", None)
    _keep_answer(connection, key, {"command_id": header["command_id"], **plan.payload})
    return plan, awaited.settled(connection, {**header, **plan.ids}["task_id"], [], now)


def _to_answer(plan: Plan, key: Key | None) -> dict[str, Any]:
    """What settling needs to write the answer of a request that has a key."""
    return {} if key is None else {"asked": {"digest": key.digest, "named": key.named, "payload": plan.payload}}


def _keep_answer(connection: Connection, key: Key | None, payload: dict[str, Any]) -> None:
    if key is not None:
        ok = {"ecode": int(Ecode.OK), "enote": "ok", **key.named, **payload}
        keys.answer(connection, key.user_unid, key.digest, ok)


def _recorded(
    connection: Connection,
    function: Callable[[Connection, float], Any],
    now: float,
    header: dict[str, Any],
    key: Key | None,
    payload: Callable[[Any], dict[str, Any]],
) -> Any:
    if key is not None:  # first: it may be the account itself that goes, and its keys with it
        keys.begin(connection, key, now)
    result = function(connection, now)
    _keep_answer(connection, key, payload(result))
    journal.done(connection, [{**header, "planned_at": now, "settled_at": now, "ecode": 0, "enote": "ok"}])
    return result


def check_online(keys: list[OrderKey], hub: Hub) -> None:
    """Refuse a plan one of whose devices is offline now: no device hears of it (§4).

    :raises CommandFailed: ``OFFLINE``, with those devices.
    """
    offline = [key for key in keys if key.dev_unid not in hub]
    if offline:
        raise CommandFailed(
            Ecode.OFFLINE,
            f"{len(offline)} of {len(keys)} devices are offline ({', '.join(key.dev_unid for key in offline[:3])}); "
            "nothing was changed: try again when they are back, or use force",
            devices=[entry(key, OFFLINE) for key in offline],
        )
