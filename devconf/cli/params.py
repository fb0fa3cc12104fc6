"""Kinds of arguments, and what options must agree on."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

F = TypeVar("F", bound=Callable[..., Any])


def json_object(text: str) -> Any:
    """Return the JSON object that an argument means: as it is, ``@FILE`` with one, or ``-`` for the standard input.

    :raises click.BadParameter: there is none.
    """
    return _read(text, dict, "a JSON object; write it like '{\"limit\": 10}'")


def algos(text: str) -> Any:
    """Return the ``algo_comb`` that an argument means: names with commas between them, or a list in JSON.

    :raises click.BadParameter: it is neither.
    """
    if text and text[0] not in "[{@" and text != "-":
        return [{"algo_id": name.strip()} for name in text.split(",")]
    return _read(text, list, 'a JSON list of algorithms; write it like \'[{"algo_id": "face"}]\', or face,plate')


def _read(text: str, kind: type[Any], what: str) -> Any:
    context = click.get_current_context()
    if context.resilient_parsing:
        return text
    try:
        found = json.loads(_text(text, context))
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from None
    if not isinstance(found, kind):
        raise click.BadParameter(f"not {what}")
    return found


def _text(text: str, context: click.Context) -> str:
    if text == "-":
        if context.params.get("password_stdin") is not None:
            raise click.BadParameter("the standard input cannot be both the password and this")
        return sys.stdin.read()
    return file_content(text[1:])[1].decode("utf-8") if text.startswith("@") else text


def file_content(text: str) -> tuple[Path, bytes]:
    """Return the file that an argument names, and what is in it.

    :raises click.BadParameter: it cannot be read.
    """
    try:
        return Path(text), Path(text).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{text}: cannot be read: {error.strerror}") from None


def changes(**values: Any) -> dict[str, Any]:
    """Return those of ``values`` that were given: the params of a command, without what is left out."""
    return {name: value for name, value in values.items() if value is not None}


def needs_change(*names: str, not_both: tuple[tuple[str, str], ...] = ()) -> Callable[[F], F]:
    """Make sure, before the server is asked, that one of the options ``names`` is given.

    :param not_both: pairs of which only one may be given.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def checked(**values: Any) -> Any:
            given = {name for name in names if values[name] not in (None, False, ())}
            if not given:
                raise click.UsageError("say what is to change: see the options", click.get_current_context())
            for pair in not_both:
                if given.issuperset(pair):
                    options = " and ".join(f"--{name.replace('_', '-')}" for name in pair)
                    raise click.UsageError(f"{options} cannot both be given", click.get_current_context())
            return function(**values)

        return cast(F, checked)

    return decorate
