"""Deliberate faults in what clients are told, and in what is no more than a little late or a little too little."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from attrs import evolve

from devconf.commands import keys as asking_again
from devconf.commands import settle as settling
from devconf.commands import tasks
from devconf.commands.machine import Machine
from devconf.devices import bulk
from devconf.devices.delivery import Delivery
from devconf.errors import Ecode
from devconf.model import State
from devconf.sessions import Sessions
from devconf.store import answers
from tests.simulation.faults.fault import fault
from tests.simulation.host import replaced


def _ends(stack: ExitStack, rule: str, ends: Any) -> None:
    """Let a rule end otherwise: ``ends`` is given what it has decided, and the case."""
    decide = settling._RULES[rule]
    stack.enter_context(replaced(settling, "_RULES", {**settling._RULES, rule: lambda case: ends(decide(case), case)}))


@fault("ok though not delivered", "I3", required=False)
def _ok_though_not_delivered(stack: ExitStack) -> None:
    """``put store_confs`` is answered 0 whoever has got it."""
    _ends(stack, "put_store_conf", lambda settled, _case: evolve(settled, ecode=Ecode.OK))


@fault("miscounted", "I3", required=False)
def _miscounted(stack: ExitStack) -> None:
    """``put store_confs`` tells of one delivery more than there were, unless there were all."""

    def more(settled: Any, _case: Any) -> Any:
        short = settled.payload["delivered"] < settled.payload["total"]
        return evolve(settled, payload={**settled.payload, "delivered": settled.payload["delivered"] + short})

    _ends(stack, "put_store_conf", more)


@fault("deleted with a silent device", "I3", required=False)
def _deleted_with_a_silent_device(stack: ExitStack) -> None:
    """To a deletion, no answer is as good as a yes."""
    worst = settling._Case.worst

    def kinder(self: Any) -> Ecode:
        ecode = worst(self)
        return Ecode.OK if ecode is Ecode.SILENT and self.row.rule in ("delete_task", "delete_subtask") else ecode

    stack.enter_context(replaced(settling._Case, "worst", kinder))


@fault("silent before refused", "I3", required=False)
def _silent_before_refused(stack: ExitStack) -> None:
    """Of several kinds of failure the wrong one is told."""
    worst = settling._Case.worst

    def other(self: Any) -> Ecode:
        silent = any(seen.answer.ecode == Ecode.SILENT for seen in self.seen.values())
        return Ecode.SILENT if silent else worst(self)

    stack.enter_context(replaced(settling._Case, "worst", other))


@fault("undone by silence", "I3", required=False)
def _undone_by_silence(stack: ExitStack) -> None:
    """A silent device is taken to have refused what is only stored and sent."""
    worst = settling._Case.worst

    def stricter(self: Any) -> Ecode:
        pending = any(seen.answer.state is State.PENDING for seen in self.seen.values())
        return Ecode.REFUSED if pending and self.row.rule == "post_task" else worst(self)

    stack.enter_context(replaced(settling._Case, "worst", stricter))


@fault("a key for anything", "I3", required=False)
def _key_for_anything(stack: ExitStack) -> None:
    """Whatever is asked with a key that was used gets the answer to what was asked before."""
    stack.enter_context(replaced(asking_again, "_check", lambda _key, _fingerprint: None))


@fault("planned though offline", "I9", required=False)
def _planned_though_offline(stack: ExitStack) -> None:
    """Devices hear of what can only fail, since one of them is offline."""
    stack.enter_context(replaced(tasks, "check_online", lambda *_: None))


@fault("disabled and connected", "I3", required=False)
def _disabled_and_connected(stack: ExitStack) -> None:
    """A device that is disabled stays connected."""
    end = Sessions.end

    def end_others(self: Sessions, unid: str, reason: str, family: str | None = None) -> None:
        if "disabled" not in reason:
            end(self, unid, reason, family)

    stack.enter_context(replaced(Sessions, "end", end_others))


@fault("late answers dropped", "I7", required=False)
def _late_answers_dropped(stack: ExitStack) -> None:
    """What comes after the deadline is not written: the device is only sent the same again."""
    stack.enter_context(replaced(Delivery, "answered_late", lambda *_: None))


@fault("what only the device knows is left there", "I7", required=False)
def _unknown_left(stack: ExitStack) -> None:
    """A device that registers with what the server does not know of is not told to delete it."""
    stack.enter_context(replaced(answers, "MAX_UNKNOWN", 0))


@fault("completed and not told", "I3", required=False)
def _completed_not_told(stack: ExitStack) -> None:
    """That a settling completes an older command is not told."""
    stack.enter_context(replaced(Machine, "_tell_completed", lambda *_: None))


@fault("large messages never sent", "I4", "I7", required=False)
def _large_never_sent(stack: ExitStack) -> None:
    """A large message waits for a turn that does not come."""
    admits = bulk.Bulk.admits

    def small_only(self: Any, key: Any, parts: Any) -> bool:
        return sum(map(len, parts)) <= bulk.LARGE and admits(self, key, parts)

    stack.enter_context(replaced(bulk.Bulk, "admits", small_only))
