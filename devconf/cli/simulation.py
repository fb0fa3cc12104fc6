"""What ``devconf simulate`` does once it knows what is wanted."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from devconf.cli.credentials import Account
from devconf.cli.enrol import KeysFile
from devconf.cli.output import Output, table
from devconf.cli.session import logging_in
from devconf.cli.status import Failed, Status, status_of
from devconf.client import CannotConnect, Client, Disconnected, LastingClient, NoResponse, RequestFailed, connect
from devconf.simulator import fleet
from devconf.simulator.fleet import Simulator
from devconf.simulator.judge import Judge, Report
from devconf.simulator.keys import DeviceKey, KeysFailed, enrol
from devconf.simulator.plan import Manners
from devconf.simulator.verdict import Why
from devconf.simulator.wanted import Ask, read_wanted
from devconf.simulator.work import Work

#: Seconds that the server may take to answer what is asked for a report, and what is given to devices: a command may
#: wait a minute for others.
ANSWER_WITHIN = 150.0
#: Seconds that logging out may take.
LOG_OUT_WITHIN = 5.0
#: Seconds from one look at the time and at signals to the next.
TICK = 0.2
#: Findings that are printed, and devices that are not in.
SHOWN, NOTED = 20, 5

_LOST = (CannotConnect, Disconnected, NoResponse)


@frozen
class Wishes:
    """What the command line says.

    :ivar count: how many devices; None: all that have keys.
    :ivar keys: the file of keys.
    :ivar prefix: how the names of devices begin that are enrolled.
    :ivar commands: how many commands a second the devices are given; None: none.
    :ivar seconds: how long it runs; None: until a signal.
    :ivar settle: for how many seconds it waits at the end until all is at rest; None: it does not.
    :ivar report_every: seconds from one report to the next; None: there is one at the end only.
    """

    count: int | None
    seed: int
    keys: Path
    prefix: str
    new_keys: bool
    manners: Manners
    commands: float | None
    seconds: float | None
    settle: float | None
    report_every: float | None
    at_once: int
    verbose: bool


class Simulation:
    """One run of ``devconf simulate``.

    :param keys: the keys that are there already.
    """

    def __init__(self, reactor: Any, account: Account, out: Output, wishes: Wishes, keys: list[DeviceKey]) -> None:
        self._reactor = reactor
        self._account = account
        self._out = out
        self._wishes = wishes
        self._keys = keys
        self._stopped = False
        self._asked = False

    async def run(self) -> Status:
        """Do all of it, and return how it ended.

        :raises Failed: it could not be done.
        """
        account = self._account
        try:
            # What is wrong shows at once on a connection that does not come back.
            first = await logging_in(account, connect(self._reactor, account.url, account.user, account.password))
            try:
                work = await self._prepare(partial(first.request, timeout=ANSWER_WITHIN))
            finally:
                await _end(self._reactor, first)
            lasting = LastingClient(self._reactor, account.url, account.user, account.password, report=self._heard)
            lasting.start()
            try:
                return await self._simulate(partial(lasting.request, timeout=ANSWER_WITHIN), work)
            finally:
                await _end(self._reactor, lasting)
        except RequestFailed as failure:
            raise Failed(failure, status_of(failure.response)) from None
        except _LOST as failure:
            raise Failed(f"the server cannot be asked: {failure}", Status.NOT_CONNECTED) from None
        except KeysFailed as failure:
            raise Failed(failure) from None

    # -- before anything is dialled

    async def _prepare(self, ask: Ask) -> Work | None:
        """Enrol the devices that have no keys, see whether the server knows the others, and give them something to do.

        Besides, it shows whether the account may read what a report needs.
        """
        await self._enrol(ask)
        known = await read_wanted(ask, {key.dev_unid for key in self._keys})
        unknown = [key.dev_refid for key in self._keys if key.dev_unid not in known]
        if unknown:
            raise Failed(
                f"{self._account.url} does not know {len(unknown)} of the devices in {self._wishes.keys}, such as"
                f" {unknown[0]}; name the file of this server with --keys, or remove these lines",
                Status.USAGE,
            )
        if self._wishes.commands is None:
            return None
        work = Work(self._reactor, ask, [key.dev_unid for key in self._keys], random.Random(self._wishes.seed))
        await work.prepare()
        return work

    async def _enrol(self, ask: Ask) -> None:
        have = {key.dev_refid for key in self._keys}
        count = self._wishes.count or len(have)
        names = (f"{self._wishes.prefix}{number:05}" for number in range(1, count + len(have) + 1))
        missing = [name for name in names if name not in have][: count - len(have)]
        if not missing:
            return
        file = KeysFile(self._wishes.keys, True, self._reactor.seconds)
        try:
            with self._out.progress("devices enrolled") as tell:

                def keep(key: DeviceKey) -> None:
                    file.add(key.dev_refid, key.dev_unid, key.dev_key)
                    self._keys.append(key)
                    tell(len(self._keys) - len(have), len(missing))

                await enrol(ask, missing, keep, new_keys=self._wishes.new_keys)
        finally:
            file.close()
        # In the order of the file, whichever was answered first.
        self._keys.sort(key=lambda key: key.dev_refid)
        self._note(f"{len(missing)} devices are enrolled; their keys are in {file.path}, which only you may read")

    # -- the simulation

    async def _simulate(self, ask: Ask, work: Work | None) -> Status:
        wishes = self._wishes
        simulator = Simulator(
            self._reactor,
            self._account.url,
            [(key.dev_refid, key.dev_key) for key in self._keys],
            manners=wishes.manners,
            seed=wishes.seed,
            at_once=wishes.at_once,
            report=self._tell,
        )
        judge = Judge(self._reactor, simulator, ask, {key.dev_refid: key.dev_unid for key in self._keys})
        with self._signals():
            simulator.start()
            try:
                await self._until_over(simulator, judge, self._start(simulator, ask, work))
                report = await (judge.report() if wishes.settle is None else judge.settle(wishes.settle))
            finally:
                await simulator.stop()
        self._print(report)
        return Status.DONE if report.ok else Status.FAILED

    def _start(self, simulator: Simulator, ask: Ask, work: Work | None) -> Deferred[None] | None:
        """Begin to give commands; what is returned fires when the last was answered."""
        rate = self._wishes.commands
        if work is None or rate is None:
            return None
        work.ask = ask
        return Deferred.fromCoroutine(work.run(rate, lambda: self._is_over(simulator)))

    def _is_over(self, simulator: Simulator) -> bool:
        seconds = self._wishes.seconds
        return self._stopped or (seconds is not None and simulator.elapsed >= seconds)

    async def _until_over(self, simulator: Simulator, judge: Judge, working: Deferred[None] | None) -> None:
        """Report now and then, until the time is over or a signal came."""
        every = self._wishes.report_every
        due = every
        told = False
        with contextlib.ExitStack() as showing:
            tell = showing.enter_context(self._out.progress("devices are in"))
            while not self._is_over(simulator):
                await deferLater(self._reactor, TICK)
                if not told:
                    tell(simulator.count()[fleet.Status.IN], len(self._keys))
                if not told and simulator.all_in_after is not None:
                    told = True
                    showing.close()
                    self._note(f"all {len(self._keys)} devices came in within {simulator.all_in_after:.1f} s")
                if self._asked or (due is not None and simulator.elapsed >= due):
                    self._asked = False
                    await self._report_now(judge)
                    due = None if every is None else simulator.elapsed + every
        if working is not None:
            await working

    async def _report_now(self, judge: Judge) -> None:
        try:
            self._print(await judge.report())
        except _LOST as failure:
            self._note(f"there is no report: {failure}")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let the first Ctrl-C end the simulation, and the second the program, as it did before."""

        def over(number: int, _frame: Any) -> None:
            self._stopped = True
            signal.signal(number, before[number])

        def asked(_number: int, _frame: Any) -> None:
            self._asked = True

        actions: dict[int, Any] = {signal.SIGINT: over, signal.SIGTERM: over, signal.SIGUSR1: asked}
        before: dict[int, Any] = {number: signal.signal(number, action) for number, action in actions.items()}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)

    # -- printing

    def _note(self, what: str) -> None:
        self._out.note(what)

    def _heard(self, what: str) -> None:
        """Take what the operator's connection reports."""
        if self._wishes.verbose:
            self._note(f"the operator: {what}")

    def _tell(self, dev_refid: str, what: str) -> None:
        if self._wishes.verbose:
            self._note(f"{dev_refid} {what}")

    def _print(self, report: Report) -> None:
        if self._out.as_json:
            self._out.document({"seed": self._wishes.seed, **report.as_json()})
            return
        rest = {None: "", True: "; all is at rest", False: "; not all came to rest"}[report.settled]
        self._say(
            f"after {report.seconds:.0f} s, seed {self._wishes.seed}: {report.connected} of {report.devices} devices"
            f" are in; {report.compared} tasks and subtasks of devices compared{rest}"
        )
        whys = [why for why in Why if any(row.explained[why] for row in report.rows)]
        table(
            ["KIND", "DEVICES", "IN", "EXACT", *(why.value.upper() for why in whys), "UNEXPLAINED"],
            [
                [
                    row.kind.value,
                    *(str(number) for number in (row.devices, row.connected, row.exact)),
                    *(str(row.explained[why]) for why in whys),
                    str(row.unexplained),
                ]
                for row in report.rows
            ],
        )
        for note in report.notes[:NOTED]:
            self._say(f"not in: {note.dev_refid}: {note.what}")
        for finding in report.unexplained[:SHOWN]:
            where = "" if finding.key is None else f" (task {finding.key[0]}, subtask {finding.key[1] or '-'})"
            self._say(f"unexplained: {finding.dev_refid}: {finding.what}{where}")
        if len(report.unexplained) > SHOWN:
            self._say(f"and {len(report.unexplained) - SHOWN} more")
        self._say(_verdict(report))

    def _say(self, text: str) -> None:
        self._out.result(None, text)


def _verdict(report: Report) -> str:
    if not report.ok:
        devices = len({finding.dev_refid for finding in report.unexplained})
        return f"verdict: {devices} devices differ from what they should hold, and nothing explains it"
    if not report.compared:
        return "verdict: ok, but no task is bound to these devices: there was nothing to compare (see --commands)"
    return "verdict: ok"


async def _end(reactor: Any, client: Client | LastingClient) -> None:
    """Let the server forget the login, if it can be told soon."""
    with contextlib.suppress(CannotConnect, RequestFailed, defer.TimeoutError):
        await client.log_out().addTimeout(LOG_OUT_WITHIN, reactor)
