"""Every command of protocol §4: the least role that may give it, and its params."""

from __future__ import annotations

from dataclasses import dataclass

from kit import Json, b64, combo

ROLES = ("viewer", "operator", "admin")
FILE: Json = {"name": "c", "file_ext": "xml", "file_b64": b64(b"<a/>")}
LIST: Json = {"limit": 5, "after": "x"}


@dataclass(frozen=True)
class Command:
    """The role, how many of the params are required, and all params; the required ones come first."""

    role: str
    required: int
    params: Json

    def allows(self, role: str) -> bool:
        return ROLES.index(role) >= ROLES.index(self.role)


TASK_FILTER: Json = {"task_id": "t", "task_type": "pic", "dev_unid": "d", "state": "pending"}
SUBTASK_FILTER: Json = {"task_id": "t", "subtask_id": "s", "dev_unid": "d", "state": "pending"}
DEVICE_FILTER: Json = {"dev_unid": "d", "online": True, "state": "pending", "text": "x"}
HISTORY_FILTER: Json = {"command_id": "c", "task_id": "t", "dev_unid": "d", "user_name": "u"}
TASK: Json = {"name": "n", "task_type": "pic", "algo_comb": combo("a1"), "store_conf_unid": "u", "dev_unids": ["d"]}
NAMES: Json = {"dev_refid": "r", "dev_name": "n", "key_required": True}
USER: Json = {"user_name": "nobody", "role": "viewer", "password": "p"}
TOPICS: Json = {"topics": ["devices", "deliveries", "commands"]}

COMMANDS: dict[str, Command] = {
    "get tasks": Command("viewer", 0, TASK_FILTER | LIST),
    "post tasks": Command("operator", 2, TASK),
    "put tasks": Command("operator", 1, {"task_id": "t", "name": "n", "store_conf_unid": "u", "dev_unids": ["d"]}),
    "delete tasks": Command("operator", 1, {"task_id": "t", "force": True}),
    "post tasks/pic_task_config": Command("operator", 2, {"task_id": "t", "algo_comb": combo("a1"), "force": True}),
    "get subtasks": Command("viewer", 0, SUBTASK_FILTER | LIST),
    "post subtasks": Command("operator", 2, {"task_id": "t", "dev_unid": "d", "vchan": {}}),
    "delete subtasks": Command("operator", 1, {"subtask_id": "s", "force": True}),
    "get store_confs": Command("viewer", 0, {"unid": "u", "content": True} | LIST),
    "post store_confs": Command("operator", 3, FILE),
    "put store_confs": Command("operator", 4, {"unid": "u"} | FILE),
    "delete store_confs": Command("operator", 1, {"unid": "u"}),
    "get devices": Command("viewer", 0, DEVICE_FILTER | LIST),
    "post devices": Command("admin", 1, NAMES | {"dev_type": "box"}),
    "put devices": Command("admin", 1, {"dev_unid": "d", "new_key": True, "enabled": True} | NAMES),
    "delete devices": Command("admin", 1, {"dev_unid": "d"}),
    "post devices/resync": Command("operator", 1, {"dev_unid": "d"}),
    "post devices/call": Command("admin", 2, {"dev_unid": "d", "command": "get /x", "params": {}, "timeout": 5}),
    "get devices/unknown": Command("admin", 0, {}),
    "get users": Command("admin", 0, {"user_name": "u"} | LIST),
    "post users": Command("admin", 3, USER),
    "put users": Command("viewer", 1, USER | {"old_password": "o"}),
    "delete users": Command("admin", 1, {"user_name": "nobody"}),
    "get commands": Command("viewer", 0, HISTORY_FILTER | LIST),
    "post subscriptions": Command("viewer", 1, TOPICS),
    "delete subscriptions": Command("viewer", 1, TOPICS),
}
SUBSCRIPTIONS = ("post subscriptions", "delete subscriptions")  # over WebSocket only
