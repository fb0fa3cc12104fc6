"""The figures of several rounds: medians, spread, and ratios to the reference of the same round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from attrs import asdict

from benchmarks.growth import Growth
from benchmarks.load import Measured

Spread = dict[str, float]


def spread(values: Sequence[float]) -> Spread:
    """Return the median of ``values``, the least and the most."""
    return {"median": round(median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def summary(
    rounds: Sequence[Mapping[str, Measured | Growth]], ratios: Mapping[str, tuple[str, str]]
) -> dict[str, dict[str, Spread]]:
    """Return the spread of each value over the ``rounds``, by what was measured.

    :param ratios: by what was measured: the value to compare, and with whose of the same round.
    """
    figures: dict[str, dict[str, Spread]] = {}
    for name in rounds[0]:
        measured = [asdict(one[name]) for one in rounds]
        figures[name] = {value: spread([each[value] for each in measured]) for value in measured[0]}
        if name in ratios:
            value, reference = ratios[name]
            compared = [getattr(one[name], value) / getattr(one[reference], value) for one in rounds]
            figures[name]["ratio"] = spread(compared)
    return figures


def table(figures: Mapping[str, Mapping[str, Spread]]) -> str:
    """Return what :func:`summary` returned as text for people."""
    head = ("us [least-most]", "ratio [least-most]", "commands/s", "busy", "p50/p95/p99 ms")
    lines = ["CPU time of the server for each message that a command brings to a device, median of the rounds", ""]
    lines.append(f"{'':36}{head[0]:>22}{head[1]:>22}{head[2]:>12}{head[3]:>7}{head[4]:>24}")
    for name, values in figures.items():
        if "cpu_us" in values:
            times = "/".join(f"{values[value]['median']:.1f}" for value in ("p50_ms", "p95_ms", "p99_ms"))
            lines.append(
                f"{name:36}{_shown(values['cpu_us'], 0):>22}{_shown(values.get('ratio'), 2):>22}"
                f"{values['rate']['median']:>12,.0f}{values['busy']['median']:>7.0%}{times:>24}"
            )
    lines += ["", "What a connection takes that is idle, and the server's CPU time until it is there", ""]
    lines.append(f"{'':36}{'KB RSS':>22}{'ratio':>22}{'KB PSS':>12}{'KB private':>12}{'us':>15}")
    for name, values in figures.items():
        if "rss_kb" in values:
            lines.append(
                f"{name:36}{_shown(values['rss_kb'], 1):>22}{_shown(values.get('ratio'), 2):>22}"
                f"{values['pss_kb']['median']:>12.1f}{values['private_kb']['median']:>12.1f}"
                f"{values['connect_us']['median']:>15,.0f}"
            )
    return "\n".join(line.rstrip() for line in lines)


def _shown(values: Spread | None, digits: int) -> str:
    if values is None:
        return ""
    return f"{values['median']:.{digits}f} [{values['least']:.{digits}f}-{values['most']:.{digits}f}]"
