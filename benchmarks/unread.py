"""What peers that read nothing cost the server: ``python -m benchmarks.unread --peers 20``.

Each of them asks for some answers of 1.4 MB, or is sent orders of that size, and reads none of it. Told is by how much
the server has grown at its peak, for each peer, and how that compares with what may wait for one (``unread_bytes``).
"""

from __future__ import annotations

import argparse
import base64
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.full import Devconf
from benchmarks.process import Failed
from benchmarks.sockets import Connection, Sockets
from devconf.config import Limits

BOUND_KB = Limits().unread_bytes // 1024
#: What each peer is owed: within the bound with what the system's own buffers take, and far beyond it.
WITHIN, BEYOND = 4, 20
#: The same for devices, to which the caller's part is added: its requests in flight.
CALLS = 6

_GET = '{"command":"get /wsapi/v1/devconf_fx/store_confs","req_id":"%d","params":{"unid":"%s","content":true}}'
_CALL = '{"command":"post /wsapi/v1/devconf_fx/devices/call","req_id":"%d","params":%s}'


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unread", description="peers that read nothing")
    parser.add_argument("--peers", type=int, default=20, help="how many at a time (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each kind is watched (%(default)s)")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            server = Devconf(Path(folder).resolve(), Sockets())
            try:
                run(server, args.peers, args.seconds)
            finally:
                server.close()
    except (Failed, OSError) as error:
        print(f"benchmarks.unread: {error}", file=sys.stderr)
        return 1
    return 0


def run(server: Devconf, peers: int, seconds: float) -> None:
    """Measure each kind of peer, and print it.

    :raises Failed: the server logged an error.
    """
    server.connect_operators(1)
    server.enrol(peers)
    unid = server.post_store_conf(base64.b64encode(bytes(1024 * 1024)).decode())
    kinds: list[tuple[str, Callable[[int], list[socket.socket]]]] = [
        (f"operators, {WITHIN} answers each", lambda count: operators(server, count, unid, WITHIN)),
        (f"operators, {BEYOND} answers each", lambda count: operators(server, count, unid, BEYOND)),
        (f"devices, {CALLS} calls each", lambda count: devices(server, count, CALLS)),
        (f"HTTP, {BEYOND} answers each", lambda count: over_http(server, count, unid, BEYOND)),
    ]
    print(f"{peers} peers that read nothing; ratio: to unread_bytes, {BOUND_KB} KB")
    for name, connect in kinds:
        # Started anew: what one kind has taken is not given back to the system, and would hide the next.
        server.stop()
        server.start()
        before = server.server.memory().rss
        server.server.forget_peak()
        sockets = connect(peers)
        server.sockets.rest(seconds)
        each = (server.server.peak() - before) / peers
        print(f"{name:<32} {each:8,.0f} KB each {each / BOUND_KB:6.2f}", flush=True)
        for sock in sockets:
            sock.close()
        server.server.check()


def operators(server: Devconf, count: int, unid: str, answers: int) -> list[socket.socket]:
    """Have ``count`` operators ask for ``answers`` of 1.4 MB each."""
    opened = [server.unread_operator() for _ in range(count)]
    for connection in opened:
        for number in range(answers):
            connection.send((_GET % (number, unid)).encode())
        server.sockets.rest(0.1)
    return [connection.sock for connection in opened]


def devices(server: Devconf, count: int, calls: int) -> list[socket.socket]:
    """Have ``count`` devices be called with 1.4 MB each, over connections of an operator that reads."""
    opened = [server.unread_device(number) for number in range(count)]
    time.sleep(1)
    for number in range(count):
        params = {"dev_unid": server.enrolled[number].dev_unid, "command": "get /x", "timeout": 1}
        text = json.dumps({**params, "params": {"large": "x" * 1_390_000}})
        with closing(server.unread_operator().sock) as sock:
            caller = Connection(sock, b"", lambda _payload: None)
            for req_id in range(calls):
                caller.send((_CALL % (req_id, text)).encode())
        server.sockets.rest(0.1)
    return [connection.sock for connection in opened]


def over_http(server: Devconf, count: int, unid: str, answers: int) -> list[socket.socket]:
    """Ask for ``answers`` of 1.4 MB on each of ``count`` HTTP connections."""
    path = f"/webapi/v1/devconf_fx/store_confs?unid={unid}&content=true"
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {server.atoken()}\r\n\r\n".encode()
    opened = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.sendall(request * answers)
        opened.append(sock)
    return opened


if __name__ == "__main__":
    sys.exit(main())
