"""The file of the embedded store: how it is made, opened, written and refused.

Several processes share it. It is written ahead into a log, so readers do not wait for a writer, and every
commit is on the disk before it is acknowledged. The tables:

* ``state``: one row, the revision, the revision up to which changes were discarded, and the bytes in
  ``change``.
* ``kv``: the keys as they are now.
* ``change``: what each of the newest revisions did to which key; a NULL value is a deletion.
* ``lease``: when each lease ends, on the clock that counts since boot and does not stop in suspend.
  After another boot that clock says nothing, and the daemon of before has ended: the lease is over.

A file can be removed or replaced while it is in use; SQLite would go on with the old one, which nobody else
can see. So device and inode are compared before every transaction, and once more after it. One that was
replaced is opened anew. One that is gone is not made again by a process that has used it: whoever is about
to put a backup there would copy it over a database in use.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orbitcontrol.errors import StoreAmbiguous, StoreError, StoreRefused, StoreUnreachable

_APPLICATION_ID = 0x4F524254
"""'ORBT', in SQLite's header: tells our files from other programs'."""

_FORMAT = 2
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE state (revision INTEGER NOT NULL, compacted INTEGER NOT NULL, logged INTEGER NOT NULL);
INSERT INTO state VALUES (1, 0, 0);
CREATE TABLE kv (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, mod_revision INTEGER NOT NULL, lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX kv_by_lease ON kv (lease) WHERE lease <> 0;
CREATE TABLE change (
    revision INTEGER NOT NULL, key BLOB NOT NULL, value BLOB, lease INTEGER NOT NULL,
    PRIMARY KEY (revision, key)
) WITHOUT ROWID;
CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl REAL NOT NULL, deadline REAL NOT NULL, boot TEXT NOT NULL);
PRAGMA application_id = 0x4F524254;
PRAGMA user_version = 2;
COMMIT;
"""
_FROM_FORMAT_1 = """
BEGIN IMMEDIATE;
ALTER TABLE state ADD COLUMN logged INTEGER NOT NULL DEFAULT 0;
UPDATE state SET logged = (SELECT coalesce(sum(length(key) + coalesce(length(value), 0)), 0) FROM change);
PRAGMA user_version = 2;
COMMIT;
"""
_LARGEST_LOG = 16 * 1024 * 1024
"""Bytes to which SQLite cuts its own log file when it begins anew; a large transaction leaves more."""


_IDENTITY = """
SELECT (SELECT count(*) FROM sqlite_schema), application_id, user_version
FROM pragma_application_id, pragma_user_version
"""

_WRITABLE = "the file and its directory must be writable by this user"
_ADVICE = {
    sqlite3.SQLITE_FULL: "make room and try again",
    sqlite3.SQLITE_NOTADB: "give another path, or restore the file from a backup",
    sqlite3.SQLITE_CORRUPT: "give another path, or restore the file from a backup",
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _WRITABLE,
    sqlite3.SQLITE_PERM: _WRITABLE,
}


READING = "BEGIN"
WRITING = "BEGIN IMMEDIATE"
"""How a transaction begins: one that will write takes its turn at once."""


