"""``python -m benchmarks``: devconf against a bare relay, in the same minutes on the same machine.

See ``docs/benchmarks.md`` for what is measured, and what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from attrs import asdict

from benchmarks import report
from benchmarks.plan import FULL, QUICK, RATIOS, Size, measure
from benchmarks.process import Failed


def fdatasync_us(folder: Path) -> float:
    """Return what it takes to have 4 KB on the disk of ``folder``, in microseconds; little: it is in memory."""
    times = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(bytes(4096))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    return median(times) * 1e6


def circumstances(folder: Path) -> dict[str, Any]:
    """Return what the figures depend on."""
    packages = ("devconf-server", "twisted", "autobahn", "msgspec", "sqlalchemy")
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{package: version(package) for package in packages},
        "cpus": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "fdatasync_us": round(fdatasync_us(folder)),
    }


def run(folder: Path, size: Size) -> dict[str, Any]:
    """Measure all there is, and print it.

    :param folder: for databases and logs; empty.
    :returns: the same for machines.
    :raises Failed: a figure would be worthless.
    """
    start = time.monotonic()
    around = circumstances(folder)
    commands, devices = measure(folder, size)
    around |= {"load_after": round(os.getloadavg()[0], 2), "took_s": round(time.monotonic() - start, 1)}
    figures = {**report.summary(commands, RATIOS), **report.summary(devices, RATIOS)}
    print(report.table(figures))
    print()
    print(", ".join(f"{name} {value}" for name, value in around.items()))
    return {
        "circumstances": around,
        "size": asdict(size),
        "figures": figures,
        "rounds": [{name: asdict(value) for name, value in one.items()} for one in (*commands, *devices)],
    }


def raise_file_limit(wanted: int) -> None:
    """Let this process, and those that it starts, open as many files as the system allows.

    :raises Failed: that is less than ``wanted``.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most != resource.RLIM_INFINITY and most < wanted:
        raise Failed(f"{wanted} open files are needed, and only {most} allowed; raise the hard limit (ulimit -Hn)")


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="devconf against a bare relay")
    parser.add_argument("--quick", action="store_true", help="see that it works; the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument(
        "--folder", type=Path, default=Path("build"), help="where databases and logs are meanwhile (%(default)s)"
    )
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    # Ended by a signal, it still stops the servers.
    signal.signal(signal.SIGTERM, stopped_by)
    try:
        raise_file_limit(size.many + 500)
        args.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="bench-", dir=args.folder)).resolve()
        result = run(folder, size)
        # Of what failed the logs stay.
        shutil.rmtree(folder)
    except (Failed, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def stopped_by(number: int, _frame: object) -> NoReturn:
    """End as a signal asks to, with all that was begun undone."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
