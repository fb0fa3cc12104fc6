"""``python -m devconf.demo FOLDER``: a server, a few simulated devices, and the main job at work.

All it makes is in FOLDER (by default ``run``), where the next run finds it again.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import click
from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from devconf.client import CannotConnect, Client, Disconnected, Message, RequestFailed, connect
from devconf.errors import Ecode
from devconf.sandbox import USER, Folder, SandboxFailed, ServerProcess
from devconf.simulator.fleet import Simulator
from devconf.simulator.plan import Manners

DEVICES = ["demo-1", "demo-2", "demo-3", "demo-4"]

#: Seconds until the devices are online.
ONLINE_WITHIN = 30.0
#: Seconds that a simulated device needs for an order, on average.
LATENCY = 0.05


class DemoFailed(Exception):
    """The demo cannot go on; the text is one line that says why."""


def say(text: str) -> None:
    """Print a line, at once."""
    print(text, flush=True)


@define
class Show:
    """The steps, one after another, as a client has them done.

    :ivar client: connected as an administrator.
    """

    _reactor: Any
    client: Client

    async def step(self, command: str, params: Message, what: str, ecode: int = 0) -> Message:
        """Send a command and print what came back.

        :param ecode: what should come back.
        :raises DemoFailed: something else came back.
        """
        try:
            response = await self.client.request(command, params)
        except RequestFailed as failure:
            response = failure.response
        say(f"  {command} {what} -> {response['ecode']} {response['enote']}{confirmed(response)}")
        if response["ecode"] != ecode:
            raise DemoFailed(f"{command} answered {response['ecode']}, not {ecode}")
        return response

    async def enrol(self, folder: Folder) -> list[tuple[str, str]]:
        """Give each device its place and key, unless it has them; return names and keys."""
        listed = await self.client.request("get devices", {"limit": 1000})
        there = {device["dev_refid"]: device["dev_unid"] for device in listed["devices"]}
        keys = folder.keys()
        for dev_refid in DEVICES:
            dev_unid = there.get(dev_refid)
            if dev_unid is None:
                params = {"dev_refid": dev_refid, "dev_name": f"simulated {dev_refid}", "dev_type": "simulated"}
                made = await self.step("post devices", params, dev_refid)
                keys[dev_refid] = {"dev_unid": made["dev_unid"], "dev_key": made["dev_key"]}
            elif keys.get(dev_refid, {}).get("dev_unid") != dev_unid:
                made = await self.step("put devices", {"dev_unid": dev_unid, "new_key": True}, f"{dev_refid}: new key")
                keys[dev_refid] = {"dev_unid": dev_unid, "dev_key": made["dev_key"]}
            folder.keep_keys(keys)
        return [(dev_refid, keys[dev_refid]["dev_key"]) for dev_refid in DEVICES]

    async def online(self) -> list[str]:
        """Wait until all devices are online, and return their ids.

        :raises DemoFailed: they are not.
        """
        until = self._reactor.seconds() + ONLINE_WITHIN
        while self._reactor.seconds() < until:
            listed = await self.client.request("get devices", {"online": True, "limit": 1000})
            found = {device["dev_refid"]: device["dev_unid"] for device in listed["devices"]}
            if all(dev_refid in found for dev_refid in DEVICES):
                say(f"  {len(DEVICES)} simulated devices are online")
                return [found[dev_refid] for dev_refid in DEVICES]
            await deferLater(self._reactor, 0.1)
        raise DemoFailed(f"not all devices were online within {ONLINE_WITHIN:g} s")

    async def find(self, resource: str, name: str) -> Message | None:
        """Return the item of a list that an earlier run made under ``name``."""
        page = await self.client.request(f"get {resource}", {"limit": 1000})
        return next((item for item in page[resource] if item["name"] == name), None)

    async def run(self, dev_unids: list[str]) -> str:
        """Make what is missing, and do the main job: change a running task, replace a storage configuration.

        :returns: the id of the picture task.
        """
        conf = await self.find("store_confs", "demo storage")
        if conf is None:
            conf = await self.step("post store_confs", storage(0), "'demo storage', an XML file")
        unid = conf["unid"]

        pictures = await self.find("tasks", "demo pictures")
        if pictures is None:
            params: Message = {
                "name": "demo pictures",
                "task_type": "pic",
                "dev_unids": dev_unids[:2],
                "algo_comb": algos(0),
            }
            pictures = await self.step("post tasks", params, "'demo pictures', a picture task on 2 devices")
        else:
            say("  the picture task 'demo pictures' is there from an earlier run")

        video = await self.find("tasks", "demo video")
        if video is None:
            params = {"name": "demo video", "task_type": "video", "algo_comb": algos(0), "store_conf_unid": unid}
            video = await self.step("post tasks", params, "'demo video', a video task with that configuration")
        else:
            say("  the video task 'demo video' is there from an earlier run")
        task_id = video["task_id"]
        listed = await self.client.request("get subtasks", {"task_id": task_id, "limit": 1000})
        busy = {subtask["dev_unid"] for subtask in listed["subtasks"]}
        for number, dev_unid in enumerate(dev_unids, 1):
            if dev_unid not in busy:
                params = {"task_id": task_id, "dev_unid": dev_unid, "vchan": {"channel": number}}
                await self.step("post subtasks", params, f"'demo video' on {DEVICES[number - 1]}")

        params = {"task_id": pictures["task_id"], "algo_comb": algos(pictures["rev"])}
        await self.step("post tasks/pic_task_config", params, "'demo pictures': other algorithms (20.2)")
        params = {"unid": unid, **storage(conf["rev"])}
        await self.step("put store_confs", params, "'demo storage': another file, to all subtasks (20.3)")
        what = "'demo video', which still has subtasks (20.1)"
        await self.step("delete tasks", {"task_id": task_id}, what, Ecode.HAS_SUBTASKS)
        return str(pictures["task_id"])


def storage(rev: int) -> Message:
    """Return name, extension and content of a storage configuration that is not as at ``rev``."""
    content = f'<?xml version="1.0" encoding="UTF-8"?>\n<storage days="30" version="{rev + 1}"/>\n'
    return {"name": "demo storage", "file_ext": "xml", "file_b64": b64encode(content.encode()).decode()}


def algos(rev: int) -> list[Message]:
    """Return an ``algo_comb`` that is not as at ``rev``."""
    return [{"algo_id": "face"}, {"algo_id": "plate", "params": {"threshold": round(0.5 + rev % 50 / 100, 2)}}]


def confirmed(response: Message) -> str:
    """Return how many devices confirmed, as the end of a sentence; nothing if none were asked."""
    if "total" in response:
        return f"; {response['delivered']} of {response['total']} subtasks and devices confirmed"
    devices = response.get("devices")
    if not devices:
        return ""
    count = sum(device["state"] == "confirmed" for device in devices)
    return f"; {count} of {len(devices)} devices confirmed"


def commands(folder: Folder, task_id: str) -> list[str]:
    """Return three commands to try, to be run in the working directory."""
    program = os.path.relpath(Path(sys.executable).parent / "devconf")
    credentials = os.path.relpath(folder.credentials)
    params = json.dumps({"task_id": task_id, "algo_comb": [{"algo_id": "face"}]})
    tries = (["get tasks"], ["get devices", '{"online": true}'], ["post tasks/pic_task_config", params])
    return [shlex.join([program, "call", *words, "--credentials", credentials]) for words in tries]


async def play(reactor: Any, folder: Folder, once: bool) -> None:
    """Start everything, show it, and stop it again, when cancelled or at once.

    :raises DemoFailed: a step did not work.
    :raises SandboxFailed: the server did not work.
    """
    folder.prepare()
    say(f"A server on {folder.url}; its log is {os.path.relpath(folder.log)}")
    server = ServerProcess(reactor, folder)
    simulator = None
    client = None
    try:
        await server.ready()
        client = await connect(reactor, folder.url, USER, folder.password)
        show = Show(reactor, client)
        simulator = Simulator(reactor, folder.url, await show.enrol(folder), manners=Manners(latency=LATENCY))
        simulator.start()
        task_id = await show.run(await show.online())
        say(f"\nAddress {folder.url}   user {USER}   password {folder.password}\n\nTry:")
        for command in commands(folder, task_id):
            say(f"  {command}")
        if not once:
            say("\nCtrl-C stops all of it.")
            if why := await server.when_ended():
                raise DemoFailed(why)
    except (CannotConnect, Disconnected, RequestFailed) as failure:
        raise DemoFailed(str(failure)) from None
    finally:
        if simulator is not None:
            await simulator.stop()
        if client is not None:
            await client.close()
        await server.stop()
        folder.close()


@click.command(help="Run a server and a few simulated devices, and show the main job. All files are in FOLDER.")
@click.argument("folder", default="run")
@click.option("--once", is_flag=True, help="Stop when everything has been shown.")
def main(folder: str, once: bool) -> None:
    """Run the command line; see its help."""
    react(_main, (Folder(Path(folder)), once))


async def _main(reactor: Any, folder: Folder, once: bool) -> None:
    # Signals are taken once the reactor runs.
    await deferLater(reactor, 0)
    playing = Deferred.fromCoroutine(play(reactor, folder, once))
    done: Deferred[None] = Deferred()
    stopping = False

    def stop() -> Deferred[None] | None:
        nonlocal stopping
        if playing.called:
            return None
        stopping = True
        playing.cancel()
        return done

    # The reactor waits for what this returns: devices and server are gone when it stops.
    reactor.addSystemEventTrigger("before", "shutdown", stop)
    try:
        await playing
    except Exception as failure:
        # What is cancelled while it connects fails in several ways.
        if stopping:
            say("\nStopped.")
        elif isinstance(failure, (DemoFailed, SandboxFailed, click.UsageError, OSError)):
            print(f"devconf demo: {failure}", file=sys.stderr)
            raise SystemExit(1) from None
        else:
            raise
    finally:
        done.callback(None)


if __name__ == "__main__":
    main()
