"""The device: what it remembers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devconf.device import DELETED_KEPT, Journal


def test_the_journal_survives_the_process(tmp_path: Path) -> None:
    path = str(tmp_path / "journal.json")
    journal = Journal(path)
    journal.note(("t", None), 1, present=True)
    journal.note(("t", "s"), 2, present=True)
    journal.note(("t", "s"), 3, present=True)
    journal.note(("u", None), 4, present=True)
    journal.note(("u", None), 5, present=False)
    again = Journal(path)
    assert again.tasks() == [{"task_id": "t", "rev": 1}, {"task_id": "t", "rev": 3, "subtask_id": "s"}]
    assert (again.rev(("u", None)), again.has(("u", None)), again.rev(("x", None))) == (5, False, None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["journal.json"]
    assert json.loads((tmp_path / "journal.json").read_bytes()) == {
        "tasks": [{"task_id": "t", "rev": 1}, {"task_id": "t", "rev": 3, "subtask_id": "s"}],
        "deleted": [{"task_id": "u", "rev": 5}],
    }


def test_what_cannot_be_written_is_not_noted(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    journal = Journal(str(folder / "journal.json"))
    journal.note(("t", None), 1, present=True)
    (folder / "journal.json").unlink()
    folder.rmdir()
    with pytest.raises(OSError, match="No such file"):
        journal.note(("t", None), 2, present=True)
    assert journal.rev(("t", None)) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"tasks": [{}], "deleted": []}',
        b'{"tasks": 1}',
        b'{"tasks": [{"task_id": "t", "rev": "4"}], "deleted": []}',
        b'{"tasks": [{"task_id": 4, "rev": 4}], "deleted": []}',
        b'{"tasks": [{"task_id": "t", "rev": 4, "subtask_id": ["s"]}], "deleted": []}',
        b"SQLite format 3\x00\xff\xfe",
        b"[" * 100000,
    ],
)
def test_a_damaged_or_foreign_file_is_moved_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.json"
    path.write_bytes(content)
    journal = Journal(str(path))
    assert journal.trouble == (
        f"{path} is no journal of a device; it is {path}.damaged now, and the server sends all again"
    )
    assert (journal.tasks(), journal.rev(("t", None))) == ([], None)
    assert (tmp_path / "journal.json.damaged").read_bytes() == content
    journal.note(("t", None), 1, present=True)
    again = Journal(str(path))
    assert (again.tasks(), again.trouble) == ([{"task_id": "t", "rev": 1}], "")


def test_what_cannot_be_read_is_said_at_once(tmp_path: Path) -> None:
    """It could not be written either."""
    with pytest.raises(IsADirectoryError):
        Journal(str(tmp_path))


@pytest.mark.parametrize("at", ["write", "fsync", "replace"])
def test_a_crash_while_it_is_written_leaves_it_as_it_was(tmp_path: Path, at: str) -> None:
    """The process ends within a call of the system, and has written half of the file, or all, or not renamed it."""
    path = tmp_path / "journal.json"
    Journal(str(path)).note(("t", None), 1, present=True)
    done = subprocess.run([sys.executable, "-c", CRASH, str(path), at], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (9, "")
    again = Journal(str(path))
    assert (again.tasks(), again.trouble) == ([{"task_id": "t", "rev": 1}], "")
    again.note(("t", None), 3, present=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["journal.json"]


CRASH = """
import builtins, os, sys
from devconf.device import Journal

path, at = sys.argv[1:]
journal = Journal(path)

class Half:
    def __init__(self, file):
        self.file = file
    def __enter__(self):
        return self
    def __exit__(self, *args):
        pass
    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        os._exit(9)

def end(*args):
    os._exit(9)

if at == "write":
    real = open
    builtins.open = lambda *args: Half(real(*args))
else:
    setattr(os, at, end)
journal.note(("t", None), 2, present=True)
"""


def test_it_goes_through_to_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the content, then the name: a power cut must not leave the new name with nothing behind it."""
    path = tmp_path / "journal.json"
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append(f"fsync {name.name if name != tmp_path else 'folder'}")
        fsync(descriptor)

    def noted_replace(old: Any, new: Any) -> None:
        calls.append(f"{Path(old).name} becomes {Path(new).name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    Journal(str(path)).note(("t", None), 1, present=True)
    assert calls == ["fsync journal.json.new", "journal.json.new becomes journal.json", "fsync folder"]


def test_the_oldest_of_what_was_deleted_is_forgotten() -> None:
    journal = Journal()
    for number in range(DELETED_KEPT + 2):
        journal.note((str(number), None), 1, present=False)
    assert [journal.rev((str(number), None)) for number in range(4)] == [None, None, 1, 1]
