"""The table of error codes (``docs/protocol.md`` §3) and the exceptions that carry them."""

from __future__ import annotations

import pytest

from devconf.errors import CommandFailed, Ecode, StartupError

#: §3, line by line: the number, its name in the code, and the status of the HTTP mirror.
TABLE = [
    (0, "OK", 200),
    (1004000001, "NOT_AN_OBJECT", 400),
    (1004000002, "BAD_FIELD", 400),
    (1004000003, "UNKNOWN_COMMAND", 400),
    (1004000004, "BAD_CONTENT", 400),
    (1004010001, "BAD_TOKEN", 401),
    (1004010002, "TOKEN_EXPIRED", 401),
    (1004010003, "BAD_CREDENTIALS", 401),
    (1004030001, "FORBIDDEN", 403),
    (1004040001, "NO_SUCH_TASK", 404),
    (1004040002, "NO_SUCH_STORE_CONF", 404),
    (1004040003, "NO_SUCH_SUBTASK", 404),
    (1004040004, "NO_SUCH_DEVICE", 404),
    (1004040005, "NO_SUCH_USER", 404),
    (1004090001, "HAS_SUBTASKS", 409),
    (1004090002, "WRONG_KIND", 409),
    (1004090003, "ALREADY_EXISTS", 409),
    (1004090004, "IN_USE", 409),
    (1004090005, "CANNOT_RUN", 409),
    (1004090006, "KEY_USED", 409),
    (1004090008, "STALE_REV", 409),
    (1004130001, "TOO_LARGE", 413),
    (1004290001, "TOO_MANY", 429),
    (1005000001, "INTERNAL", 500),
    (1005020001, "REFUSED", 502),
    (1005020002, "LOST", 502),
    (1005030001, "OFFLINE", 503),
    (1005030002, "STOPPING", 503),
    (1005040001, "SILENT", 504),
    (1005070001, "DISK_FULL", 507),
]


def test_the_table_is_that_of_the_protocol() -> None:
    assert [(int(ecode), ecode.name, ecode.http_status) for ecode in Ecode] == TABLE


@pytest.mark.parametrize("ecode", Ecode)
def test_a_code_is_found_by_its_number(ecode: Ecode) -> None:
    assert Ecode(int(ecode)) is ecode


def test_every_code_has_a_meaning_of_its_own() -> None:
    meanings = [ecode.meaning for ecode in Ecode]
    assert all(meaning == meaning.strip() != "" for meaning in meanings)
    assert len(set(meanings)) == len(meanings)


def test_a_number_that_is_none() -> None:
    with pytest.raises(ValueError, match="1004000099 is not a valid Ecode"):
        Ecode(1004000099)


def test_a_failed_command_says_what_and_why() -> None:
    failed = CommandFailed(Ecode.NO_SUCH_TASK, "there is no task 't'", task_id="t")
    assert (failed.ecode, failed.enote, failed.payload) == (
        Ecode.NO_SUCH_TASK,
        "there is no task 't'",
        {"task_id": "t"},
    )
    assert str(failed) == "1004040001: there is no task 't'"
    assert str(StartupError("no room")) == "no room"
