"""Simulated devices at a server process: each way to misbehave, what operators see of it, and that all comes right."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from attrs import evolve, frozen
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from devconf.client import Client, RequestFailed
from devconf.errors import Ecode
from devconf.simulator.fleet import SimulatedDevice, Simulator, Status
from devconf.simulator.judge import Judge, Report
from devconf.simulator.keys import DeviceKey, enrol
from devconf.simulator.plan import Kind, Manners, plan
from devconf.simulator.verdict import Why
from tests.cli_kit import Place, operator, serving

#: Seconds that all is given to come to rest.
SETTLE = 60.0

pytestmark = pytest.mark.limit(120)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server whose commands wait a second for a device."""
    with serving(tmp_path_factory.mktemp("server")) as place:
        yield place


@frozen
class Fleet:
    """Four devices of a kind that behave well as yet, and have the picture task ``task_id`` with a file.

    :ivar told: what the simulator has reported.
    """

    client: Client
    simulator: Simulator
    judge: Judge
    told: list[tuple[str, str]]
    dev_unids: list[str]
    task_id: str
    unid: str

    @property
    def devices(self) -> list[SimulatedDevice]:
        return list(self.simulator.devices.values())

    def misbehave(self) -> None:
        for device in self.devices:
            self.simulator.misbehave(device)
            assert device.misbehaving

    async def configure(self, algo_id: str, force: bool) -> Any:
        """The response to another ``algo_comb``, be it an error."""
        params = {"task_id": self.task_id, "algo_comb": [{"algo_id": algo_id}], "force": force}
        try:
            return await self.client.request("post tasks/pic_task_config", params)
        except RequestFailed as failure:
            return failure.response

    async def until(self, what: str, count: int = 4) -> None:
        """Wait until so many devices have reported ``what`` since this was last asked."""
        from twisted.internet import reactor

        while sum(told == what for _, told in self.told) < count:
            await deferLater(reactor, 0.02)
        self.told.clear()

    def held(self, of: str) -> list[Any]:
        """A part of what each of the devices holds of the task."""
        return [getattr(device.application.tasks.get((self.task_id, None)), of, None) for device in self.devices]

    async def settle(self) -> Report:
        """All has come to rest, and all devices hold exactly what they should."""
        report = await self.judge.settle(SETTLE)
        assert (report.ok, report.settled, report.connected) == (True, True, 4), report
        assert [row.exact for row in report.rows] == [4], report
        assert len(set(self.held("algo_comb"))) == 1
        return report


def explained(report: Report) -> dict[Why, int]:
    assert report.ok, report
    (row,) = report.rows
    return dict(row.explained)


