"""A server of devconf behind a real nginx, both set up as ``docs/howto/nginx-tls.md`` and ``etc/nginx.conf`` say."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
import tomllib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.sync.client import ClientConnection, connect

from tests.howto import HOWTO, ROOT, Server, blocks, free_port, tool

DOCUMENT = HOWTO / "nginx-tls.md"
SAMPLE = ROOT / "etc" / "nginx.conf"
NAME = "devconf.example.com"

#: An address whose devices need no key.
LEGACY = "127.0.0.3"
#: WebSockets of one address, instead of the many of the sample.
SOCKETS = 4
PASSWORD = "correct horse"
PATIENCE = 30

#: The blocks of the document: what stands in devconf's configuration and in nginx's.
FIRST_TOML, PORTS_TOML = [block.text for block in blocks(DOCUMENT) if block.info == "toml"]
MAIN, UPSTREAM = [block.text for block in blocks(DOCUMENT) if block.info == "nginx"]


@frozen
class Reply:
    """An answer over HTTP; ``json`` is None if it is none."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which has to be JSON."""
        return json.loads(self.body)


class Front:
    """The two processes, and clients that come to them from addresses of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._nginx: subprocess.Popen[bytes] | None = None
        self.unix_socket = folder / "http.sock"
        settings = tomllib.loads(FIRST_TOML)
        upstream = free_port()
        settings["listen"] = [settings["listen"][0].replace("8080", str(upstream)), f"unix:{self.unix_socket}"]
        self.server = Server(folder, options={**settings, "legacy_device_networks": [LEGACY]})
        self.server.port = upstream
        make_certificate(folder)
        self.context = ssl.create_default_context(cafile=str(folder / "fullchain.pem"))
        # For WebSockets: their client reads in one thread and writes in another. In TLS 1.3, where the server sends
        # session tickets after the handshake, Python's ssl then loses a request now and then.
        self.older = ssl.create_default_context(cafile=str(folder / "fullchain.pem"))
        self.older.maximum_version = ssl.TLSVersion.TLSv1_2
        self.write(SAMPLE.read_text("utf-8"))

    # -- the processes

    def write(self, sample: str) -> None:
        """Write the sample, with our ports, files and limit, and what stands around it."""
        for old, new in (
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("127.0.0.1:8080", f"127.0.0.1:{self.server.port}"),
            ("/etc/nginx/devconf/", f"{self.folder}/"),
            ("devconf_sockets 2000", f"devconf_sockets {SOCKETS}"),
        ):
            assert old in sample
            sample = sample.replace(old, new)
        (self.folder / "devconf.conf").write_text(sample, "utf-8")
        temporary = " ".join(
            f"{kind}_temp_path {self.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = f"daemon off; master_process off; pid nginx.pid; error_log error.log warn;\n{MAIN}\n"
        text += f"http {{ access_log off; {temporary}\ninclude {self.folder}/devconf.conf; }}\n"
        (self.folder / "nginx.conf").write_text(text, "utf-8")

    @property
    def _command(self) -> list[str]:
        return [tool("nginx"), "-p", str(self.folder), "-c", "nginx.conf", "-e", "error.log"]

    def check(self) -> str:
        """What ``nginx -t`` says of the configuration."""
        done = subprocess.run(
            [*self._command, "-t"], capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=self.folder
        )
        return done.stdout + done.stderr

    def start(self) -> None:
        """Start both, with one account."""
        self.server.add_user("admin", "admin", PASSWORD)
        self.server.start()
        self._nginx = subprocess.Popen(self._command, cwd=self.folder, stdin=subprocess.DEVNULL)
        while not self.answers():
            assert self._nginx.poll() is None, self.complaints
        self.atoken: str = self.login({"user_type": "user", "user_name": "admin", "password": PASSWORD}).json["atoken"]

    def answers(self) -> bool:
        with suppress(OSError):
            return self.ask("GET", "/readyz").status == 200
        return False

    @property
    def complaints(self) -> str:
        """What nginx has logged, from warnings on."""
        return (self.folder / "error.log").read_text("utf-8")

    def stop(self) -> None:
        if self._nginx is not None:
            self._nginx.terminate()
            self._nginx.wait(PATIENCE)
        self.server.stop()

    # -- clients

    def connection(self, source: str = "127.0.0.1", room: int | None = None) -> socket.socket:
        """A connection to nginx, with ``room`` bytes for what was not read yet."""
        connection = socket.socket()
        if room is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(PATIENCE)
        try:
            connection.bind((source, 0))
            connection.connect(("127.0.0.1", self.port))
        except OSError:
            connection.close()
            raise
        return connection

    def channel(self, source: str = "127.0.0.1", room: int | None = None) -> http.client.HTTPConnection:
        """A connection to nginx that speaks HTTP within TLS."""
        channel = http.client.HTTPConnection(NAME)
        channel.sock = self.context.wrap_socket(self.connection(source, room), server_hostname=NAME)
        return channel

    def ask(self, method: str, path: str, body: Any = None, *, source: str = "127.0.0.1", **headers: str) -> Reply:
        """Ask through nginx, on a connection of its own."""
        channel = self.channel(source)
        try:
            return asked(channel, method, path, body, **headers)
        finally:
            channel.close()

    def login(self, body: Any, **more: str) -> Reply:
        return self.ask("POST", "/webapi/v1/login", body, **more)

    def call(self, command: str, params: Any = None) -> Any:
        """A command of the administrator, over HTTP; what it answers."""
        method, resource = command.split(" ")
        reply = self.ask(method.upper(), f"/webapi/v1/devconf_fx/{resource}", params, authorization=self.atoken)
        assert reply.json["ecode"] == 0, reply
        return reply.json

    def enrol(self, dev_refid: str, **more: Any) -> Any:
        return self.call("post devices", {"dev_refid": dev_refid, **more})

    def ws_url(self, login: Any) -> str:
        path = f"/webapi/v1/devconf_fx/users/{login['user_unid']}/ws_url?type=devconf_fx"
        return str(self.ask("GET", path, authorization=login["atoken"]).json["ws_url"])

    def socket(self, url: str, source: str = "127.0.0.1", **headers: str) -> ClientConnection:
        """A WebSocket through nginx."""
        return connect(
            url,
            sock=self.connection(source),
            ssl=self.older,
            server_hostname=NAME,
            additional_headers=headers,
            open_timeout=PATIENCE,
        )


def asked(channel: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    """Ask on a connection that may be used again."""
    data = None if body is None else json.dumps(body)
    channel.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = channel.getresponse()
    return Reply(answer.status, answer.read())


def seconds(sample: str, location: str, setting: str) -> float:
    """A time in a location of the sample."""
    block = re.search(rf"location {re.escape(location)} \{{(.*?)\n    \}}", sample, re.DOTALL)
    assert block is not None
    value = re.search(rf"{setting} (\d+)s;", block.group(1))
    assert value is not None
    return float(value.group(1))


def make_certificate(folder: Path) -> None:
    """Make a certificate for :data:`NAME` that is signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "fullchain.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
