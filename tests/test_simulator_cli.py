"""``devconf simulate`` as its users run it."""

from __future__ import annotations

import json
import resource
import signal
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devconf.simulator.plan import Kind, Manners, plan, spread
from tests.cli_kit import PATIENCE, Done, Place, serving

KEYS = "keys.csv"
SEED = 5

# These wait for processes in the main thread, where only a signal ends them.
pytestmark = pytest.mark.timeout(300, method="signal")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server whose commands wait a second for a device."""
    with serving(tmp_path_factory.mktemp("server")) as place:
        yield place


def simulate(place: Place, *args: str, **options: Any) -> subprocess.Popen[str]:
    return place.popen("simulate", *args, **options)


def ended(process: subprocess.Popen[str]) -> Done:
    with process:
        out, err = process.communicate(timeout=4 * PATIENCE)
    assert "Traceback" not in err, err
    return Done(process.returncode, out, err)


@pytest.fixture(scope="module")
def sixty(place: Place) -> Done:
    """A run with 60 devices, a tenth of which misbehave, and commands for them."""
    wishes = ["--devices", "60", "--enrol", "--keys", KEYS, "--seed", str(SEED), "--misbehaving", "10%"]
    wishes += ["--every", "4", "--late-by", "1.5", "--commands", "20", "--for", "8", "--settle", "60", "-v", "--json"]
    wishes += ["--report-every", "3"]
    return ended(simulate(place, *wishes))


def test_sixty_devices_a_tenth_of_which_misbehave(place: Place, sixty: Done) -> None:
    assert sixty.status == 0, sixty.out + sixty.err
    manners = Manners(spread(0.1, {}))
    planned = Counter(plan(SEED, f"sim-{number:05}", manners).kind for number in range(1, 61))
    assert len(planned) > 4  # it is worth while
    *others, report = (json.loads(line) for line in sixty.lines)
    assert [(other["verdict"], other["devices"], other["settled"]) for other in others] == [("ok", 60, None)] * 2
    kinds = report.pop("kinds")
    assert [(kind["kind"], kind["devices"], kind["connected"]) for kind in kinds] == [
        (kind.value, planned[kind], planned[kind]) for kind in Kind if planned[kind]
    ]
    for kind in kinds:
        refused = kind["explained"].pop("refused", 0)
        assert (kind["exact"] + refused, kind["explained"], kind["unexplained"]) == (kind["devices"], {}, 0)
        assert not refused or kind["kind"] == "refusing"
    assert report.pop("seconds") > 8
    assert report.pop("compared") > 10
    assert report == {
        "seed": SEED,
        "verdict": "ok",
        "devices": 60,
        "connected": 60,
        "settled": True,
        "not_in": [],
        "unexplained": [],
        "unexplained_omitted": 0,
    }
    for kind in planned:
        assert kind is Kind.WELL or f"begins to misbehave: {kind.value}" in sixty.err
    assert "all 60 devices came in within" in sixty.err


def test_the_keys_are_kept_for_the_next_run(place: Place, sixty: Done) -> None:
    keys = place.folder / KEYS
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    lines = keys.read_text("utf-8").splitlines()
    assert (lines[0], len(lines)) == ("dev_refid,dev_unid,dev_key", 61)
    assert "60 devices are enrolled; their keys are in keys.csv, which only you may read" in sixty.err
    again = ended(simulate(place, "--devices", "10", "--keys", KEYS, "--for", "1", "--settle", "60"))
    assert (again.status, again.lines[-1]) == (0, "verdict: ok"), again
    assert "enrolled" not in again.err
    assert keys.read_text("utf-8").splitlines() == lines


def test_the_file_of_devices_import_is_enough(place: Place, sixty: Done) -> None:
    (place.folder / "boxes.csv").write_text("dev_refid\nbox-1\nbox-2\n", "utf-8")
    assert place.run("devices", "import", "boxes.csv").status == 0
    done = ended(simulate(place, "--keys", "boxes.keys.csv", "--for", "1", "--settle", "60"))
    assert done.status == 0, done
    assert done.lines == [
        done.lines[0],
        "KIND          DEVICES  IN  EXACT  UNEXPLAINED",
        "well-behaved  2        2   2      0",
        "verdict: ok, but no task is bound to these devices: there was nothing to compare (see --commands)",
    ]
    assert done.lines[0].endswith(
        "seed 1: 2 of 2 devices are in; 0 tasks and subtasks of devices compared; all is at rest"
    )


def mistaken(place: Place) -> str:
    """A file in which a device that runs a subtask and one that does not are taken for each other."""
    lines = (place.folder / KEYS).read_text("utf-8").splitlines()
    (one, its, key), (other, theirs, another) = (line.split(",") for line in lines[1:3])
    made = place.run("subtasks", "list", "--device", its, "--json")
    assert len(made.json) == 1
    wrong = place.folder / "mistaken.csv"
    wrong.touch(0o600)
    wrong.write_text(f"{lines[0]}\n{one},{theirs},{key}\n{other},{its},{another}\n", "utf-8")
    return wrong.name


def test_what_differs_ends_with_a_status_of_its_own(place: Place, sixty: Done) -> None:
    done = ended(simulate(place, "--keys", mistaken(place), "--for", "0.5", "--settle", "1"))
    assert (done.status, done.lines[-1]) == (
        1,
        "verdict: 2 devices differ from what they should hold, and nothing explains it",
    ), done
    assert any(line.startswith("unexplained: sim-00002: it lacks 'simulated video'") for line in done.lines)
    assert any(line.startswith("unexplained: sim-00001: it holds 'simulated video', which") for line in done.lines)


def test_signals(place: Place, sixty: Done) -> None:
    """SIGUSR1 makes it report, and Ctrl-C report and end."""
    process = simulate(place, "--devices", "5", "--keys", KEYS, "--settle", "60", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            if "came in" in line:
                break
        process.send_signal(signal.SIGUSR1)
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        last = json.loads(process.stdout.readline())
        assert process.wait(PATIENCE) == 0
    assert (first["verdict"], first["settled"], first["connected"]) == ("ok", None, 5)
    assert (last["verdict"], last["settled"], last["connected"]) == ("ok", True, 5)


def test_the_second_ctrl_c_ends_it(place: Place, sixty: Done) -> None:
    """What it waits for will not come: two devices are taken for each other."""
    process = simulate(place, "--keys", mistaken(place), "--settle", "600")
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            if "came in" in line:
                break
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)  # two at once would be one
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stdout is not None
        assert process.stdout.read() == ""


# -- what is wrong is told in one line, before anything is dialled


@pytest.mark.parametrize(
    ("args", "status", "why"),
    [
        (["--keys", "none.csv"], 2, "none.csv is not there; name the file of keys with --keys, or --enrol devices"),
        (["--keys", KEYS, "--devices", "99"], 2, "keys.csv has 60 devices; say --devices 60, or --enrol more"),
        (["--keys", "open.csv"], 2, "open.csv: others may read this file; run: chmod 600 open.csv"),
        (["--keys", "devconf.toml"], 2, "devconf.toml is no file of keys: its first line is not dev_refid"),
        (["--keys", "strangers.csv"], 2, "does not know 1 of the devices in strangers.csv, such as box"),
        (["--keys", KEYS, "--late", "12"], 2, "'12' is no share; write it like 2% or 0.02"),
        (["--keys", KEYS, "--late", "60%", "--silent", "0.5"], 2, "the shares make 110% of the devices"),
        (["--enrol", "--keys", "new.csv"], 2, "--enrol needs --devices: how many there are to be"),
        (["--url", "http://127.0.0.1:1", "--keys", KEYS], 3, "cannot be reached"),
        (["--url", "https://127.0.0.1:1", "--double", "1%", "--keys", KEYS], 2, "--double works with an http:// "),
        (
            ["--devices", "70", "--enrol", "--keys", "lost.csv"],
            1,
            "is enrolled already, and its key is not in the file",
        ),
    ],
)
def test_what_is_wrong(place: Place, sixty: Done, args: list[str], status: int, why: str) -> None:
    heading = "dev_refid,dev_unid,dev_key\n"
    for name, line, mode in (("strangers.csv", "box,none,key\n", 0o600), ("open.csv", "box,none,key\n", 0o644)):
        (place.folder / name).write_text(heading + line, "utf-8")
        (place.folder / name).chmod(mode)
    env = {**place.credentials, "DEVCONF_URL": args[1]} if args[0] == "--url" else None
    done = place.run("simulate", *args, env=env)
    assert (done.status, done.out) == (status, ""), done
    (line,) = done.err.splitlines()
    assert line.startswith("devconf: ")
    assert why in line
    assert not (place.folder / "new.csv").exists()


def test_a_viewer_may_not_read_what_it_takes(place: Place, sixty: Done) -> None:
    assert (
        place.run("users", "add", "looker", "--role", "viewer", "--new-password-stdin", text="secret-99\n").status == 0
    )
    env = {**place.credentials, "DEVCONF_USER": "looker", "DEVCONF_PASSWORD": "secret-99"}
    done = place.run("simulate", "--keys", KEYS, env=env)
    assert (done.status, done.out) == (4, ""), done
    assert "contents take the role operator" in done.err


def test_too_few_open_files_are_told_before_anything_is_dialled(place: Place, sixty: Done) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (120, 150))

    done = ended(simulate(place, "--keys", KEYS, "--half-open", "50%", preexec_fn=few))
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "devconf: 60 devices need 198 open files, and this process may have 150: run 'ulimit -n 198' as root before,"
        " or raise nofile in /etc/security/limits.conf and log in anew\n"
    )


def test_the_limit_is_raised_as_far_as_it_may_be(place: Place, sixty: Done) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (70, 1000))

    done = ended(simulate(place, "--devices", "9", "--keys", KEYS, "--for", "0.1", "--settle", "60", preexec_fn=few))
    assert done.status == 0, done


def test_new_keys_for_devices_whose_keys_are_lost(place: Place, sixty: Done, tmp_path: Path) -> None:
    file = str(tmp_path / "again.csv")
    wishes = ["--devices", "3", "--enrol", "--new-keys", "--keys", file, "--for", "1", "--settle", "60"]
    done = ended(simulate(place, *wishes))
    assert (done.status, done.lines[-1]) == (0, "verdict: ok"), done
