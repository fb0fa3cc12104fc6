"""Files that hold secrets: nobody else may read them, and none is overwritten by accident."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType

from devconf.cli.status import Failed


def create(path: Path) -> int:
    """Make the file ``path``, for its owner only, and return its descriptor.

    :raises Failed: it is there already, or cannot be made.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise _there(path) from None
    except OSError as error:
        raise Failed(f"{path} cannot be made: {error.strerror}") from None


def _there(path: Path) -> Failed:
    return Failed(f"{path} is there already and is not overwritten; remove it, or name another file")


class NewFile:
    """A file for its owner only that gets its name once it is complete, and on the disk::

        with NewFile(path) as new:
            new.file.write(content)
            new.publish()

    :param replace: a file of that name is replaced.
    :ivar file: to write to, :ivar temporary: and where it is until then.
    :raises Failed: there is such a file, and it is not to be replaced; or it cannot be made.
    """

    def __init__(self, path: Path, *, replace: bool = False) -> None:
        if path.exists() and not replace:
            raise _there(path)
        self._path = path
        self._replace = replace
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        self.temporary.unlink(missing_ok=True)
        self.file = open(create(self.temporary), "wb")  # noqa: SIM115 (closed by __exit__)

    def publish(self) -> None:
        """Give it its name.

        :raises Failed: there is such a file by now, or it cannot be written.
        """
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            if self._replace:
                self.temporary.replace(self._path)
            else:
                self._link()
            sync_folder(self._path)
        except OSError as error:
            raise Failed(f"{self._path} cannot be written: {error.strerror}") from None

    def _link(self) -> None:
        try:
            os.link(self.temporary, self._path)
        except FileExistsError:
            raise _there(self._path) from None
        except OSError:  # a file system without hard links
            if self._path.exists():
                raise _there(self._path) from None
            self.temporary.replace(self._path)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.temporary.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Write the names in the folder of ``path`` to the disk."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def others_may_read(path: Path) -> bool:
    """Tell whether others than the owner may read or write the file ``path``."""
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