def names(prefix: str, manners: Manners) -> list[str]:
    """Two that take what they do not answer and two that do not, none of which misbehaves soon by itself."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for number in range(1000):
        its = plan(1, name := f"{prefix}-{number}", manners)
        if its.first > 150 and its.lasting > 100:
            found[its.takes].append(name)
    return found[True][:2] + found[False][:2]


@asynccontextmanager
async def fleet(place: Place, kind: Kind, prefix: str = "") -> AsyncIterator[Fleet]:
    from twisted.internet import reactor

    manners = Manners({} if kind is Kind.WELL else {kind: 1.0}, every=400.0, late_by=2.0)
    async with operator(place) as client:
        keys: list[DeviceKey] = []
        await enrol(client.request, names(prefix or kind.value, manners), keys.append)
        keys.sort(key=lambda key: key.dev_refid)
        told: list[tuple[str, str]] = []
        simulator = Simulator(
            reactor,
            place.url,
            [(key.dev_refid, key.dev_key) for key in keys],
            manners=manners,
            seed=1,
            report=lambda dev_refid, what: told.append((dev_refid, what)),
        )
        dev_unids = {key.dev_refid: key.dev_unid for key in keys}
        conf = await client.request("post store_confs", file(kind.value, "<first/>"))
        params = {"name": kind.value, "task_type": "pic", "algo_comb": [{"algo_id": "first"}]}
        params |= {"dev_unids": list(dev_unids.values()), "store_conf_unid": conf["unid"]}
        task = await client.request("post tasks", params)
        judge = Judge(reactor, simulator, client.request, dev_unids)
        simulator.start()
        try:
            while (await judge.report()).rows[0].exact != 4:
                await deferLater(reactor, 0.05)
            told.clear()
            yield Fleet(client, simulator, judge, told, list(dev_unids.values()), task["task_id"], conf["unid"])
        finally:
            await simulator.stop()


def file(name: str, content: str) -> dict[str, str]:
    return {"name": name, "file_ext": "xml", "file_b64": b64encode(content.encode()).decode()}


def states(response: Any) -> list[tuple[str, int]]:
    return [(device["state"], device["ecode"]) for device in response["devices"]]


async def test_refusing(place: Place) -> None:
    async with fleet(place, Kind.REFUSING) as refusing:
        refusing.misbehave()
        response = await refusing.configure("second", force=False)
        assert response["ecode"] == Ecode.REFUSED
        its = [device.plan.ecode for device in refusing.devices]
        assert sorted(ecode for _, ecode in states(response)) == sorted(its)
        assert explained(await refusing.judge.report()) == {}

        response = await refusing.configure("third", force=True)
        assert response["ecode"] == 0
        assert explained(await refusing.judge.report()) == {Why.REFUSED: 4}
        report = await refusing.judge.settle(SETTLE)
        assert (report.settled, explained(report)) == (True, {Why.REFUSED: 4})
        for dev_unid in refusing.dev_unids:
            await refusing.client.request("post devices/resync", {"dev_unid": dev_unid})
        await refusing.settle()


@pytest.mark.parametrize("kind", [Kind.SILENT, Kind.LATE, Kind.HALF_OPEN])
async def test_those_that_do_not_answer_in_time(place: Place, kind: Kind) -> None:
    async with fleet(place, kind) as mute:
        before = mute.held("algo_comb")
        mute.misbehave()
        response = await mute.configure("second", force=True)
        assert (response["ecode"], states(response)) == (0, [("pending", Ecode.SILENT)] * 4)
        took = 0 if kind is Kind.HALF_OPEN else 2
        assert sum(has != had for has, had in zip(mute.held("algo_comb"), before, strict=True)) == took
        if kind is not Kind.LATE:
            assert explained(await mute.judge.report()) == {Why.PENDING: 4 - took}
        await mute.settle()
        assert mute.held("algo_comb") != before

        # And what is undone for them is undone on those that took it.
        now = mute.held("algo_comb")
        assert (await mute.configure("third", force=False))["ecode"] == 0
        assert mute.held("algo_comb") != now


async def test_what_silent_devices_took_is_undone(place: Place) -> None:
    async with fleet(place, Kind.WELL, "hanging") as some:
        hanging = some.devices[0].application
        before = some.held("algo_comb")
        hanging._plan = evolve(hanging._plan, kind=Kind.LATE, takes=True, delay=3.0)
        hanging.misbehaving = True
        assert (await some.configure("second", force=False))["ecode"] == Ecode.SILENT
        await some.settle()
        assert some.held("algo_comb") == before


async def test_double(place: Place) -> None:
    def dropped() -> int:
        return (place.folder / "server.log").read_text("utf-8").count("it answers nothing that was asked")

    async with fleet(place, Kind.DOUBLE) as double:
        before = dropped()
        double.misbehave()
        assert (await double.configure("second", force=False))["ecode"] == 0
        assert (await double.configure("third", force=False))["ecode"] == 0
        assert dropped() - before == 8
        await double.settle()


async def test_dropping(place: Place) -> None:
    async with fleet(place, Kind.DROPPING) as dropping:
        dropping.misbehave()
        await dropping.until("connected")
        response = await dropping.configure("second", force=True)
        assert response["ecode"] == 0
        assert {state for state, _ in states(response)} == {"pending"}
        assert set(explained(await dropping.judge.report())) <= {Why.PENDING, Why.MISBEHAVING}
        await dropping.settle()
        ends = [what for _, what in dropping.told if what.startswith("the connection is closed")]
        assert len(ends) >= 4
        assert all("(1006: " in what for what in ends)


async def test_half_open_devices_come_back_before_the_server_knows_that_they_were_gone(place: Place) -> None:
    async with fleet(place, Kind.HALF_OPEN, "power-cut") as gone:
        listed = await gone.client.request("get devices", {"text": "power-cut", "online": True})
        since = {device["dev_unid"]: device["since"] for device in listed["devices"]}
        gone.misbehave()
        for device in gone.devices:
            gone.simulator.behave(device)
            assert device.plan.linger > 0
        await gone.until("connected")
        listed = await gone.client.request("get devices", {"text": "power-cut", "online": True})
        again = {device["dev_unid"]: device["since"] for device in listed["devices"]}
        assert again.keys() == since.keys()
        assert all(again[dev_unid] > since[dev_unid] for dev_unid in since)
        await gone.settle()


async def test_slow_reading(place: Place) -> None:
    async with fleet(place, Kind.SLOW_READING) as slow:
        slow.misbehave()
        with pytest.raises(RequestFailed) as raised:
            await slow.client.request("put store_confs", {"unid": slow.unid, **file("slow", f"<a>{'x' * 60000}</a>")})
        assert (raised.value.ecode, raised.value.response["delivered"]) == (Ecode.SILENT, 0)
        assert explained(await slow.judge.report()) == {Why.PENDING: 4}
        await slow.settle()
        assert all("60007" in conf for conf in slow.held("store_conf"))


async def test_forgetting(place: Place) -> None:
    async with fleet(place, Kind.FORGETTING) as blank:
        revs = blank.held("rev")
        blank.misbehave()
        await blank.until("connected")
        await blank.settle()
        assert all(now > then for now, then in zip(blank.held("rev"), revs, strict=True))


async def test_a_device_that_holds_something_else_is_found(place: Place) -> None:
    async with fleet(place, Kind.WELL) as liars:
        tasks = liars.devices[1].application.tasks
        key = (liars.task_id, None)
        tasks[key] = evolve(tasks[key], algo_comb="[]")
        report = await liars.judge.report()
        assert (report.ok, report.rows[0].exact, report.rows[0].unexplained) == (False, 3, 1)
        (finding,) = report.unexplained
        assert (finding.dev_refid, finding.key) == (liars.devices[1].dev_refid, key)
        assert finding.what.startswith("of 'well-behaved' algo_comb is [], and should be ")
        del tasks[key]
        report = await liars.judge.settle(0.5)
        assert (report.ok, report.settled) == (False, False)
        assert [finding.what for finding in report.unexplained] == ["it lacks 'well-behaved'"]


async def test_they_come_back_to_a_server_that_was_restarted(tmp_path: Any) -> None:
    from twisted.internet import reactor

    with serving(tmp_path) as place:
        async with operator(place) as client:
            keys: list[DeviceKey] = []
            await enrol(client.request, [f"sim-{number:02}" for number in range(40)], keys.append)
            params = {"name": "all", "task_type": "pic", "algo_comb": [{"algo_id": "face"}]}
            await client.request("post tasks", {**params, "dev_unids": [key.dev_unid for key in keys]})
        simulator = Simulator(reactor, place.url, [(key.dev_refid, key.dev_key) for key in keys])
        simulator.start()
        try:
            while simulator.count()[Status.IN] < 40:
                await deferLater(reactor, 0.05)
            await deferToThread(place.stop)
            while simulator.count()[Status.IN]:
                await deferLater(reactor, 0.05)
            await deferToThread(place.start)
            async with operator(place) as client:
                dev_unids = {key.dev_refid: key.dev_unid for key in keys}
                report = await Judge(reactor, simulator, client.request, dev_unids).settle(SETTLE)
            assert (report.ok, report.connected, report.compared) == (True, 40, 40), report
        finally:
            await simulator.stop()
