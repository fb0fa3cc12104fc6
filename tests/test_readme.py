"""The README's device and client, run as they stand there against a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from devconf.client import connect
from devconf.sandbox import Folder, ServerProcess

README = Path(__file__).parent.parent / "README.md"


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(code: str, folder: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def test_the_device_and_the_client_of_the_readme(tmp_path: Path) -> None:
    from twisted.internet import reactor

    device_code, client_code = snippets("python")
    server_folder = Folder(tmp_path / "run")
    server_folder.prepare()
    server = ServerProcess(reactor, server_folder)
    try:
        await server.ready()
        client = await connect(reactor, server_folder.url, "admin", server_folder.password)
        enrolled = await client.request("post devices", {"dev_refid": "gate-7"})
        device = run(at(device_code, server_folder.url), tmp_path, DEV_KEY=enrolled["dev_key"])
        while not (await client.request("get devices", {"online": True}))["devices"]:
            await deferLater(reactor, 0.05)
        asked = run(
            at(client_code, server_folder.url),
            tmp_path,
            PASSWORD=server_folder.password,
            DEV_UNID=enrolled["dev_unid"],
        )
        told, _ = await deferToThread(asked.communicate)
        assert asked.returncode == 0, told
        device.terminate()
        seen, _ = await deferToThread(device.communicate)
        await client.close()
    finally:
        await server.stop()
        server_folder.close()
    expected_device, expected_client = snippets("text")[1:]
    assert seen == expected_device
    assert plain(told) == plain(expected_client)


def at(code: str, url: str) -> str:
    assert "http://127.0.0.1:8080" in code
    return code.replace("http://127.0.0.1:8080", url)


def plain(told: str) -> str:
    """What was printed, without its random ids and its layout."""
    return re.sub(r"\s+", "", re.sub(r"[0-9a-f]{32}", "<id>", told))
