"""Databases that a server refuses: it ends, one line says what is wrong and what to do, and the files are as before."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kit import World, b64, ok
from kit_server import Server

RESTORE = "restore a backup (devconf restore)"
LOG = "-wal"


@pytest.fixture(scope="module")
def killed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database that was in use when its server was killed, and its log; and a backup of before."""
    folder = tmp_path_factory.mktemp("killed")
    conf = world.store_conf(b"a" * 100_000, file_ext="bin")
    for number in range(20):
        world.video_task(name=f"task {number}", store_conf_unid=conf)
    backup = world.http.request("GET", "/webapi/v1/backup", atoken=world.admin.atoken)
    assert backup.status == 200
    (folder / "backup.sqlite").write_bytes(backup.body)
    world.restart()
    for number in range(20, 40):
        world.video_task(name=f"task {number}", store_conf_unid=conf)
    ok(world.operator.call("put store_confs", {"unid": conf, "name": "c", "file_ext": "bin", "file_b64": b64(b"b")}))
    for number in range(40, 60):
        world.video_task(name=f"task {number}", store_conf_unid=conf)
    world.server.kill()
    for name in ("devconf.sqlite", f"devconf.sqlite{LOG}"):
        shutil.copyfile(world.server.folder / name, folder / name)
    world.restart()
    return folder


@pytest.fixture
def server(killed: Path, tmp_path: Path) -> Iterator[Server]:
    """A server that is not running, with what the killed one has left."""
    server = Server(tmp_path)
    for name in ("devconf.sqlite", f"devconf.sqlite{LOG}"):
        shutil.copyfile(killed / name, tmp_path / name)
    yield server
    server.stop()


def log_of(server: Server) -> Path:
    return Path(f"{server.database}{LOG}")


def refused(server: Server) -> str:
    """Why it does not start; the database and its log are left as they are."""

    def files() -> dict[Path, bytes | None]:
        found = [*server.folder.glob("devconf.sqlite"), *server.folder.glob(f"devconf.sqlite{LOG}")]
        return {path: path.read_bytes() if path.is_file() else None for path in found}

    before, log = files(), len(server.log())
    with pytest.raises(AssertionError, match="the server ended with 1"):
        server.start()
    assert files() == before
    said = server.log()[log:]
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "critical" in line]
    text = re.sub(r"^\S+ \[[^]]*\] ", "", line)
    assert str(server.database) in text
    return text


def starts(server: Server) -> None:
    server.start()
    assert server.stop() in (0, -15)


def test_the_killed_one_goes_on(server: Server) -> None:
    """So that what follows is refused for what is done to it."""
    starts(server)


