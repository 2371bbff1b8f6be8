"""What can an LMDB store suffer? Its directory is emptied, deleted, replaced, filled up."""

from __future__ import annotations

import os
import random
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Final

from torture_faults import Fault, Stage, StoreUnderTest

from querycache._types import TagSet
from querycache.stores.lmdb import LMDBStore

SIZE_MB: Final = 8
CROWD: Final = 40
CROWD_BYTES: Final = 250_000
CROWD_OUTLIVES_S: Final = 3.0
"""What expires first is evicted first: the crowd stays so much longer than what is stored just before it."""


class LMDBUnderTest(StoreUnderTest):
    """A directory that every worker opens."""

    name: ClassVar[str] = "lmdb"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "store"

    def url_for(self, position: int) -> str:
        return f"lmdb://{self._path}?size={SIZE_MB}MiB"

    def faults(self) -> Sequence[Fault]:
        return (
            Fault("clear the store", 0.3, self._clear),
            Fault("replace the store's files", 0.2, self._replace),
            Fault("delete the store's files", 0.2, self._delete),
            Fault("fill the store up", 0.4, self._fill_up),
        )

    def lose_everything(self) -> None:
        gone = self._folder / f"gone-{secrets.token_hex(4)}"
        os.rename(self._path, gone)
        shutil.rmtree(gone)

    @contextmanager
    def _opened(self) -> Iterator[LMDBStore]:
        store = LMDBStore(self._path, SIZE_MB * 1024 * 1024)
        try:
            yield store
        finally:
            store.close()

    def _clear(self, stage: Stage, dice: random.Random) -> None:
        with self._opened() as store:
            store.clear()

    def _replace(self, stage: Stage, dice: random.Random) -> None:
        with stage.outage(), stage.marks_may_be_lost():
            self.lose_everything()

    def _delete(self, stage: Stage, dice: random.Random) -> None:
        """Delete file by file, while the others work and make new ones."""
        with stage.outage(), stage.marks_may_be_lost():
            shutil.rmtree(self._path, ignore_errors=True)

    def _fill_up(self, stage: Stage, dice: random.Random) -> None:
        """Store what nobody asks for until what is asked for is evicted."""
        life_s = stage.entry_life_s + CROWD_OUTLIVES_S
        with self._opened() as store:
            lease = store.lookup(None, TagSet((b"crowd",))).lease
            for _ in range(CROWD):
                store.fill(secrets.token_bytes(16), secrets.token_bytes(CROWD_BYTES), lease, life_s)


@contextmanager
def lmdb_under_test(workers: int) -> Iterator[LMDBUnderTest]:
    """Make a directory for a store, in memory where that can be."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="querycache-torture-", dir=memory if memory.is_dir() else None) as folder:
        yield LMDBUnderTest(Path(folder))
