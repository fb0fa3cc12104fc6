"""``devconf simulate``: a fleet of devices, some of which misbehave, and whether they hold what they should."""

from __future__ import annotations

import functools
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from devconf.cli.credentials import Account
from devconf.cli.loop import run
from devconf.cli.output import Output
from devconf.cli.private import others_may_read
from devconf.cli.session import option_json, options_login
from devconf.cli.status import Failed, Status
from devconf.simulator.plan import MISBEHAVING, Kind, Manners, WrongShares, spread

if TYPE_CHECKING:
    from devconf.cli.simulation import Wishes
    from devconf.simulator.keys import DeviceKey

#: Open files besides those of the devices: this process's own, and connections that come and go.
FILES_BESIDES = 100


class _Share(click.ParamType[float]):
    """A share of the devices, such as ``2%`` or ``0.02``."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it as a number from 0 to 1."""
        if isinstance(value, float):
            return value
        number, percent, rest = str(value).strip().partition("%")
        try:
            share = float(number) / (100 if percent else 1)
        except ValueError:
            share = -1.0
        if rest or not 0 <= share <= 1:
            self.fail(f"{value!r} is no share; write it like 2% or 0.02", param, ctx)
        return share


_SECONDS = click.FloatRange(0, min_open=True)

_OPTIONS = [
    click.option("--devices", "count", type=click.IntRange(1), metavar="N", help="How many; all that have keys."),
    click.option(
        "--seed", type=int, default=1, show_default=True, help="Who misbehaves, how and when follows from it."
    ),
    click.option(
        "--keys",
        type=click.Path(dir_okay=False, path_type=Path),
        default=Path("simulated-devices.csv"),
        show_default=True,
        metavar="FILE",
        help="Their keys, as 'devconf devices import' writes them.",
    ),
    click.option(
        "--enrol", is_flag=True, help="Enrol the devices that are missing in FILE, as an admin, and add them."
    ),
    click.option("--prefix", default="sim-", show_default=True, help="How the names of such devices begin."),
    click.option("--new-keys", is_flag=True, help="With --enrol: those that are enrolled already get new keys."),
    click.option(
        "--latency",
        type=click.FloatRange(0),
        default=20,
        show_default=True,
        metavar="MS",
        help="Milliseconds that an order takes, on average.",
    ),
    *(
        click.option(
            f"--{kind.value}",
            kind.name.lower(),
            type=_Share(),
            default=0.0,
            metavar="SHARE",
            help=f"Such a device {kind.meaning}.",
        )
        for kind in MISBEHAVING
    ),
    click.option(
        "--misbehaving", type=_Share(), default=0.0, metavar="SHARE", help="So many more, of all these kinds evenly."
    ),
    click.option(
        "--every",
        type=_SECONDS,
        default=60,
        show_default=True,
        metavar="SECONDS",
        help="From one misbehaviour of a device to its next, on average; each lasts a quarter to a half of that.",
    ),
    click.option(
        "--late-by",
        type=_SECONDS,
        default=12,
        show_default=True,
        metavar="SECONDS",
        help="After so long, or up to twice, a late answer comes; it should be more than the server's device_timeout.",
    ),
    click.option(
        "--commands",
        type=_SECONDS,
        metavar="RATE",
        help="Make tasks for these devices, as an operator, and give so many commands a second that change them.",
    ),
    click.option("--for", "seconds", type=_SECONDS, metavar="SECONDS", help="How long it runs; else until Ctrl-C."),
    click.option(
        "--settle",
        type=click.FloatRange(0),
        metavar="SECONDS",
        help="Then let no device misbehave any longer, and wait so long at most until all is at rest.",
    ),
    click.option("--report-every", type=_SECONDS, metavar="SECONDS", help="Report now and then, not only at the end."),
    click.option(
        "--at-once",
        type=click.IntRange(1, 1000),
        default=8,
        show_default=True,
        metavar="N",
        help="Devices that log in at the same time; a server takes 20 connections from one address by default.",
    ),
    click.option("--verbose", "-v", is_flag=True, help="Tell what each device does."),
]


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), function)


