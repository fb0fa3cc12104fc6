"""The machine under any sequence of events: what devices hold is what the store says, once all has calmed down.

One device, and two, with commands that overlap, devices that refuse, are silent, answer late or twice, forget, come
and go, and a server that crashes and starts again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from devconf.testing import MemoryDevice, MemoryServer

NUMBERS = st.integers(0, 1_000_000)
LACKS = (1004040001, 1004040003)
ALGOS = st.sampled_from("abcdef")


#: Servers that crashed, kept so that what they had under way is not collected.
GRAVEYARD: list[MemoryServer] = []


def comb(name: str) -> list[dict[str, Any]]:
    return [{"algo_id": name, "enabled": True, "params": {}}]


class Machine(RuleBasedStateMachine):
    """One server, its devices, and everything that may happen to them."""

    devices_count = 1

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.server = MemoryServer(Path(self._folder.name))
        self.devices: list[MemoryDevice] = []
        self.late: list[tuple[MemoryDevice, Any, dict[str, Any]]] = []
        self.open: list[Any] = []
        self.conf = ""
        # What a device would not delete. A forced delete takes any answer for the end of the matter.
        self.kept: set[tuple[str, str, str]] = set()

    @initialize()
    def enrol(self) -> None:
        self.devices = [self.server.enrol(f"box-{number}") for number in range(self.devices_count)]
        for device in self.devices:
            device.connect()
        answer = self.server.ask("post store_confs", {"name": "c", "file_ext": "bin", "file_b64": "MQ=="})
        self.conf = answer["unid"]

    # -- what operators do

    def _send(self, command: str, params: dict[str, Any]) -> None:
        self.open.append(self.server.call(command, params))

    def _pick(self, resource: str, number: int, **params: Any) -> dict[str, Any] | None:
        items = self.server.ask(f"get {resource}", params)[resource]
        return items[number % len(items)] if items else None

    @rule(name=ALGOS, which=NUMBERS)
    def post_pic_task(self, name: str, which: int) -> None:
        unids = [device.dev_unid for number, device in enumerate(self.devices) if which >> number & 1]
        params = {"name": name, "task_type": "pic", "dev_unids": unids, "algo_comb": comb(name)}
        self._send("post tasks", params | ({"store_conf_unid": self.conf} if which & 64 else {}))

    @rule(name=ALGOS)
    def post_video_task(self, name: str) -> None:
        self._send("post tasks", {"name": name, "task_type": "video", "store_conf_unid": self.conf})

    @rule(number=NUMBERS, name=ALGOS, force=st.booleans())
    def pic_task_config(self, number: int, name: str, force: bool) -> None:
        task = self._pick("tasks", number, task_type="pic")
        if task:
            self._send(
                "post tasks/pic_task_config", {"task_id": task["task_id"], "algo_comb": comb(name), "force": force}
            )

    @rule(number=NUMBERS, name=ALGOS, conf=st.booleans())
    def put_task(self, number: int, name: str, conf: bool) -> None:
        task = self._pick("tasks", number)
        if task:
            params = {"task_id": task["task_id"], "name": name, "store_conf_unid": self.conf if conf else None}
            if task["task_type"] == "pic":
                params["dev_unids"] = [device.dev_unid for n, device in enumerate(self.devices) if number >> n & 1]
            self._send("put tasks", params)

    @rule(number=NUMBERS, force=st.booleans())
    def delete_task(self, number: int, force: bool) -> None:
        task = self._pick("tasks", number)
        if task:
            self._send("delete tasks", {"task_id": task["task_id"], "force": force})

    @rule(number=NUMBERS, which=NUMBERS)
    def post_subtask(self, number: int, which: int) -> None:
        task = self._pick("tasks", number, task_type="video")
        if task:
            device = self.devices[which % len(self.devices)]
            self._send(
                "post subtasks", {"task_id": task["task_id"], "dev_unid": device.dev_unid, "vchan": {"n": which}}
            )

    @rule(number=NUMBERS, force=st.booleans())
    def delete_subtask(self, number: int, force: bool) -> None:
        subtask = self._pick("subtasks", number)
        if subtask:
            self._send("delete subtasks", {"subtask_id": subtask["subtask_id"], "force": force})

    @rule(content=st.sampled_from(["MQ==", "Mg==", "Mw=="]))
    def put_store_conf(self, content: str) -> None:
        self._send("put store_confs", {"unid": self.conf, "name": "c", "file_ext": "bin", "file_b64": content})

    @rule(which=NUMBERS)
    def resync(self, which: int) -> None:
        self._send("post devices/resync", {"dev_unid": self.devices[which % len(self.devices)].dev_unid})

    # -- what devices do

    def _busy(self, which: int) -> MemoryDevice | None:
        busy = [device for device in self.devices if device.inbox]
        return busy[which % len(busy)] if busy else None

    @rule(which=NUMBERS)
    def act(self, which: int) -> None:
        if device := self._busy(which):
            device.act(device.inbox[which % len(device.inbox)])

    @rule(which=NUMBERS)
    def obey(self, which: int) -> None:
        if device := self._busy(which):
            device.obey()

    @rule(which=NUMBERS, ecode=st.sampled_from([7, 1004040001, 1004040003, 1004090008]))
    def refuse(self, which: int, ecode: int) -> None:
        if device := self._busy(which):
            message = device.inbox[which % len(device.inbox)]
            if message["command"].startswith("delete "):
                key = (message["params"]["task_id"], message["params"].get("subtask_id", ""))
                self.kept.add((device.dev_unid, *key))
                if ecode in LACKS:  # this would be a lie, which the server has to believe
                    device.held.pop(key, None)
            device.answer(message, ecode, "no", rev=which % 50)

    @rule(which=NUMBERS)
    def act_and_answer_later(self, which: int) -> None:
        if device := self._busy(which):
            message = device.inbox.pop(which % len(device.inbox))
            self.late.append((device, device.link, {"req_id": message["req_id"], **device.do(message)}))

    @precondition(lambda self: self.late)
    @rule(which=NUMBERS)
    def answer_late(self, which: int) -> None:
        device, link, answer = self.late.pop(which % len(self.late))
        if device.link is not None and device.link is link:
            device.say(answer)
            device.say(answer)

    @rule(which=NUMBERS)
    def act_and_vanish(self, which: int) -> None:
        if device := self._busy(which):
            device.do(device.inbox[0])
            device.lose()

    @rule(which=NUMBERS)
    def come_or_go(self, which: int) -> None:
        device = self.devices[which % len(self.devices)]
        if device.link is None:
            device.connect()
        else:
            device.lose()

    @rule(which=NUMBERS)
    def connect_twice(self, which: int) -> None:
        device = self.devices[which % len(self.devices)]
        older = device.link
        device.connect()
        if older is not None:
            self.server.service.hub.closed(older)

    @rule(which=NUMBERS)
    def forget_everything(self, which: int) -> None:
        """As a box that is re-imaged: it says so when it registers."""
        device = self.devices[which % len(self.devices)]
        device.lose()
        device.wipe()
        self._register(device)
        device.connect()

    def _register(self, device: MemoryDevice) -> None:
        from devconf.model import OrderKey
        from devconf.store import answers

        has = {OrderKey(device.dev_unid, *key): device.revs[key] for key in device.held}
        self.server.service.store.run(answers.reconcile, device.dev_unid, has)
        self.server.run()

    # -- what happens to all

    @rule(seconds=st.sampled_from([0.5, 5.0, 11.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.server.advance(seconds)

    @rule(eager=st.booleans())
    def change_pace(self, eager: bool) -> None:
        """Let everything that is due happen at once, or only step by step."""
        self.server.eager = eager

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.01, 10.0]))
    def one_step(self, seconds: float) -> None:
        """Let only a part happen of what is due: the next batch of the store, or its answers."""
        self.server.clock.advance(seconds)

    @rule()
    def crash(self) -> None:
        self.server.crash()
        GRAVEYARD.append(self.server)
        self.open.clear()
        for device in self.devices:
            device.link = None
            device.inbox.clear()
        self.server.restart()

    # -- what must hold then

    def teardown(self) -> None:
        try:
            if self.devices:
                self._calm_down()
                self._check()
            self.server.stop()
            assert self.server.clock.getDelayedCalls() == []
        finally:
            self._folder.cleanup()

    def _calm_down(self) -> None:
        self.server.eager = True
        self.server.finish()
        for device in self.devices:
            device.lose()
            device.connect()
        for _ in range(40):
            for device in self.devices:
                if device.link is None:
                    device.connect()
                device.obey()
            self.server.advance(5)

    def _check(self) -> None:
        for response in self.open:
            answer = self.server.result(response)  # each has one
            assert answer["ecode"] != 1005000001, answer
        unsettled = self.server.ask("get devices")["devices"]
        assert [(device["pending"], device["refused"]) for device in unsettled] == [(0, 0)] * len(unsettled)
        tasks = {task["task_id"]: task for task in self.server.ask("get tasks", {"limit": 1000})["tasks"]}
        [conf] = self.server.ask("get store_confs", {"content": True})["store_confs"]
        for device in self.devices:
            wanted = self._wanted(device, tasks, conf)
            held = self._held(device)
            for key in held.keys() - wanted.keys():
                if (device.dev_unid, *key) in self.kept:
                    del held[key]
            assert held == wanted
        assert self.server.service.delivery._lanes == {}

    def _wanted(self, device: MemoryDevice, tasks: Any, conf: Any) -> dict[Any, Any]:
        keys = {(task_id, ""): None for task_id, task in tasks.items() if device.dev_unid in task["dev_unids"]}
        params = {"dev_unid": device.dev_unid, "limit": 1000}
        for subtask in self.server.ask("get subtasks", params)["subtasks"]:
            keys[(subtask["task_id"], subtask["subtask_id"])] = subtask["vchan"]
        wanted = {}
        for key, vchan in keys.items():
            task = tasks[key[0]]
            wanted[key] = (
                task["name"],
                task["algo_comb"],
                conf["file_b64"] if task["store_conf_unid"] else None,
                vchan,
            )
        return wanted

    def _held(self, device: MemoryDevice) -> dict[Any, Any]:
        return {
            key: (
                params["name"],
                params.get("algo_comb"),
                params["store_conf"]["file_b64"] if params.get("store_conf") else None,
                params.get("vchan"),
            )
            for key, params in device.held.items()
        }


class TwoDevices(Machine):
    """The same with two, one of which may refuse what the other takes."""

    devices_count = 2


SETTINGS = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


TestOneDevice = Machine.TestCase
TestOneDevice.settings = SETTINGS
TestTwoDevices = TwoDevices.TestCase
TestTwoDevices.settings = SETTINGS
