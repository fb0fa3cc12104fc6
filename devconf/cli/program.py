"""How ``devconf`` reads its command line, and how it ends: one line for what went wrong, and a status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from devconf.cli.output import printable
from devconf.cli.status import Failed, Status

#: Other names that a group may be called by. ``user`` is not one: it is a group of its own.
_SINGULAR = {
    "device": "devices",
    "task": "tasks",
    "subtask": "subtasks",
    "store-conf": "store-confs",
}


class Program(click.Group):
    """The group of all commands, in sections."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self._sections: list[tuple[str, list[click.Command]]] = []

    def add_section(self, heading: str, commands: Iterable[click.Command]) -> None:
        """Add ``commands``, which stand below ``heading`` in the help."""
        section = list(commands)
        self._sections.append((heading, section))
        for command in section:
            self.add_command(command)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command; a group answers to its singular as well."""
        name = cmd_name.replace("_", "-")
        return super().get_command(ctx, _SINGULAR.get(name, name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the sections."""
        for heading, commands in self._sections:
            with formatter.section(heading):
                formatter.write_dl([(str(command.name), command.get_short_help_str(100)) for command in commands])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the exit statuses."""
        with formatter.section("Exit statuses"):
            formatter.write_dl([(str(int(status)), status.meaning) for status in Status])

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line, and end the process; see :class:`click.Command`."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        sys.exit(self._run(args, prog_name or "devconf", extra))

    def _run(self, args: Sequence[str] | None, prog_name: str, extra: dict[str, Any]) -> int:
        try:
            status = super().main(args, prog_name, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return Status.USAGE
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else prog_name
            _complain(f"{error.format_message()} (see: {where} --help)")
            return Status.USAGE
        except click.ClickException as error:
            _complain(error.format_message())
            return error.status if isinstance(error, Failed) else Status.FAILED
        except (click.Abort, KeyboardInterrupt):
            return Status.INTERRUPTED
        except OSError as error:
            if error.errno != errno.EPIPE:  # else whoever read the output has gone, as `head` does
                _complain(f"{error.filename or 'the output'}: {error.strerror}")
            _close_output()
            return Status.FAILED
        return status if isinstance(status, int) else Status.DONE


def _complain(text: str) -> None:
    click.echo(f"devconf: {printable(' '.join(text.split()))}", err=True)


def _close_output() -> None:
    """Write no more: Python would try once more when it ends, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
