"""``docs/howto/nginx-tls.md`` and ``etc/nginx.conf``, tried: devices and operators come through a real nginx."""

from __future__ import annotations

import base64
import http.client
import json
import shlex
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from devconf.commands.calls import CallDevice
from devconf.commands.locks import WAIT_AT_MOST
from devconf.config import Config
from devconf.pacing import PING_EVERY, PONG_WITHIN
from tests.howto import Command, blocks, commands, needs
from tests.nginx_front import (
    DOCUMENT,
    LEGACY,
    NAME,
    PATIENCE,
    PORTS_TOML,
    SAMPLE,
    SOCKETS,
    UPSTREAM,
    Front,
    Reply,
    asked,
    seconds,
)

pytestmark = [needs("nginx"), pytest.mark.timeout(180, method="signal")]

BAD_LOGIN, TOO_LARGE, TOO_MANY, STOPPING = 1004010003, 1004130001, 1004290001, 1005030002


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    front = Front(tmp_path_factory.mktemp("front"))
    try:
        front.start()
        yield front
    finally:
        front.stop()


def refused(reply: Reply, status: int, ecode: int) -> None:
    assert (reply.status, reply.json["ecode"]) == (status, ecode)
    assert set(reply.json) == {"ecode", "enote"}


# -- the configuration


def test_nginx_takes_the_sample(front: Front) -> None:
    said = front.check().splitlines()
    assert [line.rpartition(" ")[2] for line in said] == ["ok", "successful"]


def test_nginx_takes_several_ports(tmp_path: Path) -> None:
    front = Front(tmp_path)
    sample = SAMPLE.read_text("utf-8")
    start, end = sample.index("upstream devconf"), sample.index("}\n") + 2
    front.write(sample[:start] + UPSTREAM + sample[end:])
    assert [line.rpartition(" ")[2] for line in front.check().splitlines()] == ["ok", "successful"]
    assert [f"server 127.0.0.1:{port} max_fails=0;" in UPSTREAM for port in (8080, 8081)] == [True, True]
    assert all(f"tcp:{port}:interface=127.0.0.1" in PORTS_TOML for port in (8080, 8081))


def test_nginx_is_more_patient_than_devconf() -> None:
    sample = SAMPLE.read_text("utf-8")
    for setting in ("proxy_read_timeout", "proxy_send_timeout"):
        assert seconds(sample, "/wsapi/", setting) > 2 * (PING_EVERY + PONG_WITHIN)
    call_at_most = get_args(get_args(get_type_hints(CallDevice, include_extras=True)["timeout"])[0])[1].le
    assert seconds(sample, "/", "proxy_read_timeout") > WAIT_AT_MOST + max(call_at_most, 2 * Config().device_timeout)


@needs("curl")
def test_the_commands_of_the_document(front: Front) -> None:
    lines = [command for block in blocks(DOCUMENT) if block.info == "console" for command in commands(block)]
    (curl,) = [command for command in lines if command.line.startswith("curl ")]
    there = ["--cacert", f"{front.folder}/fullchain.pem", "--connect-to", f"{NAME}:443:127.0.0.1:{front.port}"]
    done = subprocess.run(
        [*shlex.split(curl.line), *there], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.stdout, done.stderr) == (curl.output, "")
    assert lines[0] == Command("install -m 644 etc/nginx.conf /etc/nginx/conf.d/devconf.conf", "")


# -- devices and operators


def test_a_command_is_confirmed_through_nginx(front: Front) -> None:
    enrolled = front.enrol("gate-1")
    key = {"user_type": "dev", "dev_refid": "gate-1", "dev_key": enrolled["dev_key"]}
    login = front.login(key, source="127.0.0.2").json
    url = front.ws_url(login)
    assert url.startswith(f"wss://{NAME}/wsapi/v1/devconf_fx/")
    admin = {"user_unid": front.call("get users")["users"][0]["user_unid"], "atoken": front.atoken}

    with front.socket(url, "127.0.0.2") as device, front.socket(front.ws_url(admin)) as operator:
        confirming = threading.Thread(target=confirm, args=(device,))
        confirming.start()
        while not front.call("get devices", {"dev_unid": enrolled["dev_unid"]})["devices"][0]["online"]:
            pass
        (item,) = front.call("get devices", {"dev_unid": enrolled["dev_unid"]})["devices"]
        assert item["addr"] == "127.0.0.2"
        task = {"name": "gate", "task_type": "pic", "algo_comb": [{"algo_id": "face"}]}
        command = {"command": "post /wsapi/v1/devconf_fx/tasks", "req_id": "1"}
        operator.send(json.dumps({**command, "params": {**task, "dev_unids": [enrolled["dev_unid"]]}}))
        answer = json.loads(operator.recv(PATIENCE))
        confirming.join(PATIENCE)
    confirmed = {"dev_unid": enrolled["dev_unid"], "state": "confirmed", "ecode": 0, "enote": "ok"}
    ids = {name: answer.pop(name) for name in ("task_id", "command_id")}
    assert all(ids.values())
    assert answer == {**command, "ecode": 0, "enote": "ok", "rev": 1, "devices": [confirmed]}


