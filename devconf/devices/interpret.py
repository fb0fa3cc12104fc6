"""What a device's answer says of the order it answers (``docs/protocol.md`` §6)."""

from __future__ import annotations

from devconf import wire
from devconf.errors import Ecode
from devconf.store.answers import LACKS, MAX_REV, Acknowledgement, Outcome
from devconf.store.outbox import Order

#: A device that says more often than this in a row that its rev is newer is taken to refuse.
STALE_AT_MOST = 3
#: Characters of a device's ``enote`` that are kept.
ENOTE_KEPT = 500


def interpret(
    order: Order, answer: wire.DeviceAnswer, epoch: int, stale: int, *, late: bool = False
) -> Acknowledgement:
    """Return what ``answer`` says of ``order`` (§6).

    :param epoch: of the connection it came on.
    :param stale: how often in a row the device has said already that its rev is newer.
    """
    outcome = Outcome.REFUSED
    device_rev = 0
    if answer.ecode == 0:
        outcome = Outcome.APPLIED
    elif answer.ecode in LACKS:
        outcome = {"modify": Outcome.LACKS, "delete": Outcome.APPLIED}.get(order.kind, Outcome.REFUSED)
    elif answer.ecode == Ecode.STALE_REV and answer.rev is not None and stale < STALE_AT_MOST:
        device_rev = answer.rev
        outcome = Outcome.STALE if order.rev <= device_rev <= MAX_REV else Outcome.REFUSED
    ecode, enote = (answer.ecode, answer.enote[:ENOTE_KEPT]) if outcome is Outcome.REFUSED else (0, "ok")
    return Acknowledgement(order.key, order.rev, epoch, outcome, ecode, enote, device_rev, late)
