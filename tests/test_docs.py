"""The documents say what the code does: the examples are replayed, and the tables are compared with the code.

In the worked examples of ``docs/protocol.md`` a fenced block says who sends (``>``) or gets (``<``) a message:
``json client>`` a client of an operator, ``json box-1<`` the device whose ``dev_refid`` is ``box-1``. A text like
``<task_id>`` stands for one that the server makes up: bound where it comes first, compared from then on. Quoted
lines are what happens besides: ``> box-1 connects.``, ``> box-1 goes offline.``, ``> 10 seconds pass.``
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from attrs import fields

from devconf import config, sessions, wire
from devconf.commands.registry import Command
from devconf.config import Limits
from devconf.errors import Ecode
from devconf.model import Identity, Role
from devconf.operators.protocol import OperatorProtocol
from devconf.testing import MemoryDevice, MemoryServer

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEP = re.compile(
    r"^```json (?P<who>\S+)(?P<way>[<>])\n(?P<text>.*?)^```$|^> (?P<event>[^\n]+)$|^### (?P<title>[^\n]+)$",
    re.MULTILINE | re.DOTALL,
)
PLACEHOLDER = re.compile(r"<[a-z0-9 _-]+>")


def section(heading: str) -> str:
    """The text below ``## heading``, up to the next heading of its level."""
    _, _, rest = PROTOCOL.partition(f"\n## {heading}\n")
    assert rest, f"there is no section {heading!r}"
    return rest.partition("\n## ")[0]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MemoryServer]:
    server = MemoryServer(tmp_path)
    yield server
    server.stop()


def registered(server: MemoryServer) -> dict[str, Command]:
    """The commands by the names that the headings have."""
    return {command.name.replace(wire.PREFIX, ""): command for command in server.service.registry}


# -- the worked examples