@click.command()
@_options
@option_json
@options_login
def simulate(
    account: Account,
    as_json: bool,
    enrol: bool,
    latency: float,
    misbehaving: float,
    every: float,
    late_by: float,
    **values: Any,
) -> Status:
    """Connect a fleet of simulated devices, some of which misbehave, and compare what they hold with what they should.

    It runs until Ctrl-C, or for a while, and then reports; SIGUSR1 makes it report meanwhile. What devices should hold
    it asks the server, so the account needs the role operator, or admin to --enrol. Whether a device differs from that
    is explained by the server's own states, or by its having been re-imaged just now; the verdict is ok if nothing is
    left unexplained. A SHARE is written 2% or 0.02.

    The devices keep what they hold in memory: at each start they begin with nothing, and are sent all.

    The exit status is 0 if the verdict is ok, and 1 if it is not.
    """
    from devconf.cli.simulation import Simulation, Wishes

    shares: dict[Kind, float] = {kind: share for kind in MISBEHAVING if (share := values.pop(kind.name.lower()))}
    manners = _manners(_spread(account.url, shares, misbehaving), latency / 1000, every, late_by)
    wishes = Wishes(manners=manners, **values)
    keys = _read(wishes, enrol)
    _make_room(wishes, len(keys))

    async def main(reactor: Any) -> Status:
        return await Simulation(reactor, account, Output(as_json), wishes, keys).run()

    return run(main)


def _spread(url: str, shares: Mapping[Kind, float], misbehaving: float) -> dict[Kind, float]:
    """Return the shares of all kinds."""
    if not url.startswith("https:"):
        return spread(misbehaving, shares)
    # What is said twice is said below TLS, which would not stand it.
    if shares.get(Kind.DOUBLE):
        raise click.UsageError("--double works with an http:// address only")
    return spread(misbehaving, shares, tuple(kind for kind in MISBEHAVING if kind is not Kind.DOUBLE))


def _manners(shares: Mapping[Kind, float], latency: float, every: float, late_by: float) -> Manners:
    try:
        return Manners(shares, latency, every, late_by)
    except WrongShares as error:
        raise click.UsageError(str(error)) from None


def _read(wishes: Wishes, enrol: bool) -> list[DeviceKey]:
    """Return the keys that are there."""
    from devconf.simulator.keys import KeysFailed, read_keys

    path, count = wishes.keys, wishes.count
    if enrol and count is None:
        raise click.UsageError("--enrol needs --devices: how many there are to be")
    try:
        if others_may_read(path):
            raise Failed(f"{path}: others may read this file; run: chmod 600 {path}", Status.USAGE)
        keys = read_keys(path.read_text("utf-8"), str(path))
    except FileNotFoundError:
        if enrol:
            return []
        raise Failed(
            f"{path} is not there; name the file of keys with --keys, or --enrol devices, which writes it", Status.USAGE
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Failed(f"{path}: cannot be read: {reason}", Status.USAGE) from None
    except KeysFailed as failure:
        raise Failed(failure, Status.USAGE) from None
    if not keys and not enrol:
        raise Failed(f"{path} has no devices in it; --enrol makes some", Status.USAGE)
    if count is not None and len(keys) < count and not enrol:
        raise Failed(f"{path} has {len(keys)} devices; say --devices {len(keys)}, or --enrol more", Status.USAGE)
    return keys[:count]


def _make_room(wishes: Wishes, known: int) -> None:
    """Let this process have a connection for each device.

    :raises Failed: it may not.
    """
    count = wishes.count or known
    # One that was half open has two for a while.
    twice = int(count * wishes.manners.shares.get(Kind.HALF_OPEN, 0.0))
    needed = count + twice + wishes.at_once + FILES_BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Failed(
            f"{count} devices need {needed} open files, and this process may have {hard}: run 'ulimit -n {needed}' as"
            " root before, or raise nofile in /etc/security/limits.conf and log in anew",
            Status.USAGE,
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
