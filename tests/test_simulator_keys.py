"""The keys of the devices: read from a file, or told once by a server that enrols them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from devconf.client import RequestFailed
from devconf.simulator.keys import DeviceKey, KeysFailed, enrol, read_keys

success = SynchronousTestCase().successResultOf
failure = SynchronousTestCase().failureResultOf
nothing = SynchronousTestCase().assertNoResult

Json = dict[str, Any]


def test_the_file_of_devices_import() -> None:
    text = 'dev_refid,dev_unid,dev_key\nbox-1,u1,k1\n"box,2", u2 ,k2\n'
    assert read_keys(text, "f.csv") == [DeviceKey("box-1", "u1", "k1"), DeviceKey("box,2", "u2", "k2")]
    assert read_keys("dev_key,dev_name,dev_refid,dev_unid\r\nk,n,r,u\r\n", "f.csv") == [DeviceKey("r", "u", "k")]
    assert read_keys("dev_refid,dev_unid,dev_key\n", "f.csv") == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "f.csv is no file of keys: its first line is not dev_refid,dev_unid,dev_key"),
        ("box-1,u1,k1\n", "f.csv is no file of keys: its first line is not dev_refid,dev_unid,dev_key"),
        ("dev_refid,dev_unid,dev_key\nbox-1,u1\n", "f.csv: line 2 is not dev_refid,dev_unid,dev_key"),
        ("dev_refid,dev_unid,dev_key\nbox-1,u1,k1\nbox-1,u2,k2\n", "f.csv: line 3 has 'box-1' once more"),
        (f"dev_refid,dev_unid,dev_key\nbox-1,u1,{'k' * 200_000}\n", "f.csv: line 1: field larger than field limit"),
    ],
)
def test_a_file_that_is_none(text: str, why: str) -> None:
    with pytest.raises(KeysFailed) as raised:
        read_keys(text, "f.csv")
    assert str(raised.value).startswith(why)


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(DeviceKey("box", "unid", "secret"))


class Server:
    """Enrols devices when it is told to answer."""

    def __init__(self, **enrolled: str) -> None:
        self.enrolled = enrolled
        self.role = "admin"
        self.waiting: list[tuple[Deferred[Json], str, Json]] = []
        self.most = 0

    def ask(self, command: str, params: Json) -> Deferred[Json]:
        answer: Deferred[Json] = Deferred()
        self.waiting.append((answer, command, params))
        self.most = max(self.most, len(self.waiting))
        return answer

    def answer_all(self) -> None:
        while self.waiting:
            answer, command, params = self.waiting.pop(0)
            try:
                answer.callback(getattr(self, command.replace(" ", "_"))(**params))
            except RequestFailed as refusal:
                answer.errback(refusal)

    def post_devices(self, dev_refid: str, dev_name: str, dev_type: str) -> Json:
        assert (dev_name, dev_type) == (f"simulated {dev_refid}", "simulated")
        if self.role != "admin":
            raise RequestFailed({"ecode": 1004030001, "enote": "no"})
        if dev_refid in self.enrolled:
            raise RequestFailed({"ecode": 1004090003, "enote": "there"})
        self.enrolled[dev_refid] = f"u-{dev_refid}"
        return {"dev_unid": f"u-{dev_refid}", "dev_key": f"k-{dev_refid}"}

    def get_devices(self, text: str, limit: int) -> Json:
        found = [(name, unid) for name, unid in self.enrolled.items() if text in name]
        return {"devices": [{"dev_refid": name, "dev_unid": unid} for name, unid in found[:limit]]}

    def put_devices(self, dev_unid: str, new_key: bool) -> Json:
        assert new_key
        return {"dev_key": f"new key of {dev_unid}"}


def enrolling(server: Server, names: list[str], kept: list[DeviceKey], **options: bool) -> Deferred[None]:
    return Deferred.fromCoroutine(enrol(server.ask, names, kept.append, **options))


def test_devices_are_enrolled_several_at_once() -> None:
    server, kept = Server(), list[DeviceKey]()
    names = [f"sim-{number}" for number in range(100)]
    running = enrolling(server, names, kept)
    assert not running.called
    server.answer_all()
    success(running)
    assert kept == [DeviceKey(name, f"u-{name}", f"k-{name}") for name in names]
    assert 1 < server.most <= 16


def test_one_that_is_there_already_stops_it() -> None:
    server, kept = Server(**{"sim-3": "theirs"}), list[DeviceKey]()
    running = enrolling(server, [f"sim-{number}" for number in range(100)], kept)
    server.answer_all()
    raised = failure(running, KeysFailed)
    assert str(raised.value).startswith("sim-3 is enrolled already, and its key is not in the file")
    # What was on its way is kept; the rest is not begun.
    assert len(kept) == len(server.enrolled) - 1 < 40


def test_one_that_is_there_already_gets_a_new_key() -> None:
    server, kept = Server(**{"sim-1": "its", "sim-11": "other"}), list[DeviceKey]()
    running = enrolling(server, ["sim-1", "sim-2"], kept, new_keys=True)
    server.answer_all()
    success(running)
    assert DeviceKey("sim-1", "its", "new key of its") in kept
    assert DeviceKey("sim-2", "u-sim-2", "k-sim-2") in kept


def test_it_takes_an_admin() -> None:
    server = Server()
    server.role = "operator"
    running = enrolling(server, ["sim-1"], [])
    server.answer_all()
    assert str(failure(running, KeysFailed).value) == "to enrol devices takes an account with the role admin"


def test_what_is_on_its_way_is_waited_for() -> None:
    server, kept = Server(), list[DeviceKey]()
    running = enrolling(server, [f"sim-{number}" for number in range(100)], kept)
    running.cancel()
    nothing(running)
    server.answer_all()
    failure(running, CancelledError)
    assert len(kept) == len(server.enrolled) == 16