def confirm(device: Any) -> None:
    """Answer one order."""
    order = json.loads(device.recv(PATIENCE))
    device.send(json.dumps({"req_id": order["req_id"], "ecode": 0, "enote": "ok"}))


def test_a_device_without_key_is_known_by_its_own_address(front: Front) -> None:
    front.enrol("old-1", key_required=False)
    body = {"user_type": "dev", "dev_refid": "old-1"}
    assert front.login(body, source=LEGACY).json["ecode"] == 0
    refused(front.login(body, source="127.0.0.9"), 401, BAD_LOGIN)
    # What a client says of its own address does not count: not through nginx, and not past it.
    refused(front.login(body, source="127.0.0.9", X_Forwarded_For=LEGACY), 401, BAD_LOGIN)
    refused(front.login(body, source="127.0.0.1", X_Forwarded_For=LEGACY), 401, BAD_LOGIN)
    past = http.client.HTTPConnection("127.0.0.1", front.server.port, PATIENCE, ("127.0.0.9", 0))
    with closing(past):
        refused(asked(past, "POST", "/webapi/v1/login", body, X_Forwarded_For=LEGACY), 401, BAD_LOGIN)


def test_a_unix_socket_has_no_address(front: Front) -> None:
    front.enrol("old-2", key_required=False)
    body = {"user_type": "dev", "dev_refid": "old-2"}
    channel = http.client.HTTPConnection("localhost")
    channel.sock = socket.socket(socket.AF_UNIX)
    with closing(channel):
        channel.sock.connect(str(front.unix_socket))
        refused(asked(channel, "POST", "/webapi/v1/login", body, X_Forwarded_For=LEGACY), 401, BAD_LOGIN)


# -- sizes and limits


#: So many storage configurations of the largest size are what a page holds, more than the sockets on the way do.
LARGE = 4


def test_a_storage_configuration_of_the_largest_size_passes(front: Front) -> None:
    conf = {"name": "large", "file_ext": "bin"}
    content = base64.b64encode(b"x" * Config().limits.store_conf_max).decode()
    for _ in range(LARGE):
        front.call("post store_confs", {**conf, "file_b64": content})
    with closing(front.channel(room=4096)) as slow:
        path = "/webapi/v1/devconf_fx/store_confs?content=true"
        slow.request("GET", path, headers={"authorization": front.atoken})
        for _ in range(50):  # nginx has the time to take all of the answer, while nobody reads it
            assert front.answers()
        listed = json.loads(slow.getresponse().read())["store_confs"]
    assert [item["file_b64"] == content for item in listed] == [True] * LARGE
    # None of it was put into a file on the way.
    assert "temporary file" not in front.complaints

    body = {**conf, "file_b64": content * 2}
    refused(front.ask("POST", "/webapi/v1/devconf_fx/store_confs", body, authorization=front.atoken), 413, TOO_LARGE)


def test_a_backup_passes(front: Front, tmp_path: Path) -> None:
    reply = front.ask("GET", "/webapi/v1/backup", authorization=front.atoken)
    assert reply.status == 200
    (tmp_path / "copy").write_bytes(reply.body)
    with closing(sqlite3.connect(tmp_path / "copy")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_logins_are_bounded_for_each_address(front: Front) -> None:
    body = {"user_type": "dev", "dev_refid": "nobody", "dev_key": "x"}
    with closing(front.channel("127.0.0.7")) as channel:
        for _ in range(1000):
            reply = asked(channel, "POST", "/webapi/v1/login", body)
            if reply.status != 401:
                break
    refused(reply, 429, TOO_MANY)
    refused(front.login(body), 401, BAD_LOGIN)


def test_sockets_are_bounded_for_each_address(front: Front) -> None:
    path = "/wsapi/v1/devconf_fx"
    with ExitStack() as stack:
        for _ in range(SOCKETS):
            stack.enter_context(front.socket(f"wss://{NAME}{path}", "127.0.0.8", authorization=front.atoken))
        handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
        key = base64.b64encode(b"sixteen of them!").decode()
        one_more = front.ask(
            "GET", path, source="127.0.0.8", Sec_WebSocket_Key=key, authorization=front.atoken, **handshake
        )
        refused(one_more, 503, STOPPING)
        stack.enter_context(front.socket(f"wss://{NAME}{path}", "127.0.0.6", authorization=front.atoken))


def test_a_server_that_is_not_there_is_told(front: Front) -> None:
    front.server.stop()
    try:
        refused(front.ask("GET", "/webapi/v1/devconf_fx/tasks", authorization=front.atoken), 503, STOPPING)
    finally:
        front.server.start()
    assert front.call("get tasks", {"limit": 1})["ecode"] == 0
