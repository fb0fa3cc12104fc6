"""Commands for the simulated devices, as operators would give them: tasks are made, changed and deleted."""

from __future__ import annotations

import random
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.task import deferLater

from devconf.client import CannotConnect, Disconnected, Message, NoResponse, RequestFailed
from devconf.simulator.wanted import Ask, pages

#: How the names of all begin that is made here.
NAME = "simulated"
#: Devices of a picture task, and one device in so many runs a subtask as well.
PICTURE_DEVICES = 50
SUBTASK_EVERY = 4
#: Commands that are under way at once; of one thing there is one, or it would soon have nothing but a queue.
AT_ONCE = 64

Command = Callable[[], Awaitable[Any]]

_ALGOS = ("face", "plate", "crowd", "smoke")


@define(eq=False)
class Work:
    """Makes what is missing, and then changes what is there.

    Of what an earlier run has left it takes what it can use.

    :ivar ask: asks the server as an operator.
    :ivar _dev_unids: the devices.
    :ivar answers: how many commands were answered with each ``ecode``; None: how many were not answered.
    """

    _reactor: Any
    ask: Ask
    _dev_unids: Sequence[str]
    _draw: random.Random
    answers: Counter[int | None] = field(factory=Counter, init=False)
    _pictures: dict[int, str] = field(factory=dict, init=False)
    _subtasks: dict[str, str] = field(factory=dict, init=False)
    _video: str = field(default="", init=False)
    _conf: str = field(default="", init=False)
    _under_way: dict[object, Deferred[None]] = field(factory=dict, init=False)

    async def prepare(self) -> None:
        """Make what is missing; best before the devices are there, so that nobody waits for them.

        :raises RequestFailed: the account may not do this.
        """
        confs = [item["unid"] async for item in pages(self.ask, "store_confs") if _is_mine(item)]
        self._conf = confs[0] if confs else (await self.ask("post store_confs", self._content()))["unid"]
        tasks = [item async for item in pages(self.ask, "tasks") if _is_mine(item)]
        videos = [item["task_id"] for item in tasks if item["task_type"] == "video"]
        if not videos:
            params = {"name": f"{NAME} video", "task_type": "video", "store_conf_unid": self._conf}
            videos = [(await self.ask("post tasks", {**params, "algo_comb": self._algos()}))["task_id"]]
        self._video = videos[0]
        groups = {frozenset(self._group(number)): number for number in range(self._groups)}
        for item in tasks:
            number = groups.get(frozenset(item["dev_unids"]))
            if number is not None:
                self._pictures[number] = item["task_id"]
        async for item in pages(self.ask, "subtasks"):
            if item["task_id"] == self._video:
                self._subtasks[item["dev_unid"]] = item["subtask_id"]
        missing: list[Command] = [
            partial(self._post_picture, number) for number in range(self._groups) if number not in self._pictures
        ]
        missing += [partial(self._post_subtask, unid) for unid in self._running_video if unid not in self._subtasks]
        turns = DeferredSemaphore(AT_ONCE)
        await DeferredList([turns.run(self._begin, command) for command in missing])

    @property
    def _groups(self) -> int:
        """How many picture tasks there are to be."""
        return -(-len(self._dev_unids) // PICTURE_DEVICES)

    def _group(self, number: int) -> Sequence[str]:
        """Return the devices of a picture task."""
        return self._dev_unids[number * PICTURE_DEVICES : (number + 1) * PICTURE_DEVICES]

    @property
    def _running_video(self) -> Sequence[str]:
        return self._dev_unids[::SUBTASK_EVERY]

    async def run(self, rate: float, until: Callable[[], bool]) -> None:
        """Give ``rate`` commands a second until ``until`` says so, and wait for those that are under way."""
        while not until():
            subject, choose = self._choose_subject()
            if subject not in self._under_way and len(self._under_way) < AT_ONCE:
                doing = self._under_way[subject] = self._begin(choose())
                doing.addBoth(self._done, subject)
            await deferLater(self._reactor, 2 * self._draw.random() / rate)
        await DeferredList(list(self._under_way.values()))

    def _done(self, _result: Any, subject: object) -> None:
        self._under_way.pop(subject, None)

    def _begin(self, command: Command) -> Deferred[None]:
        async def run() -> None:
            try:
                await command()
            except RequestFailed as failure:
                self.answers[failure.ecode] += 1
            except (CannotConnect, Disconnected, NoResponse):
                self.answers[None] += 1
            else:
                self.answers[0] += 1

        return Deferred.fromCoroutine(run())

    # -- the commands

    def _choose_subject(self) -> tuple[object, Callable[[], Command]]:
        """Return what the next command is about, and what chooses it."""
        draw = self._draw
        kind = draw.random()
        if kind < 0.75:
            number = draw.randrange(self._groups)
            return number, partial(self._choose_picture, number)
        if kind < 0.85:
            return "storage", self._choose_conf
        dev_unid = draw.choice(self._running_video)
        if kind < 0.95:
            return dev_unid, partial(self._choose_subtask, dev_unid)
        return dev_unid, partial(self._choose_resync, dev_unid)

    def _choose_picture(self, number: int) -> Command:
        draw = self._draw
        task_id = self._pictures.get(number)
        if task_id is None:
            return partial(self._post_picture, number)
        what = draw.random()
        if what < 0.07:
            return partial(self._redo_picture, number)
        if what < 0.3:
            changes: Message = {"task_id": task_id, "name": f"{NAME} {draw.randrange(10**6)}"}
            if draw.random() < 0.5:
                changes["store_conf_unid"] = draw.choice([None, self._conf])
            return partial(self.ask, "put tasks", changes)
        changes = {"task_id": task_id, "algo_comb": self._algos(), "force": draw.random() < 0.5}
        return partial(self.ask, "post tasks/pic_task_config", changes)

    def _choose_conf(self) -> Command:
        return partial(self.ask, "put store_confs", {"unid": self._conf, **self._content()})

    def _choose_subtask(self, dev_unid: str) -> Command:
        return partial(self._redo_subtask if dev_unid in self._subtasks else self._post_subtask, dev_unid)

    def _choose_resync(self, dev_unid: str) -> Command:
        return partial(self.ask, "post devices/resync", {"dev_unid": dev_unid})

    async def _post_picture(self, number: int) -> None:
        task = {"name": f"{NAME} {number}", "task_type": "pic", "dev_unids": list(self._group(number))}
        self._pictures[number] = (await self.ask("post tasks", {**task, "algo_comb": self._algos()}))["task_id"]

    async def _redo_picture(self, number: int) -> None:
        await self.ask("delete tasks", {"task_id": self._pictures.pop(number), "force": True})
        await self._post_picture(number)

    async def _redo_subtask(self, dev_unid: str) -> None:
        await self.ask("delete subtasks", {"subtask_id": self._subtasks.pop(dev_unid), "force": True})
        await self._post_subtask(dev_unid)

    async def _post_subtask(self, dev_unid: str) -> None:
        params = {"task_id": self._video, "dev_unid": dev_unid, "vchan": {"channel": self._draw.randrange(16)}}
        self._subtasks[dev_unid] = (await self.ask("post subtasks", params))["subtask_id"]

    # -- what is in them

    def _algos(self) -> list[Message]:
        chosen = self._draw.sample(_ALGOS, self._draw.randint(1, len(_ALGOS)))
        return [{"algo_id": algo_id, "params": {"least": self._draw.randrange(100)}} for algo_id in chosen]

    def _content(self) -> Message:
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<storage days="{self._draw.randrange(10**6)}"/>\n'
        return {"name": f"{NAME} storage", "file_ext": "xml", "file_b64": b64encode(text.encode()).decode()}


def _is_mine(item: Message) -> bool:
    return bool(item["name"].startswith(NAME))