class SqliteFile:
    """One connection to the file, opened by the first transaction."""

    def __init__(self, path: str, *, address: str) -> None:
        self._path = path
        self._address = address
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        self.openings = 0
        """How many different files were opened at this path: the revisions of one say nothing of another."""

    def close(self) -> None:
        """Closes the connection; the next transaction would open another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def transaction(self, begin: str, deadline: float) -> Iterator[sqlite3.Connection]:
        """A transaction that is committed at the end of the block, and undone by any error in it."""
        connection = self._open(deadline)
        committing = False
        try:
            connection.execute(f"PRAGMA busy_timeout = {self._milliseconds_left(deadline)}")
            connection.execute(begin)
            yield connection
            committing = True
            connection.execute("COMMIT")
            self._require_in_place(begin)
        except sqlite3.Error as error:
            raise self._translated(error, committing=committing) from error
        finally:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    def _milliseconds_left(self, deadline: float) -> int:
        left = deadline - time.monotonic()
        if left <= 0:
            raise StoreUnreachable(f"{self._address}: no answer in time: other processes keep the store busy")
        return int(left * 1000) + 1

    def _require_in_place(self, begin: str) -> None:
        """Raises when the file was removed or replaced in the transaction that has just ended."""
        if self._file == file_identity(self._path):
            return
        happened = f"{self._address}: the file was removed or replaced in the middle of a transaction"
        if begin == READING:
            raise StoreUnreachable(happened)
        raise StoreAmbiguous(f"{happened}: what it wrote may be lost")

    def _open(self, deadline: float) -> sqlite3.Connection:
        """The connection; a new one if the file was replaced since the last operation."""
        identity = file_identity(self._path)
        if self._connection is not None and self._file == identity:
            return self._connection
        if self._file is None:
            self._create()
        elif self._file != identity:
            self._require_replaced(identity)
        self.close()
        try:
            connection = sqlite3.connect(
                f"{Path(self._path).absolute().as_uri()}?mode=rw",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise self._translated(error, committing=False) from error
        try:
            connection.execute(f"PRAGMA busy_timeout = {self._milliseconds_left(deadline)}")
            self._prepare(connection, deadline)
        except sqlite3.Error as error:
            connection.close()
            raise self._translated(error, committing=False) from error
        except StoreError:
            connection.close()
            raise
        identity = file_identity(self._path)
        self.openings += identity != self._file
        self._connection, self._file, self._log = connection, identity, file_identity(f"{self._path}-wal")
        return connection

    def _require_replaced(self, identity: tuple[int, int] | None) -> None:
        """Raises unless another file is in the place of the one in use, as a whole.

        SQLite would take the log that is left of the old file for the new one's, and mix the two.
        """
        if identity is None:
            raise StoreUnreachable(
                f"{self._address}: the file was removed while it was in use: "
                "put it back, or begin a new one with `orbitctl import`"
            )
        if self._log is not None and self._log == file_identity(f"{self._path}-wal"):
            raise StoreRefused(
                f"{self._address}: the file was replaced, and the log of the old one is still beside it: "
                f"remove {self._path}-wal and {self._path}-shm"
            )

    def _create(self) -> None:
        """Makes the file and the directories above it, for this user alone; SQLite's other files follow."""
        path = Path(self._path)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.is_dir():
                raise StoreRefused(f"{self._address}: this is a directory, the store is a file")
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreRefused(f"{self._address}: cannot create the file: {error.strerror}") from error

    def _prepare(self, connection: sqlite3.Connection, deadline: float) -> None:
        """Checks that the file is ours, makes the tables in an empty one, and sets how it is written."""
        # One statement, so that it cannot see the file half-made by another process.
        tables, application, version = connection.execute(_IDENTITY).fetchone()
        if tables and application != _APPLICATION_ID:
            raise StoreRefused(f"{self._address}: the file is another program's database")
        if version > _FORMAT:
            raise StoreRefused(f"{self._address}: written by a newer version: install that one")
        if not version and self._file is not None:
            raise StoreUnreachable(f"{self._address}: the file was replaced by an empty one")
        self._use_write_ahead_log(connection, deadline)
        # The default of a write-ahead log may lose the newest commits in a power failure.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}")
        if version < _FORMAT:
            try:
                connection.executescript(_FROM_FORMAT_1 if version else _SCHEMA)
            except sqlite3.OperationalError:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if connection.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
                    raise

    def _use_write_ahead_log(self, connection: sqlite3.Connection, deadline: float) -> None:
        """Readers do not wait for a writer then. SQLite does not wait its turn for this change itself."""
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
            else:
                return

    def _translated(self, error: sqlite3.Error, *, committing: bool) -> StoreError:
        """SQLite's primary result codes (sqlite.org/rescode.html) as Orbit's errors."""
        reason = f"{self._address}: {error}"
        match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return StoreUnreachable(f"{reason}: another process keeps the store busy")
            case sqlite3.SQLITE_IOERR if committing:
                return StoreAmbiguous(f"{reason}: the transaction may have happened or not")
            case sqlite3.SQLITE_IOERR:
                return StoreUnreachable(reason)
            case code:
                advice = _ADVICE.get(code)
                return StoreRefused(f"{reason}: {advice}" if advice else reason)


def file_identity(path: str) -> tuple[int, int] | None:
    """Device and inode of the file; None without one."""
    try:
        found = os.stat(path)  # noqa: PTH116 -- in every operation, and half the time of Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino
