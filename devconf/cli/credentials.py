"""Who is to log in, and where: options, a file, the environment, or a question at the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click
from attrs import field, frozen

from devconf.cli.private import others_may_read

DEFAULT_URL = "http://127.0.0.1:8080"

URL, USER, PASSWORD = NAMES = ("DEVCONF_URL", "DEVCONF_USER", "DEVCONF_PASSWORD")

#: A paragraph for the help of every command that logs in.
HELP = f"""What is not given as an option comes from the file of --credentials, else from the environment
({", ".join(NAMES)}), else from ~/.config/devconf/credentials, else it is asked for at the terminal.
The files have lines of NAME=VALUE with these names, and mode 0600."""


@frozen
class Account:
    """Who logs in, and where.

    :ivar url: the server's address.
    """

    url: str
    user: str
    password: str = field(repr=False)


def read_credentials(path: str | Path) -> dict[str, str]:
    """Return the credentials in the file ``path``: lines of ``NAME=VALUE``, the names as those in the environment.

    :raises click.UsageError: the file cannot be read, others may read it, or a line is nothing of this kind.
    """
    try:
        if others_may_read(Path(path)):
            raise click.UsageError(f"{path}: others may read this file; run: chmod 600 {path}")
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise click.UsageError(f"{path}: cannot be read: {reason}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or name not in NAMES:
            raise click.UsageError(f"{path}: line {number} is not NAME=VALUE with one of {', '.join(NAMES)}")
        found[name] = value
    return found


def write_credentials(url: str, user: str, password: str) -> str:
    """Return what :func:`read_credentials` reads."""
    return f"{URL}={url}\n{USER}={user}\n{PASSWORD}={password}\n"


def default_file(environ: Mapping[str, str]) -> Path:
    """Return where the credentials are that need not be named: ``devconf/credentials`` in ``XDG_CONFIG_HOME``."""
    # An address that is not absolute is to be ignored, says the standard for these folders.
    home = Path(environ.get("XDG_CONFIG_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".config") / "devconf" / "credentials"


def choose(given: Mapping[str, str], path: str | None, environ: Mapping[str, str]) -> Account:
    """Return who logs in.

    A name counts only for the address that it was stored with, and a password only for the name: what is in the
    environment for one server is not sent to another that an option names.

    :param given: what options say.
    :param path: the file of ``--credentials``.
    :raises click.UsageError: a file is wrong, or something is missing and there is no terminal to ask at.
    """
    sources = [{**(read_credentials(path) if path else {}), **given}]
    sources.append({name: environ[name] for name in NAMES if environ.get(name)})
    stored = default_file(environ)
    if path is None and len(_joined(sources)) < len(NAMES) and os.path.exists(stored):
        sources.append(read_credentials(stored))
    return _complete({URL: DEFAULT_URL, **_joined(sources)})


def _joined(sources: list[dict[str, str]]) -> dict[str, str]:
    """Return what the ``sources`` say together. The first counts most; one that contradicts it counts no further."""
    found: dict[str, str] = {}
    for name in NAMES:
        for source in sources:
            if name in source and all(
                _same(before, source.get(before, value), value) for before, value in found.items()
            ):
                found[name] = source[name]
                break
    return found


def _same(name: str, one: str, other: str) -> bool:
    return one == other or (name == URL and one.rstrip("/") == other.rstrip("/"))


def _complete(found: dict[str, str]) -> Account:
    if not (USER in found and PASSWORD in found) and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("name and password are needed: use --credentials, or --user and --password-stdin")
    user = found.get(USER) or click.prompt(f"Name of the account at {found[URL]}", err=True)
    password = found.get(PASSWORD) or click.prompt(f"Password of {user} at {found[URL]}", hide_input=True, err=True)
    return Account(found[URL], user, password)
