"""Lists whose items are large: a page ends early, and says so."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from devconf.store import journal
from devconf.store.paging import PAGE_BYTES
from devconf.testing import MemoryServer

MIB = 1024 * 1024


def test_a_page_ends_once_it_is_large(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path)
    made = []
    for number in range(11):
        file = {"name": f"{number}", "file_ext": "bin", "file_b64": b64encode(bytes([number]) * MIB).decode()}
        made.append(server.result(server.call("post store_confs", file))["unid"])
    sizes: list[int] = []
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = server.result(server.call("get store_confs", {"content": True, "limit": 1000, **after}))
        sizes.append(sum(conf["size"] for conf in page["store_confs"]))
        seen += [conf["unid"] for conf in page["store_confs"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert seen == made
    assert all(PAGE_BYTES <= size <= PAGE_BYTES + MIB for size in sizes[:-1])
    assert len(sizes) == 3
    without = server.result(server.call("get store_confs", {"limit": 1000}))
    assert (len(without["store_confs"]), without["next"]) == (11, None)
    server.stop()


def test_an_item_that_is_larger_than_a_page_is_a_page(tmp_path: Path) -> None:
    server = MemoryServer(tmp_path)
    large = [{"algo_id": "x", "params": {"text": "y" * MIB}}]
    for _ in range(6):
        task = {"name": "t", "task_type": "video", "algo_comb": large}
        assert server.result(server.call("post tasks", task))["ecode"] == 0
    first = server.result(server.call("get tasks", {"limit": 1000}))
    assert len(first["tasks"]) == 4
    rest = server.result(server.call("get tasks", {"limit": 1000, "after": first["next"]}))
    assert (len(rest["tasks"]), rest["next"]) == (2, None)
    server.stop()


@pytest.mark.parametrize("looked_at", [journal.SLICE, 3, 1])
def test_a_page_of_the_history_ends_once_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: int
) -> None:
    """However many rows of it one transaction looks at."""
    monkeypatch.setattr(journal, "SLICE", looked_at)
    server = MemoryServer(tmp_path)
    large = [{"algo_id": "x", "params": {"text": "y" * MIB}}]
    for _ in range(12):
        task = {"name": "t", "task_type": "video", "algo_comb": large}
        assert server.result(server.call("post tasks", task))["ecode"] == 0
    found: list[int] = []
    after: dict[str, str] = {}
    while True:
        page = server.ask("get commands", {"limit": 1000, **after})
        found.append(len(page["commands"]))
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert [count for count in found if count] == [4, 4, 4]
    server.stop()
