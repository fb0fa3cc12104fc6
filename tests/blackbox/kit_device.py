"""A device as protocol §6 describes it, and the ways in which one may misbehave."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from kit_wire import PATIENCE, WS_PATH, Http, Json, Reply, Socket
from websockets.exceptions import ConnectionClosed

NO_TASK, NO_SUBTASK, OLDER = 1004040001, 1004040003, 1004090008
TASKS = f"{WS_PATH}/tasks"
PARTS = ("name", "algo_comb", "store_conf")  # what "modify" may carry

Key = tuple[str, str | None]


@dataclass(frozen=True)
class Order:
    """A message of the server that wants an answer, and the connection it came on."""

    message: Json
    socket: Socket = field(repr=False)

    @property
    def command(self) -> str:
        return str(self.message["command"])

    @property
    def verb(self) -> str | None:
        """post, put or delete for the three task commands; None for a command passed through."""
        method, _, path = self.command.partition(" ")
        return method if path == TASKS and method in ("post", "put", "delete") else None

    @property
    def req_id(self) -> str:
        return str(self.message["req_id"])

    @property
    def params(self) -> Json:
        params = self.message["params"]
        assert isinstance(params, dict), self.message
        return params

    @property
    def key(self) -> Key:
        return self.params["task_id"], self.params.get("subtask_id")

    @property
    def rev(self) -> int:
        return int(self.params["rev"])


Behaviour = Callable[["Device", Order], None]


@dataclass
class Rule:
    """A behaviour for the next `left` orders that fit."""

    behaviour: Behaviour
    verb: str | None
    left: int | None

    def fits(self, order: Order) -> bool:
        return self.left != 0 and (self.verb is None or self.verb == order.verb)


class Device:
    """Holds tasks, carries out orders, and answers them as its rules say."""

    def __init__(self, http: Http, dev_refid: str, dev_key: str, dev_unid: str, echo: str = "req_id") -> None:
        self.http = http
        self.dev_refid = dev_refid
        self.dev_key = dev_key
        self.dev_unid = dev_unid
        self.echo = echo  # "req_id", "src_page" (with the command, as the manual does) or "nothing"
        self.changed = threading.Condition()
        self.held: dict[Key, Json] = {}
        self.revs: dict[Key, int] = {}  # the last rev acted on, of deleted ones too
        self.replies: dict[Key, Json] = {}  # what was answered then
        self.messages: list[Json | str | bytes] = []  # every message received
        self.orders: list[Order] = []
        self.answers: list[Json] = []  # to requests of our own, and complaints of the server
        self.held_back: list[tuple[Order, Json]] = []
        self.sockets: list[Socket] = []
        self._rules: list[Rule] = []
        self.timers: list[threading.Timer] = []
        self._atoken: str | None = None
        self._numbers = itertools.count(1)

    # -- the ways in

    def login(self) -> Json:
        answer = self.http.login_device(self.dev_refid, self.dev_key)
        assert answer["user_unid"] == self.dev_unid
        assert answer["user_type"] == "dev"
        self._atoken = answer["atoken"]
        return answer

    @property
    def atoken(self) -> str:
        if self._atoken is None:
            self.login()
        assert self._atoken is not None
        return self._atoken

    def register(self, **more: object) -> Reply:
        """Describe itself; `algos` and `tasks` only if given."""
        body: Json = {"dev_refid": self.dev_refid, "dev_type": "box", "dev_name": "kit"} | more
        reply = self.http.register(self.dev_unid, self.atoken, body)
        assert reply.status == 200, reply
        assert reply.json["ecode"] == 0, reply
        return reply

    def inventory(self) -> list[Json]:
        """What it holds, as `register` wants it."""
        with self.changed:
            held = {key: task["rev"] for key, task in self.held.items()}
        return [
            {"task_id": task_id, "rev": rev} | ({"subtask_id": subtask_id} if subtask_id else {})
            for (task_id, subtask_id), rev in held.items()
        ]

    def connect(self, *, keep_old: bool = False) -> Socket:
        """Open a connection, the newest from now on; the old one is closed first unless `keep_old`."""
        if not keep_old:
            self.disconnect()
        if self.http.ask_ws_url(self.dev_unid, self.atoken).status == 401:
            self._atoken = None  # what devices in the field do: log in again
        url = self.http.ws_url(self.dev_unid, self.atoken)
        channel = Socket(url, self._arrived, on_end=self._wake, source=self.http.source)
        self.sockets.append(channel)
        channel.start()
        return channel

    def disconnect(self) -> None:
        for channel in self.sockets:
            channel.end()

    def drop(self) -> None:
        """Cut the newest connection without a word."""
        self.sockets[-1].drop()

    def close(self) -> None:
        for timer in self.timers:
            timer.cancel()
        self.disconnect()

    @property
    def connected(self) -> bool:
        return bool(self.sockets) and not self.sockets[-1].ended

    # -- what it is told to do

    def behave(self, behaviour: Behaviour, *, verb: str | None = None, times: int | None = None) -> None:
        """Answer so from now on: only this task command, only so many times. The newest rule wins."""
        with self.changed:
            self._rules.insert(0, Rule(behaviour, verb, times))

    def behave_normally(self) -> None:
        with self.changed:
            self._rules.clear()

    def release(self) -> None:
        """Send the answers that `hold` kept back, on the connection that their orders came on."""
        with self.changed:
            held_back, self.held_back = self.held_back, []
        for order, reply in held_back:
            self.reply(order, reply)

    def wipe(self) -> None:
        """Forget everything, as after a factory reset."""
        with self.changed:
            self.held.clear()
            self.revs.clear()
            self.replies.clear()

    # -- what comes in

    def _arrived(self, channel: Socket, data: str | bytes) -> None:
        message = json.loads(data)
        assert isinstance(message, dict), data
        if "ecode" in message:
            with self.changed:
                self.messages.append(message)
                self.answers.append(message)
                self.changed.notify_all()
            return
        order = Order(message, channel)
        with self.changed:
            self.messages.append(message)
            self.orders.append(order)
            rule = next((rule for rule in self._rules if rule.fits(order)), None)
            if rule is not None and rule.left is not None:
                rule.left -= 1
            self.changed.notify_all()
        (rule.behaviour if rule is not None else normally)(self, order)
        self._wake()

    def _wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def carry_out(self, order: Order) -> Json:
        """Take all of an order or none; the answer to give."""
        with self.changed:
            if order.verb is None:
                return {"ecode": 0, "enote": "ok", "heard": order.params}
            reply = self._carry_out(order, order.verb)
            self.changed.notify_all()
        return reply

    def _carry_out(self, order: Order, verb: str) -> Json:
        key, rev, params = order.key, order.rev, order.params
        last = self.revs.get(key)
        if last is not None and rev < last:
            return {"ecode": OLDER, "enote": "older than mine", "rev": last}
        if last == rev:
            return self.replies[key]
        if verb == "put" and key not in self.held:
            return {"ecode": NO_SUBTASK if key[1] else NO_TASK, "enote": "I have no such thing"}
        if verb == "post":
            self.held[key] = dict(params)
        elif verb == "put":
            parts = {part: params[part] for part in PARTS if part in params}
            self.held[key] = self.held[key] | parts | {"rev": rev}
        else:
            self.held.pop(key, None)
        self.revs[key] = rev
        self.replies[key] = {"ecode": 0, "enote": "ok"}
        return self.replies[key]

    def reply(self, order: Order, body: Json, *, req_id: str | None = None) -> None:
        """Answer an order, on the connection it came on, echoing what this device echoes."""
        names: Json = {}
        if self.echo == "req_id":
            names = {"req_id": req_id or order.req_id}
        elif self.echo == "src_page":
            names = {"command": order.command, "src_page": req_id or order.message["src_page"]}
        self.send(order.socket, names | body)

    def send(self, channel: Socket, message: Json | str | bytes) -> None:
        with suppress(ConnectionClosed):
            channel.send(json.dumps(message) if isinstance(message, dict) else message)

    # -- what it asks of the server, and what the tests ask of it

    def request(self, command: str, params: Json | None = None, timeout: float = PATIENCE) -> Json:
        """A request of its own."""
        req_id = f"own-{self.dev_unid}-{next(self._numbers)}"
        self.send(self.sockets[-1], {"command": command, "req_id": req_id, "params": params or {}})

        def answered() -> list[Json]:
            return [answer for answer in self.answers if answer.get("req_id") == req_id]

        self.wait_for(lambda: bool(answered()), timeout, f"an answer to {command}")
        with self.changed:
            return answered()[0]

    def barrier(self) -> None:
        """After this, everything that the server had sent before is in `orders`."""
        self.request(f"get {TASKS}")

    def wait_for(
        self, predicate: Callable[[], bool], timeout: float = PATIENCE, what: str = "what the test waits for"
    ) -> None:
        """Wait until it is so; asked again whenever anything happens to this device."""
        with self.changed:
            so = self.changed.wait_for(predicate, timeout)
            heard = [order.message for order in self.orders[-5:]]
        assert so, f"device {self.dev_unid}: not so after {timeout} s: {what}; last orders: {heard}"

    def heard(self, verb: str | None = None, task_id: str | None = None) -> list[Order]:
        """The orders received so far (of this verb, about this task)."""
        with self.changed:
            return [
                order
                for order in self.orders
                if (verb is None or order.verb == verb) and (task_id is None or order.params.get("task_id") == task_id)
            ]

    def wait_heard(self, count: int, verb: str | None = None, task_id: str | None = None) -> list[Order]:
        """Wait until at least so many orders came."""
        what = f"{count} times {verb or 'order'}"
        self.wait_for(lambda: len(self.heard(verb, task_id)) >= count, what=what)
        return self.heard(verb, task_id)

    def holding(self, task_id: str, subtask_id: str | None = None) -> Json | None:
        with self.changed:
            task = self.held.get((task_id, subtask_id))
            return dict(task) if task is not None else None


# -- behaviours, for Device.behave


def normally(device: Device, order: Order) -> None:
    device.reply(order, device.carry_out(order))


def refuse(ecode: int = 77, enote: str = "not today") -> Behaviour:
    """Take nothing and say why."""

    def behaviour(device: Device, order: Order) -> None:
        device.reply(order, {"ecode": ecode, "enote": enote})

    return behaviour


def silent(*, takes: bool = False) -> Behaviour:
    """Never answer; what was ordered may have been done all the same."""

    def behaviour(device: Device, order: Order) -> None:
        if takes:
            device.carry_out(order)

    return behaviour


def hold(device: Device, order: Order) -> None:
    """Do it, and keep the answer back until `Device.release`."""
    reply = device.carry_out(order)
    with device.changed:
        device.held_back.append((order, reply))
        device.changed.notify_all()


def late(seconds: float) -> Behaviour:
    """Do it at once and answer after so long."""

    def behaviour(device: Device, order: Order) -> None:
        timer = threading.Timer(seconds, device.reply, (order, device.carry_out(order)))
        timer.daemon = True
        device.timers.append(timer)
        timer.start()

    return behaviour


def twice(device: Device, order: Order) -> None:
    reply = device.carry_out(order)
    device.reply(order, reply)
    device.reply(order, reply)


def garbage(data: str | bytes) -> Behaviour:
    """Send this instead of an answer."""

    def behaviour(device: Device, order: Order) -> None:
        device.send(order.socket, data)

    return behaviour


def reply_with(make: Callable[[Order], Json], *, takes: bool = True) -> Behaviour:
    """Do it, and send exactly this message; nothing is echoed but what `make` echoes."""

    def behaviour(device: Device, order: Order) -> None:
        if takes:
            device.carry_out(order)
        device.send(order.socket, make(order))

    return behaviour


def for_another(req_id: Callable[[], str]) -> Behaviour:
    """Take nothing, and answer 0 for a request that is somebody else's."""

    def behaviour(device: Device, order: Order) -> None:
        device.reply(order, {"ecode": 0, "enote": "ok"}, req_id=req_id())

    return behaviour


def drop_connection(*, takes: bool = False) -> Behaviour:
    """Cut the connection on receipt."""

    def behaviour(device: Device, order: Order) -> None:
        if takes:
            device.carry_out(order)
        order.socket.drop()

    return behaviour


def on_old_connection(body: Json) -> Behaviour:
    """Take nothing, connect anew beside the old connection, and then answer this on the old one."""

    def behaviour(device: Device, order: Order) -> None:
        device.connect(keep_old=True)
        device.reply(order, body)

    return behaviour
