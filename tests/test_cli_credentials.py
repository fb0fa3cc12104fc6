"""Who logs in, and where: what counts more than what, and which files are believed."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from devconf.cli.credentials import PASSWORD, URL, USER, Account, choose, default_file, read_credentials

HERE, THERE = "http://here:8080", "http://there:8080"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def environ(home: Path, **values: str) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(home), **values}


def stored(home: Path, *lines: str, name: str = "devconf/credentials") -> Path:
    path = home / name
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_options_count_more_than_a_file_and_that_more_than_the_environment(home: Path) -> None:
    path = stored(home, "# mine", "", f"DEVCONF_URL={HERE}/", "DEVCONF_USER=alice", "DEVCONF_PASSWORD=a=b")
    account = Account(HERE, "alice", "a=b")
    assert choose({URL: HERE}, str(path), environ(home, DEVCONF_URL=THERE, DEVCONF_USER="eve")) == account
    assert choose({URL: THERE}, str(path), environ(home)) == Account(THERE, "alice", "a=b")
    assert choose({USER: "bob", PASSWORD: "b"}, None, environ(home, DEVCONF_URL=THERE)) == Account(THERE, "bob", "b")


def test_the_file_that_need_not_be_named(home: Path) -> None:
    stored(home, f"DEVCONF_URL={HERE}", "DEVCONF_USER=alice", "DEVCONF_PASSWORD=a")
    assert choose({}, None, environ(home)) == Account(HERE, "alice", "a")
    assert choose({USER: "bob", PASSWORD: "b"}, None, environ(home)) == Account(HERE, "bob", "b")
    assert default_file({"XDG_CONFIG_HOME": "not/absolute"}) == Path.home() / ".config/devconf/credentials"
    assert default_file({}) == Path.home() / ".config/devconf/credentials"


def test_what_is_for_one_server_is_not_sent_to_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(home, f"DEVCONF_URL={HERE}", "DEVCONF_USER=alice", "DEVCONF_PASSWORD=a")
    for given, more in (
        ({URL: THERE}, {}),
        ({}, {URL: THERE}),
        ({USER: "bob"}, {}),
        ({URL: THERE}, {URL: HERE, USER: "eve", PASSWORD: "e"}),
        ({USER: "bob"}, {USER: "eve", PASSWORD: "e"}),
    ):
        with pytest.raises(click.UsageError, match="name and password are needed"):
            choose(given, None, environ(home, **more))
    # A password by itself is for whoever logs in.
    assert choose({USER: "bob"}, None, environ(home, DEVCONF_PASSWORD="b")) == Account(HERE, "bob", "b")


def test_a_file_that_others_may_read_is_refused(home: Path) -> None:
    path = stored(home, "DEVCONF_USER=alice")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(click.UsageError) as refused:
            choose({}, None, environ(home))
        assert refused.value.message == f"{path}: others may read this file; run: chmod 600 {path}"
    # It is not looked at where it is not needed.
    assert choose({URL: HERE, USER: "bob", PASSWORD: "b"}, None, environ(home)) == Account(HERE, "bob", "b")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"DEVCONF_USER=alice\nuser = x\n", "line 2 is not NAME=VALUE with one of DEVCONF_URL, DEVCONF_USER"),
        (b"DEVCONF_USER\n", "line 1 is not NAME=VALUE"),
        (b"DEVCONF_USER=\xff\n", "cannot be read: it is not UTF-8"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_none_is_refused(content: bytes | None, told: str, home: Path) -> None:
    path = stored(home, name="mine")
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(click.UsageError) as refused:
        read_credentials(path)
    assert refused.value.message.startswith(f"{path}: {told}")


def test_a_password_is_not_shown_by_accident() -> None:
    assert "secret" not in repr(Account(HERE, "alice", "secret"))