def cut(server: Server) -> None:
    data = server.database.read_bytes()
    server.database.write_bytes(data[: len(data) // 2])


def cut_in_a_page(server: Server) -> None:
    server.database.write_bytes(server.database.read_bytes()[:-1500])


def overwritten(server: Server) -> None:
    data = bytearray(server.database.read_bytes())
    data[4096 * 3 : 4096 * 9] = b"\x5a" * 4096 * 6
    server.database.write_bytes(data)


def zeroed(server: Server) -> None:
    data = server.database.read_bytes()
    server.database.write_bytes(data[:4096] + bytes(len(data) - 4096))


@pytest.mark.parametrize("damage", [cut, cut_in_a_page, overwritten, zeroed])
def test_damaged(server: Server, damage: Callable[[Server], None]) -> None:
    starts(server)  # it is whole, and has no log
    damage(server)
    text = refused(server)
    assert "restore a backup" in text


def test_text(server: Server) -> None:
    log_of(server).unlink()
    server.database.write_text("Dear Sir or Madam,\n" * 400)
    assert refused(server) == (
        f"{server.database}: file is not a database; restore a backup, or name another file in `database`"
    )


def test_of_another_program(server: Server) -> None:
    log_of(server).unlink()
    server.database.unlink()
    with closing(sqlite3.connect(server.database)) as theirs, theirs:
        theirs.execute("CREATE TABLE tasks (task_id TEXT)")
    assert refused(server) == (f"{server.database} is a database of another program; name another file in `database`")


def test_a_folder(server: Server) -> None:
    log_of(server).unlink()
    server.database.unlink()
    server.database.mkdir()
    assert refused(server) == f"cannot open {server.database}: Is a directory; `database` must name a file to write"


def test_of_a_later_version(server: Server) -> None:
    """Also if it was killed, and what is new is in its log."""
    with closing(sqlite3.connect(server.database)) as later:
        later.execute("UPDATE alembic_version SET version_num = '9999'")
        later.commit()
        whole, log = server.database.read_bytes(), log_of(server).read_bytes()
    server.database.write_bytes(whole)
    log_of(server).write_bytes(log)
    Path(f"{server.database}-shm").unlink(missing_ok=True)
    assert refused(server) == (f"{server.database} was written by a later devconf (schema 9999); install that version")


def test_read_only(server: Server) -> None:
    starts(server)
    server.database.chmod(0o400)
    server.prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # of root too
    assert "; `database` must name a file to write" in refused(server)
    server.database.chmod(0o600)
    starts(server)


def not_its_log(server: Server) -> str:
    return (
        f"{log_of(server)} is not the log of {server.database}, but of another copy; {RESTORE}, or remove "
        f"{server.database}.lock if both were put there together"
    )


def kill_in_use(server: Server) -> None:
    """Leave it as it is in use: with what its folder remembers of it, and with a log."""
    server.add_user("somebody", "admin", "adm-3c1f77Qe")
    server.start()
    assert server.http.login("somebody", "adm-3c1f77Qe")["ecode"] == 0
    server.kill()
    assert log_of(server).stat().st_size > 0


def test_an_older_copy_beside_the_log_of_the_present(server: Server) -> None:
    """Both are sound, and so may be what they make together: a part of the changes."""
    starts(server)
    older = server.database.read_bytes()
    kill_in_use(server)
    present = server.database.read_bytes()
    server.database.write_bytes(older)
    assert refused(server) == not_its_log(server)
    server.database.write_bytes(present)
    starts(server)
    server.database.write_bytes(older)
    starts(server)


def test_a_backup_beside_the_log_of_the_present(server: Server, killed: Path) -> None:
    kill_in_use(server)
    shutil.copyfile(killed / "backup.sqlite", server.database)
    assert refused(server) == not_its_log(server)
    Path(f"{server.database}.lock").unlink()
    assert f", or {log_of(server)} is the log of another database; restore a backup" in refused(server)


def test_the_log_of_another_database(server: Server, tmp_path: Path) -> None:
    """Where nothing is remembered of either, it shows in what both make together."""
    folder = tmp_path / "other"
    folder.mkdir()
    other = Server(folder)
    starts(other)
    with closing(sqlite3.connect(other.database)) as database, database:
        for number in range(50):
            database.execute(
                "INSERT INTO store_confs (unid, name, file_ext, content, size, sha256, rev, updated_at)"
                " VALUES (?, 'n', 'bin', ?, 10000, ?, 1, 0)",
                (f"unid {number}", bytes(10_000), f"{number:064}"),
            )
    shutil.copyfile(other.database, server.database)
    text = refused(server)
    assert f", or {log_of(server)} is the log of another database; restore a backup" in text


def test_vanished(server: Server) -> None:
    """What was there must not be begun anew with nothing, unless somebody says so."""
    starts(server)
    whole = server.database.read_bytes()
    server.database.unlink()
    begin = f"{RESTORE}, or remove {server.database}.lock to begin with nothing"
    assert refused(server) == f"{server.database} is gone, though there was a database; {begin}"
    server.database.write_bytes(b"")
    assert refused(server) == f"{server.database} is empty, though there was a database; {begin}"
    server.database.write_bytes(whole)
    starts(server)
    server.database.unlink()
    Path(f"{server.database}.lock").unlink()
    starts(server)


def test_vanished_and_the_log_is_left(server: Server) -> None:
    """SQLite would delete the log."""
    server.database.unlink()
    said = f"but its log {log_of(server)} is there; {RESTORE}"
    assert refused(server) == f"{server.database} is gone, {said}"
    server.database.touch()
    assert refused(server) == f"{server.database} is empty, {said}"


def test_the_first_start_needs_nothing(tmp_path: Path) -> None:
    """An empty file is as good as none."""
    server = Server(tmp_path)
    server.database.touch()
    starts(server)


def test_another_program_does_not_take_the_log_away(world: World) -> None:
    """It looks at the database, or changes it, and goes: as long as the server holds its locks, the log stays.

    A process that opens and closes the file beside SQLite loses them all, and then what it writes is lost with it.
    """
    for _ in range(2):
        before = world.video_task()
        with closing(sqlite3.connect(world.server.database, timeout=20)) as other, other:
            assert other.execute("UPDATE tasks SET updated_at = updated_at WHERE task_id = ?", (before,)).rowcount == 1
        assert log_of(world.server).exists()
        after = world.video_task()
        world.restart(kill=True)
        assert world.has_task(before)
        assert world.has_task(after)
