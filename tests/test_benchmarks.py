"""The benchmarks: that there are figures, and none where something failed. How large they are is not asserted."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from benchmarks import plan, report
from benchmarks.full import Calling
from benchmarks.growth import Growth
from benchmarks.load import Devices, Measured, drive, measure
from benchmarks.process import Failed, Process
from benchmarks.sockets import CLOSE, PING, PONG, TEXT, Connection, Sockets, frames, masked, unasked

REPOSITORY = Path(__file__).parent.parent
PATIENCE = 240

# Most of these wait for processes or sockets in the main thread, where only a signal ends them.
pytestmark = pytest.mark.timeout(300, method="signal")


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *args]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)


# -- the whole


def test_there_are_figures(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    done = run("--quick", "--folder", folder, "--json", tmp_path / "figures" / "bench.json")
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []

    told = json.loads((tmp_path / "figures" / "bench.json").read_text("utf-8"))
    commands = {plan.RELAY, plan.RELAY_ONE, plan.CALL, plan.CALL_ONE, plan.CONFIG, plan.CONFIG_ONE, plan.CONFIG_FAN}
    idle = {plan.IDLE_RELAY, plan.IDLE_DEVICE}
    assert told["figures"].keys() == commands | idle
    for name, values in told["figures"].items():
        expected = {"commands", "cpu_us", "rate", "busy", "p50_ms", "p95_ms", "p99_ms"}
        if name in idle:
            expected = {"rss_kb", "pss_kb", "private_kb", "connect_us"}
        assert values.keys() == expected | ({"ratio"} if name in plan.RATIOS else set())
        # What is shared with other programs changes when those come and go.
        assert all(each > 0 for value in values.keys() - {"pss_kb"} for each in values[value].values()), values
        assert name in done.stdout
    assert told["circumstances"]["fdatasync_us"] > 0
    assert set(told["rounds"][0]) == commands
    assert set(told["rounds"][-1]) == idle


def test_it_says_in_one_line_why_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("--quick", "--folder", tmp_path / "file")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"benchmarks: [Errno 17] File exists: '{tmp_path}/file'\n"


def test_it_stops_its_servers_when_it_is_ended(tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, "-m", "benchmarks", "--quick", "--folder", tmp_path]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stderr is not None
        for line in bench.stderr:
            if line.startswith("commands, round"):
                break
        bench.terminate()
        rest = bench.stderr.read()  # until nobody has it open, the servers' logs are elsewhere
        assert bench.wait(PATIENCE) == 128 + signal.SIGTERM, rest
    (config,) = tmp_path.rglob("devconf.toml")
    port = int(config.read_text().partition("tcp:")[2].partition(":")[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_the_reference_is_as_it_was() -> None:
    """Another relay would make all figures that were taken before incomparable."""
    digest = hashlib.sha256((REPOSITORY / "benchmarks" / "ab.py").read_bytes()).hexdigest()
    assert digest == "62155da6c71286f058bfeacd4f1cb0489ce875d3f85476dd4401b6e9500365d0"


def test_the_document_tells_of_every_figure() -> None:
    document = (REPOSITORY / "docs" / "benchmarks.md").read_text("utf-8")
    names = {plan.RELAY, plan.RELAY_ONE, plan.IDLE_RELAY, *plan.RATIOS}
    assert {name for name in names if f"\n{name} " not in document} == set()
    for told in (plan.FULL.devices, plan.FULL.fan, plan.FULL.few, plan.FULL.many):
        assert re.search(rf"\b{told}\b", document), told


# -- frames


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames(size: int) -> None:
    payload = bytes(number % 251 for number in range(size))
    frame = masked(payload)
    head = len(frame) - size - 4
    key = frame[head : head + 4]
    assert any(key)
    assert bytes(byte ^ key[place % 4] for place, byte in enumerate(frame[head + 4 :])) == payload

    plain = frame[:1] + bytes((frame[1] & 127,)) + frame[2:head] + payload
    assert frames(plain) == ([(TEXT, payload)], b"")
    assert frames(plain + plain[:-1] if size else plain) == ([(TEXT, payload)], plain[:-1] if size else b"")
    for end in (0, 1, head - 1, len(plain) - 1):
        assert frames(plain[:end]) == ([], plain[:end])
    if size < 126:
        with pytest.raises(Failed, match="masked"):
            frames(frame)


# -- nothing is counted that failed


@contextmanager
def connected(
    received: Callable[[bytes], bytes | None] = unasked,
) -> Iterator[tuple[Sockets, Connection, socket.socket]]:
    """A connection whose server is the other end of a pair of sockets."""
    ours, theirs = socket.socketpair()
    sockets, connection = Sockets(), Connection(ours, b"", received)
    sockets.add(connection)
    with ours, theirs:
        theirs.settimeout(PATIENCE)
        yield sockets, connection, theirs


def from_server(text: str | bytes, first: int = TEXT) -> bytes:
    payload = text.encode() if isinstance(text, str) else text
    assert len(payload) < 126
    return bytes((first, len(payload))) + payload


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (from_server('{"req_id": "0", "ecode": 1005030001, "enote": "offline"}'), "1005030001.*offline"),
        (from_server('{"req_id": "7", "ecode": 0}'), "answered twice, or never given"),
        (from_server('{"req_id": "0", "ecode": 0}') * 2, "answered twice, or never given"),
        (from_server(b"\x03\xf0bye", CLOSE), "closed a connection: 1008 bye"),
        (from_server(b"", 0x82), "begins with 0x82"),
        (from_server(b"", 0x01), "begins with 0x1"),
    ],
)
def test_what_is_no_success_fails(said: bytes, why: str) -> None:
    with connected() as (sockets, operator, server):
        server.sendall(said)
        with pytest.raises(Failed, match=why):
            drive(sockets, [operator], Calling(["a device"]), window=1, seconds=PATIENCE)


def test_a_connection_that_is_dropped_fails() -> None:
    with connected() as (sockets, operator, server):
        server.shutdown(socket.SHUT_WR)
        with pytest.raises(Failed, match="dropped"):
            drive(sockets, [operator], Calling(["a device"]), window=1, seconds=PATIENCE)


def test_what_nobody_asked_for_fails() -> None:
    with connected() as (sockets, _, server):
        server.sendall(from_server("{}"))
        with pytest.raises(Failed, match="nobody waits for"):
            sockets.rest(PATIENCE)


def test_pings_are_answered() -> None:
    with connected() as (sockets, _, server):
        server.sendall(from_server(b"are you there", PING))
        sockets.pump(PATIENCE)
        assert server.recv(100) == masked(b"are you there", PONG)


class Echo:
    """Commands that are answered with themselves."""

    orders = 1

    def command(self, number: int) -> bytes:
        return b"%d" % number

    def answered(self, payload: bytes) -> int:
        return int(payload)


def echo(server: socket.socket) -> None:
    """Send short frames back as they come, one at a time, until the connection ends."""
    while frame := server.recv(1000):
        key = frame[2:6]
        server.sendall(from_server(bytes(byte ^ key[place % 4] for place, byte in enumerate(frame[6:]))))


def test_commands_that_did_not_come_to_a_device_fail(tmp_path: Path) -> None:
    process = Process.start("a server", ["-c", "import time; time.sleep(600)"], tmp_path / "log", lambda: True)
    try:
        with connected() as (sockets, operator, server):
            thread = Thread(target=echo, args=(server,))
            thread.start()
            with pytest.raises(Failed, match="1 commands should have come to 1 devices each, but 0 messages did"):
                measure(process, Devices(), sockets, [operator], Echo(), window=1, seconds=0.0)
            operator.sock.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
    finally:
        process.stop()


# -- servers


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(Failed, match=r"a server has ended with 3; see .*: no port"):
        Process.start("a server", ["-c", "print('no port'); raise SystemExit(3)"], log, lambda: False)


def test_a_server_that_logs_an_error(tmp_path: Path) -> None:
    code = "import time; print('Traceback (most recent call last):', flush=True); time.sleep(600)"
    log = tmp_path / "log"
    process = Process.start("a server", ["-c", code], log, lambda: log.stat().st_size > 0)
    try:
        assert process.cpu() > 0
        memory = process.memory()
        assert memory.rss >= memory.pss >= memory.private > 0
        with pytest.raises(Failed, match="has logged an error"):
            process.check()
    finally:
        process.stop()


# -- the report


def measured(cpu_us: float) -> Measured:
    return Measured(10, cpu_us, rate=1000.0, busy=0.5, p50_ms=1.0, p95_ms=2.0, p99_ms=3.0)


def test_ratios_are_of_the_same_round() -> None:
    rounds = [
        {plan.RELAY: measured(100.0), plan.CALL: measured(300.0)},
        {plan.RELAY: measured(200.0), plan.CALL: measured(400.0)},
        {plan.RELAY: measured(100.0), plan.CALL: measured(500.0)},
    ]
    figures = report.summary(rounds, plan.RATIOS)
    assert figures[plan.RELAY]["cpu_us"] == {"median": 100.0, "least": 100.0, "most": 200.0}
    assert "ratio" not in figures[plan.RELAY]
    assert figures[plan.CALL]["ratio"] == {"median": 3.0, "least": 2.0, "most": 5.0}
    assert "400 [300-500]      3.00 [2.00-5.00]" in report.table(figures)


def test_idle_devices_are_compared_by_what_is_resident() -> None:
    growth = {plan.IDLE_RELAY: Growth(10.0, 9.0, 8.0, 100.0), plan.IDLE_DEVICE: Growth(15.0, 14.0, 13.0, 2000.0)}
    figures = report.summary([growth], plan.RATIOS)
    assert figures[plan.IDLE_DEVICE]["ratio"]["median"] == 1.5
    assert "15.0 [15.0-15.0]      1.50 [1.50-1.50]        14.0        13.0          2,000" in report.table(figures)


# -- peers that read nothing


def test_unread() -> None:
    command = [sys.executable, "-m", "benchmarks.unread", "--peers", "3", "--seconds", "1"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    title, *rows = done.stdout.splitlines()
    assert title.startswith("3 peers that read nothing")
    assert [row.partition(",")[0] for row in rows] == ["operators", "operators", "devices", "HTTP"]


# -- large contents, and all devices at once


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (["fan", "--devices", "40", "--deaf", "1", "--size", "300000"], {"delivered": 39, "deaf": 1}),
        (["storm", "--devices", "40"], {"behind": 40}),
    ],
)
def test_storms(tmp_path: Path, what: list[str], told: dict[str, int]) -> None:
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.storm", *what, "--folder", tmp_path]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    result = json.loads(done.stdout)[what[0]]
    assert result["devices"] == 40
    assert told.items() <= result.items()
    assert result["rss_peak_mb"] >= result["rss_before_mb"] > 0
    assert result["others"] > 0
