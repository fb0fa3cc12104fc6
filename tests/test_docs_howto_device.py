"""``docs/howto/real-device.md``: its ``curl`` commands are run against a real server, and devices play their parts.

In the document, a ``console`` block has commands with what they print; one that prints nothing there is answered
later, in a block ``json curl<``. ``json gate-7<`` is what the device gate-7 gets, and ``json gate-7>`` what it sends.
What the server makes up stands as ``<name>``: bound where it comes first, the same from then on. Quoted lines are what
happens besides.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.howto import HOWTO, Block, Placeholders, Server, blocks, commands, needs

DOCUMENT = HOWTO / "real-device.md"
PASSWORD = "correct horse"
PATIENCE = 30.0

pytestmark = [needs("curl"), pytest.mark.timeout(120, method="signal")]

STEP = re.compile(
    r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$|^> (?P<event>[^\n]+)$",
    re.MULTILINE | re.DOTALL,
)


class Reader(Placeholders):
    """Does what the document says, and compares."""

    def __init__(self, server: Server) -> None:
        super().__init__({"<password>": PASSWORD}, {"127.0.0.1:8080": f"127.0.0.1:{server.port}"})
        self.server = server
        self.devices: dict[str, ClientConnection] = {}
        self.open = ExitStack()
        self.asking: subprocess.Popen[str] | None = None

    # -- steps

    def follow(self, document: str) -> None:
        for step in STEP.finditer(document):
            if step["event"]:
                self.happen(step["event"])
            elif step["info"] == "console":
                self.enter(Block(step["info"], step["text"]))
            elif step["info"] == "json curl<":
                self.answered(step["text"])
            elif step["info"].startswith("json "):
                who, way = step["info"].removeprefix("json ")[:-1], step["info"][-1]
                if way == ">":
                    self.devices[who].send(self.filled(step["text"]))
                else:
                    self.compare(step["text"], str(self.devices[who].recv(PATIENCE)))
        assert self.asking is None, "the document does not say what the last command was answered"

    def enter(self, block: Block) -> None:
        for command in commands(block):
            assert self.asking is None, f"before {command.line} nothing is said of the answer to the last"
            process = subprocess.Popen(
                ["bash", "-c", self.filled(command.line)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.asking = process
            if command.output:
                self.answered(command.output)

    def answered(self, expected: str) -> None:
        assert self.asking is not None
        process, self.asking = self.asking, None
        told, _ = process.communicate(timeout=PATIENCE)
        self.compare(expected, told)

    def happen(self, event: str) -> None:
        if match := re.fullmatch(r"(\S+) connects to `(.*)`\.", event):
            self.connect(match[1], self.bound[match[2]])
        elif match := re.fullmatch(r"(\S+) is disconnected with (\d+)\.", event):
            with pytest.raises(ConnectionClosed) as caught:
                self.devices.pop(match[1]).recv(PATIENCE)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == int(match[2])
        else:
            pytest.fail(f"what is meant by {event!r}?")

    def connect(self, who: str, ticket: str) -> None:
        url = f"ws://127.0.0.1:{self.server.port}/wsapi/v1/devconf_fx/{ticket}"
        # A socket of our own: the environment may name a proxy.
        channel = socket.create_connection(("127.0.0.1", self.server.port), PATIENCE)
        self.devices[who] = self.open.enter_context(connect(url, sock=channel, open_timeout=PATIENCE))
        deadline = time.monotonic() + PATIENCE
        while not self.online(who):
            assert time.monotonic() < deadline

    def online(self, who: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        path = f"/webapi/v1/devconf_fx/devices?dev_unid={self.bound[f'<{who}>']}"
        connection.request("GET", path, headers={"authorization": self.bound["<admin>"]})
        (item,) = json.loads(connection.getresponse().read())["devices"]
        connection.close()
        return bool(item["online"])

    def close(self) -> None:
        if self.asking is not None:
            self.asking.kill()
            self.asking.communicate()
        self.open.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    (settings,) = [tomllib.loads(block.text) for block in blocks(DOCUMENT) if block.info == "toml"]
    assert settings.keys() == {"legacy_device_networks"}
    server = Server(tmp_path, device_timeout=2.0, options={name: ["127.0.0.1"] for name in settings})
    server.add_user("admin", "admin", PASSWORD)
    server.start(may_move=True)
    reader = Reader(server)
    try:
        yield reader
    finally:
        reader.close()
        server.stop()


def test_the_document_is_what_happens(reader: Reader) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    reader.follow(document)
    assert reader.compared > 20

    (line,) = re.findall(r"^```text\n(.*)\n```$", document, re.MULTILINE)
    reader.devices["gate-7"].send('{"req_id": "none", "ecode": 0}')
    deadline = time.monotonic() + PATIENCE
    while reader.filled(line) not in reader.server.log():
        assert time.monotonic() < deadline, reader.server.log()
        time.sleep(0.05)
