"""Whether devices hold what they should, and if not, why.

A device may differ while the server says that it is pending or has refused, and while it has just begun with nothing.
Whatever else differs is unexplained: that is what a simulation is there to find.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum

from attrs import field, frozen

from devconf.device import Key
from devconf.simulator.application import Held
from devconf.simulator.fleet import SimulatedDevice, Status
from devconf.simulator.plan import Kind
from devconf.simulator.wanted import Want, Wanted


class Why(Enum):
    """Why a device may differ; the value is a heading. The worst comes first."""

    REFUSED = "refused"
    PENDING = "pending"
    CHANGING = "changing"
    MISBEHAVING = "misbehaving"
    NOT_IN = "not in"


@frozen
class Finding:
    """That a device differs.

    :ivar key: the task or subtask; None: it is something about the device.
    :ivar what: in which way, for people.
    :ivar why: what explains it; None: nothing does.
    :ivar revs: what it has and what the server has, to tell whether it is the same finding later.
    """

    dev_refid: str
    key: Key | None
    what: str
    why: Why | None
    revs: tuple[int | None, int | None] = (None, None)

    @property
    def same(self) -> object:
        """Equal for the same finding in two readings."""
        return self.dev_refid, self.key, self.revs


@frozen
class Comparison:
    """What one reading has shown.

    :ivar compared: how many tasks and subtasks of devices there are, held or wanted.
    """

    findings: list[Finding]
    compared: int

    @property
    def unexplained(self) -> list[Finding]:
        """The findings that nothing explains."""
        return [finding for finding in self.findings if finding.why is None]


def compare(
    devices: Iterable[SimulatedDevice],
    dev_unids: Mapping[str, str],
    wanted: Mapping[str, Wanted],
    running: Iterable[str] = (),
    *,
    settled: bool = False,
) -> Comparison:
    """Compare what ``devices`` hold with what they should.

    :param dev_unids: the ``dev_unid`` of each ``dev_refid``.
    :param wanted: what the server says, by ``dev_unid``.
    :param running: the tasks that a command is just changing.
    :param settled: nothing has been going on for a while: devices have to be in, and pending explains nothing.
    """
    findings: list[Finding] = []
    compared = 0
    changing = set(running)
    for device in devices:
        said = wanted.get(dev_unids[device.dev_refid])
        if said is None:
            findings.append(Finding(device.dev_refid, None, "the server does not know it", None))
            continue
        compared += len(said.tasks.keys() | device.application.tasks.keys())
        findings += _presence(device, said, settled)
        findings += _Reasons(device, said, changing, settled).findings()
    return Comparison(findings, compared)


def _presence(device: SimulatedDevice, said: Wanted, settled: bool) -> list[Finding]:
    if device.status is not Status.IN:
        never = device.blank and device.trouble and device.plan.kind is not Kind.FORGETTING
        why = None if settled or never else Why.MISBEHAVING if device.misbehaving else Why.NOT_IN
        return [Finding(device.dev_refid, None, device.trouble or f"it is {device.status.value}", why)]
    if settled and not said.online:
        return [Finding(device.dev_refid, None, "it is connected, and the server says that it is offline", None)]
    return []


class _Reasons:
    """Finds what differs on one device, and what explains it.

    Of a picture task the server tells the worst state of all its devices, and of a device how many of its orders are
    pending and refused: so no more differences are explained by these than there are orders.
    """

    def __init__(self, device: SimulatedDevice, said: Wanted, changing: set[str], settled: bool) -> None:
        self._device = device
        self._said = said
        self._changing = changing
        self._settled = settled and device.status is Status.IN
        states = Counter(want.state for (_, subtask_id), want in said.tasks.items() if subtask_id is not None)
        self._pending = said.pending - states["pending"]
        self._refused = said.refused - states["refused"]

    def findings(self) -> list[Finding]:
        held = self._device.application.tasks
        found = []
        for key, want in self._said.tasks.items():
            has = held.get(key)
            if what := difference(has, want.content):
                revs = (None if has is None else has.rev, want.content.rev)
                found.append(Finding(self._device.dev_refid, key, what, self._why(key, want), revs))
        for key in held.keys() - self._said.tasks.keys():
            what = f"it holds {held[key].name!r}, which it should not have"
            found.append(Finding(self._device.dev_refid, key, what, self._why(key, None), (held[key].rev, None)))
        return found

    def _why(self, key: Key, want: Want | None) -> Why | None:
        why = self._state(key, want)
        if why is None and self._device.blank:
            return Why.MISBEHAVING if self._device.plan.kind is Kind.FORGETTING else Why.NOT_IN
        if why is None and key[0] in self._changing:
            why = Why.CHANGING
        return None if self._settled and why in (Why.PENDING, Why.CHANGING) else why

    def _state(self, key: Key, want: Want | None) -> Why | None:
        """Return what the server's states explain."""
        if want is not None and key[1] is not None:
            return {"pending": Why.PENDING, "refused": Why.REFUSED}.get(want.state)
        if self._pending > 0 and (want is None or want.state != "confirmed"):
            self._pending -= 1
            return Why.PENDING
        if want is None:
            # A delete that was forced ends with whatever the device says.
            return Why.REFUSED if key in self._device.application.refused else None
        if self._refused > 0 and want.state == "refused":
            self._refused -= 1
            return Why.REFUSED
        return None


def difference(held: Held | None, wanted: Held) -> str:
    """Return in which way ``held`` is not as ``wanted``, for people; nothing if it is."""
    if held is None:
        return f"it lacks {wanted.name!r}"
    parts = []
    for name in ("task_type", "name", "algo_comb"):
        has, should = getattr(held, name), getattr(wanted, name)
        if has != should:
            parts.append(f"{name} is {_short(has)}, and should be {_short(should)}")
    # These may have secrets in them.
    parts += [f"{name} differs" for name in ("store_conf", "vchan") if getattr(held, name) != getattr(wanted, name)]
    return f"of {wanted.name!r} " + "; ".join(parts) if parts else ""


def _short(text: str | None) -> str:
    return "nothing" if text is None else text if len(text) <= 200 else f"{text[:200]}..."


@frozen
class Row:
    """The devices of one kind.

    :ivar exact: how many hold exactly what they should.
    :ivar explained: how many differ, by what explains it; of several reasons the first in :class:`Why` counts.
    :ivar unexplained: how many differ, and nothing explains it.
    """

    kind: Kind
    devices: int
    connected: int
    exact: int
    explained: Counter[Why] = field(factory=Counter)
    unexplained: int = 0


def rows(devices: Iterable[SimulatedDevice], comparison: Comparison) -> list[Row]:
    """Return what ``comparison`` has shown, for each kind of which there are devices."""
    by_kind: dict[Kind, list[SimulatedDevice]] = {kind: [] for kind in Kind}
    for device in devices:
        by_kind[device.plan.kind].append(device)
    worst: dict[str, Why | None] = {}
    order = [None, *Why]
    for finding in comparison.findings:
        known = worst.get(finding.dev_refid, finding.why)
        worst[finding.dev_refid] = min(known, finding.why, key=order.index)
    made = []
    for kind, mine in by_kind.items():
        whys = [worst[device.dev_refid] for device in mine if device.dev_refid in worst]
        connected = sum(device.status is Status.IN for device in mine)
        explained = Counter(why for why in whys if why is not None)
        if mine:
            made.append(Row(kind, len(mine), connected, len(mine) - len(whys), explained, whys.count(None)))
    return made
