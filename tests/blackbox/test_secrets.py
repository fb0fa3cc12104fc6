"""Secrets and contents: where they must not be. Looked for in every row, in the bytes of the database, in the log."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest
from kit import Json, World, b64, failed, handshake_status, ok, reply_with
from kit_people import Person, granted, refused

SERVER = {"device_timeout": 1.5}


class Hidden:
    """Texts that must be nowhere, by what they are."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.texts: dict[str, str] = {}

    def __call__(self, what: str) -> str:
        """A new secret."""
        self.texts[what] = f"hidden{secrets.token_hex(12)}"
        return self.texts[what]

    def also(self, **texts: str) -> None:
        self.texts |= texts

    def found(self, where: bytes) -> list[str]:
        return [
            what
            for what, text in self.texts.items()
            if text.encode() in where or b64(text.encode())[:-4].encode() in where
        ]

    def everywhere(self) -> bytes:
        """The files of the server but its configuration: database, journal, log."""
        folder = self.world.server.folder
        return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.fixture(scope="module")
def everything_hidden() -> dict[str, str]:
    """What all tests of this module hid."""
    return {}


@pytest.fixture
def hidden(world: World, everything_hidden: dict[str, str]) -> Iterator[Hidden]:
    hidden = Hidden(world)
    yield hidden
    assert hidden.texts
    assert hidden.found(hidden.everywhere()) == []
    everything_hidden |= hidden.texts


def test_passwords(world: World, hidden: Hidden) -> None:
    """Those that were set, that are wrong, and that were given to a command that failed."""
    person = Person(world, "viewer")
    new = {"user_name": person.user_name, "password": hidden("own new")}
    failed(person.client().call("put users", new | {"old_password": hidden("wrong old")}), 1004010003)
    failed(world.operator.call("post users", {**new, "role": "x", "password": hidden("not allowed")}), 1004030001)
    failed(world.admin.call("post users", {**new, "role": "x", "password": hidden("wrong field")}), 1004000002)
    refused(person.try_login(hidden("wrong login")), 1004010003)
    hidden.also(old=person.password)
    ok(person.client().call("put users", new | {"old_password": person.password}))
    ok(world.admin.call("put users", {"user_name": person.user_name, "password": hidden("by an admin")}))
    world.http.request("POST", "/webapi/v1/login", raw=f'{{"password": "{hidden("no JSON")}'.encode())
    world.http.request("POST", "/webapi/v1/login", {"user_type": hidden("wrong type"), "password": hidden("beside")})
    hidden.texts.pop("wrong type")  # this is no secret: it may be in the answer, and is in no log all the same
    person.delete()


def test_keys_and_tokens(world: World, hidden: Hidden) -> None:
    device = world.device()
    login = device.login()
    hidden.also(key=device.dev_key, atoken=login["atoken"], rtoken=login["rtoken"])
    traded = granted(world.http.token(login["rtoken"]))
    hidden.also(second_atoken=traded["atoken"], second_rtoken=traded["rtoken"])
    url = world.http.ws_url(device.dev_unid, traded["atoken"])
    hidden.also(ticket=url.rpartition("/")[2])
    assert handshake_status(url) == 101
    assert handshake_status(url) == 401
    answer = ok(world.admin.call("put devices", {"dev_unid": device.dev_unid, "new_key": True}))
    hidden.also(new_key=answer["dev_key"])
    wrong = {"user_type": "dev", "dev_refid": device.dev_refid, "dev_key": hidden("wrong key")}
    refused(world.http.request("POST", "/webapi/v1/login", wrong), 1004010003)
    refused(world.http.token(hidden("wrong rtoken")), 1004010001)
    assert handshake_status(world.http.header_url, hidden("wrong atoken")) == 401
    assert handshake_status(f"{world.http.header_url}/{hidden('wrong ticket')}") == 401


def test_calls(world: World, hidden: Hidden) -> None:
    """Neither what was asked nor what was answered is kept; not when it failed, and not when it was late."""
    device = world.device(warm=True)
    said: Json = {"deep": [{"x": hidden("answer")}]}
    device.behave(reply_with(lambda order: {"req_id": order.req_id, "ecode": 0, "enote": hidden("enote")} | said))
    params = {"dev_unid": device.dev_unid, "command": "post /reboot", "params": {"code": hidden("asked")}}
    answer = ok(world.admin.call("post devices/call", params))
    assert answer["answer"]["deep"] == said["deep"]
    device.behave(lambda _device, _order: None)
    failed(world.admin.call("post devices/call", params | {"timeout": 0.2}), 1005040001, maybe=("devices",))
    device.send(device.sockets[-1], {"req_id": device.orders[-1].req_id, "ecode": 0, "late": hidden("late")})
    device.barrier()


def test_contents_and_channels_in_the_history_and_the_log(world: World) -> None:
    """They are stored where they are needed, once; of a content that was replaced no copy is kept."""
    device = world.device()
    old, new, channel = (f"hidden{secrets.token_hex(30)}" for _ in range(3))
    unid = world.store_conf(f"<a>{old}</a>".encode())
    video = world.video_task(store_conf_unid=unid)
    subtask_id = world.subtask(video, device, vchan={"url": channel})

    def tables(text: str) -> list[str]:
        rows = world.server.dump(leave_out=()).items()
        return [name for name, found in rows if any(text in row or b64(text.encode())[4:-4] in row for row in found)]

    assert tables(old) == ["store_confs"]
    file = {"unid": unid, "name": "c", "file_ext": "xml", "file_b64": b64(f"<a>{new}</a>".encode())}
    ok(world.operator.call("put store_confs", file))
    assert tables(old) == []
    assert tables(new) == ["store_confs"]
    assert tables(channel) == ["subtasks"]
    ok(world.operator.call("delete subtasks", {"subtask_id": subtask_id}))
    ok(world.operator.call("delete tasks", {"task_id": video}))
    ok(world.operator.call("delete store_confs", {"unid": unid}))
    assert [tables(text) for text in (old, new, channel)] == [[], [], []]
    history = ok(world.admin.call("get commands", {"limit": 1000}))
    log = world.server.log()
    for text in (old, new, channel):
        assert text not in log
        assert text not in json.dumps(history)
        assert b64(text.encode())[4:-4] not in json.dumps(history)


def test_what_was_replaced_or_deleted_leaves_no_bytes(world: World, everything_hidden: dict[str, str]) -> None:
    """No copy of the old content is kept anywhere (§4, `put store_confs`): not in unused pages of the file either."""
    hidden = Hidden(world)
    unid = world.store_conf(f"<a>{hidden('old content') * 50}</a>".encode())
    ok(world.operator.call("put store_confs", {"unid": unid, "name": "c", "file_ext": "bin", "file_b64": "AAAA"}))
    device, video = world.device(), world.video_task()
    subtask_id = world.subtask(video, device, vchan={"url": hidden("channel")})
    ok(world.operator.call("delete subtasks", {"subtask_id": subtask_id}))
    world.store_conf(f"<a>{hidden('kept') * 5}</a>".encode())
    world.restart()  # what was in the journal is in the database by now
    hidden.also(**everything_hidden)
    assert hidden.found(hidden.everywhere()) == ["kept"], "what is looked for is found where it is"