class Client(OperatorProtocol):
    """An operator's connection without a socket."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(Identity("u" * 32, "alice", Role.ADMIN))
        self.factory = server.service.operators
        self.frames: list[Any] = []

    def send(self, *parts: bytes) -> None:
        self.frames.append(json.loads(b"".join(parts)))


class Replay:
    """Plays what the document says, and compares."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.client = Client(server)
        self.devices: dict[str, MemoryDevice] = {}
        self.bound: dict[str, str] = {}

    def send(self, who: str, message: Any) -> None:
        payload = json.dumps(self.filled(message)).encode()
        if who == "client":
            self.client.received(payload)
            self.server.run()
        else:
            self.devices[who].say(payload)

    def compare(self, who: str, expected: Any) -> None:
        frames = self.client.frames if who == "client" else self.heard(self.devices[who], expected)
        assert frames, f"{who} got nothing, but should have got {expected}"
        actual = frames.pop(0)
        self.bind(expected, actual)
        assert actual == self.filled(expected), f"{who} got {json.dumps(self.named(actual))}"

    def heard(self, device: MemoryDevice, expected: Any) -> list[Any]:
        return device.inbox if "params" in expected else device.replies

    def bind(self, expected: Any, actual: Any) -> None:
        """Bind the placeholders of ``expected`` that are seen for the first time."""
        if isinstance(expected, dict) and isinstance(actual, dict):
            for name in expected.keys() & actual.keys():
                self.bind(expected[name], actual[name])
        elif isinstance(expected, list) and isinstance(actual, list):
            for one, other in zip(expected, actual, strict=False):
                self.bind(one, other)
        elif isinstance(expected, str) and PLACEHOLDER.fullmatch(expected) and expected not in self.bound:
            assert isinstance(actual, str), f"{expected} is {actual!r}"
            assert actual not in self.bound.values(), f"{expected} is the same as another one"
            self.bound[expected] = actual

    def filled(self, value: Any) -> Any:
        """``value`` with what its placeholders stand for."""
        if isinstance(value, dict):
            return {name: self.filled(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        if isinstance(value, str):
            return PLACEHOLDER.sub(lambda match: self.bound.get(match.group(), match.group()), value)
        return value

    def named(self, value: Any) -> Any:
        """The opposite of :meth:`filled`, for messages of failure."""
        text = json.dumps(value, ensure_ascii=False)
        for name, actual in sorted(self.bound.items(), key=lambda item: -len(item[1])):
            text = text.replace(actual, name)
        return json.loads(text)

    def happen(self, event: str) -> None:
        if match := re.fullmatch(r"(\S+) connects\.", event):
            self.device(match.group(1)).connect()
        elif match := re.fullmatch(r"(\S+) goes offline\.", event):
            self.device(match.group(1)).lose()
        elif match := re.fullmatch(r"(\d+) seconds pass\.", event):
            self.server.advance(int(match.group(1)))
        else:
            pytest.fail(f"what is meant by {event!r}?")

    def device(self, name: str) -> MemoryDevice:
        if name not in self.devices:
            self.devices[name] = MemoryDevice(self.server, self.bound[f"<{name}>"], name)
        return self.devices[name]

    def nothing_left(self) -> None:
        """The document has told all that was said."""
        assert not self.client.frames, self.named(self.client.frames)
        for name, device in self.devices.items():
            assert not device.inbox, f"{name} also got {self.named(device.inbox)}"
            assert not device.replies, f"{name} also got {self.named(device.replies)}"


def test_examples_are_what_the_server_does(server: MemoryServer) -> None:
    replay = Replay(server)
    steps = 0
    for step in STEP.finditer(section("8 Worked examples")):
        if step["title"]:
            replay.nothing_left()
        elif step["event"]:
            replay.happen(step["event"])
        elif step["way"] == ">":
            replay.send(step["who"], json.loads(step["text"]))
        else:
            replay.compare(step["who"], json.loads(step["text"]))
            steps += 1
    replay.nothing_left()
    assert steps > 30


def test_every_example_is_replayed() -> None:
    examples = section("8 Worked examples")
    blocks = [info for info, _ in FENCE.findall(PROTOCOL) if info.startswith("json")]
    assert len(blocks) == len([step for step in STEP.finditer(examples) if step["who"]])


# -- tables and headings


def test_error_codes_are_those_of_the_code() -> None:
    table = re.search(r"^<!-- ecodes:.*?-->\n(.*?)^<!-- /ecodes -->$", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert table
    lines = [f"| {int(ecode)} | {ecode.http_status} | {ecode.meaning} |" for ecode in Ecode]
    assert table.group(1) == "\n".join(["| ecode | HTTP | meaning |", "|---|---|---|", *lines, ""])


HEADING = re.compile(r"^#### `([^`]+)`( ⇣)? · (\w+)\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)


def test_every_command_has_a_heading_with_its_role(server: MemoryServer) -> None:
    headings = {name: role for name, _, role, _ in HEADING.findall(section("4 Commands"))}
    assert headings == {name: command.role.title for name, command in registered(server).items()}


def test_every_command_has_a_table_of_its_params(server: MemoryServer) -> None:
    for name, _, _, text in HEADING.findall(section("4 Commands")):
        told = re.findall(r"^\| `(\w+)(\??)` \|", text, re.MULTILINE)
        known = msgspec.structs.fields(registered(server)[name].params)
        assert sorted(told) == sorted((field.encode_name, "" if field.required else "?") for field in known), name


def test_close_codes_are_those_of_the_code() -> None:
    codes = {value for value in vars(sessions).values() if isinstance(value, int)}
    assert {int(code) for code in re.findall(r"^\| (\d{4}) \|", section("6 Between server and device"), re.M)} == codes


def test_limits_are_those_of_the_code() -> None:
    told = re.findall(r"^\| `(\w+)` \| (\d+) \|", section("7 Limits"), re.MULTILINE)
    defaults = Limits()
    assert dict(told) == {field.name: str(getattr(defaults, field.name)) for field in fields(Limits)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_configurations_can_be_loaded(path: Path) -> None:
    for info, text in FENCE.findall(path.read_text(encoding="utf-8")):
        if info.split()[:1] == ["toml"]:
            config.parse(text, path.name)
