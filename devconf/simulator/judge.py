"""Reads what devices should hold, as often as that takes to be sure, and says what has been found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, evolve, frozen
from twisted.internet.task import deferLater

from devconf.simulator.fleet import Simulator, Status
from devconf.simulator.verdict import Comparison, Finding, Row, Why, compare, rows
from devconf.simulator.wanted import Ask, read_running, read_wanted

#: What is unexplained has to be so in as many readings, so many seconds apart: one reading takes a while, and what
#: changes in the midst of it looks wrong.
READINGS = 3
BETWEEN = 1.0
#: Findings that a report has in full.
SHOWN = 100


@frozen
class Report:
    """What has been found.

    :ivar seconds: since the start of the simulation.
    :ivar settled: whether all had come to rest in the time that they were given; None: they were given none.
    :ivar notes: which devices are not in.
    """

    seconds: float
    connected: int
    devices: int
    compared: int
    settled: bool | None
    rows: list[Row]
    unexplained: list[Finding]
    notes: list[Finding]

    @property
    def ok(self) -> bool:
        """The verdict."""
        return not self.unexplained

    def as_json(self) -> dict[str, Any]:
        """Return it as scripts read it."""
        return {
            "verdict": "ok" if self.ok else "unexplained",
            "seconds": round(self.seconds, 1),
            "devices": self.devices,
            "connected": self.connected,
            "compared": self.compared,
            "settled": self.settled,
            "kinds": [
                {
                    "kind": row.kind.value,
                    "devices": row.devices,
                    "connected": row.connected,
                    "exact": row.exact,
                    "explained": {why.value: row.explained[why] for why in Why if row.explained[why]},
                    "unexplained": row.unexplained,
                }
                for row in self.rows
            ],
            "not_in": [{"dev_refid": note.dev_refid, "what": note.what} for note in self.notes[:SHOWN]],
            "unexplained": [_as_json(finding) for finding in self.unexplained[:SHOWN]],
            "unexplained_omitted": max(0, len(self.unexplained) - SHOWN),
        }


def _as_json(finding: Finding) -> dict[str, Any]:
    task_id, subtask_id = finding.key or (None, None)
    return {
        "dev_refid": finding.dev_refid,
        "task_id": task_id,
        "subtask_id": subtask_id,
        "what": finding.what,
    }


@define(eq=False)
class Judge:
    """Compares a fleet with what the server says.

    :ivar _ask: asks the server as an operator.
    :ivar _dev_unids: the ``dev_unid`` of each ``dev_refid``.
    """

    _reactor: Any
    _simulator: Simulator
    _ask: Ask
    _dev_unids: Mapping[str, str]

    async def report(self) -> Report:
        """Return what is found now.

        :raises CannotConnect: the server cannot be asked, and so :class:`Disconnected`, :class:`NoResponse` and
            :class:`RequestFailed`.
        """
        return self._told(await self._sure(settled=False), None)

    async def settle(self, seconds: float) -> Report:
        """Let no device misbehave any longer, wait ``seconds`` at most until all is at rest, and return what is found.

        :raises CannotConnect: and others, as for :meth:`report`.
        """
        self._simulator.calm_down()
        until = self._reactor.seconds() + seconds
        while True:
            began = self._reactor.seconds()
            comparison = await self._look(settled=True)
            now = self._reactor.seconds()
            if not comparison.unexplained:
                return self._told(comparison, True)
            if now >= until:
                return self._told(await self._sure(settled=True), False)
            # No more than a third of the server's time.
            await deferLater(self._reactor, min(until - now, max(0.5, 2 * (now - began))))

    async def _look(self, settled: bool) -> Comparison:
        devices = self._simulator.devices.values()
        wanted = await read_wanted(self._ask, set(self._dev_unids.values()))
        comparison = compare(devices, self._dev_unids, wanted, settled=settled)
        tasks = {finding.key[0] for finding in comparison.unexplained if finding.key is not None}
        if not tasks or settled:
            return comparison
        running = await read_running(self._ask, tasks)
        return compare(devices, self._dev_unids, wanted, running, settled=settled)

    async def _sure(self, settled: bool) -> Comparison:
        """Return what the last of several looks has shown, unexplained only where all have shown the same."""
        comparison = await self._look(settled)
        always = {finding.same for finding in comparison.unexplained}
        for _ in range(READINGS - 1):
            if not always:
                break
            await deferLater(self._reactor, BETWEEN)
            comparison = await self._look(settled)
            always &= {finding.same for finding in comparison.unexplained}
        findings = [
            evolve(finding, why=Why.CHANGING) if finding.why is None and finding.same not in always else finding
            for finding in comparison.findings
        ]
        return evolve(comparison, findings=findings)

    def _told(self, comparison: Comparison, settled: bool | None) -> Report:
        devices = self._simulator.devices.values()
        return Report(
            self._simulator.elapsed,
            self._simulator.count()[Status.IN],
            len(devices),
            comparison.compared,
            settled,
            rows(devices, comparison),
            comparison.unexplained,
            [finding for finding in comparison.findings if finding.why is Why.NOT_IN and finding.key is None],
        )
