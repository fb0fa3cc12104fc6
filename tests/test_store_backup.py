"""A copy of the database, and giving it up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from devconf.errors import CommandFailed, Ecode
from devconf.store import backup
from tests.storing import add_user, opened, url, users

NAMES = [f"user {number}" for number in range(1000)]


@pytest.fixture
def filled(database: Path) -> Iterator[Path]:
    """A database with many accounts, in use."""
    with opened(database) as connection:
        with connection.begin():
            for name in NAMES:
                add_user(connection, name)
        yield database


def test_a_copy_has_all_of_it(filled: Path) -> None:
    assert users(backup.copy(url(filled), lambda: False)) == NAMES


@pytest.mark.parametrize("looks", [0, 5])
def test_a_copy_that_is_given_up_leaves_nothing(filled: Path, looks: int) -> None:
    before = set(filled.parent.iterdir())
    number = count()
    with pytest.raises(CommandFailed) as failed:
        backup.copy(url(filled), lambda: next(number) >= looks)
    told = "the server is stopping; ask for a backup when it runs again"
    assert (failed.value.ecode, failed.value.enote) == (Ecode.STOPPING, told)
    assert set(filled.parent.iterdir()) == before
