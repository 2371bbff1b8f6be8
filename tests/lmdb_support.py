"""What do the LMDB tests share? A store whose clock moves, and processes that use, hold, or crash in a store.

Never: a process that outlives its test, where the test passes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from querycache._types import TagSet
from querycache.stores._registers import SLOT_BITS, slot_key
from querycache.stores.base import Store
from querycache.stores.lmdb import LMDBStore

MIB = 1024 * 1024
T = TagSet((b"t",))

W = bytes(range(1, 17))


class ClockedStore(LMDBStore):
    """A store whose clock a test can move."""

    ahead_ns = 0

    def _ticks(self) -> int:
        return super()._ticks() + self.ahead_ns


def fill(store: Store, key: bytes, payload: bytes = b"rows", tags: TagSet = T, ttl_s: float = 60) -> bool:
    return store.fill(key, payload, store.lookup(key, tags).lease, ttl_s)


def names_in_one_slot(pairs: int) -> list[tuple[bytes, bytes]]:
    """Return pairs of names of tags. The two of a pair share a slot, and none else does."""
    by_slot: dict[bytes, bytes] = {}
    found: dict[bytes, tuple[bytes, bytes]] = {}
    number = 0
    while len(found) < pairs:
        name = b"tag %d" % number
        slot = slot_key(name, SLOT_BITS)
        if slot in by_slot:
            found.setdefault(slot, (by_slot[slot], name))
        by_slot.setdefault(slot, name)
        number += 1
    return list(found.values())


def run(script: str, *arguments: object, inside: Sequence[str] = ()) -> str:
    """Run Python in a process of its own and return what it printed; ``inside``: words that go before its command."""
    done = subprocess.run(_command(PRELUDE + script, arguments, inside), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def opening(path: Path, inside: Sequence[str] = ()) -> str:
    """Have another process open the store; return what came of it: "opened", or the error."""
    done = subprocess.run(_command(OPENING, (path,), inside), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


OPENING = """
import sys
from querycache.errors import QueryCacheError
from querycache.stores.lmdb import LMDBStore
try:
    LMDBStore(sys.argv[1], 4 << 20).close()
    print("opened")
except QueryCacheError as error:
    print(type(error).__name__, error)
"""


@contextmanager
def running(script: str, *arguments: object, inside: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python beside the test, which goes on when the script has written "ready"; killed at the end."""
    command = _command(PRELUDE + script, arguments, inside)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"ready"
        yield process
    finally:
        process.kill()
        process.communicate()


def _command(script: str, arguments: Sequence[object], inside: Sequence[str]) -> list[str]:
    return [*inside, sys.executable, "-c", script, *map(str, arguments)]


def in_child(work: Callable[[], bool]) -> int:
    """Fork, do ``work`` in the child and return its exit code: 0 where it returned True."""
    child = os.fork()
    if not child:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


PRELUDE = """
import os, sys
from querycache._types import TagSet
from querycache.stores.lmdb import LMDBStore
T, W = TagSet((b"t",)), bytes(range(1, 17))
store = LMDBStore(sys.argv[1], 4 << 20)
"""


BUSY = """
number = 0
os.write(1, b"ready")
while True:
    number += 1
    tags = TagSet((b"t%d" % (number % 50),), ((b"table!", b"f"),))
    seen = store.lookup(b"%d" % number, tags)
    store.fill(b"%d" % number, bytes(number % 5000), seen.lease, 60)
    store.release(store.mark(tags, number.to_bytes(16), 60), number.to_bytes(16))
"""
"""For ``running``: use the store without pause."""

PINNING = """
env = getattr(store._handle, sys.argv[2]).env
txn = env.begin()
txn.get(b"x")
os.write(1, b"ready")
os.read(0, 1)
"""
"""For ``running``, with "stamps" or "entries": hold a read transaction open, which pins every page there is."""

WRITING = """
getattr(store._handle, sys.argv[2])._lock.acquire_at_once()
os.write(1, b"ready")
os.read(0, 1)
"""
"""For ``running``, with "stamps" or "entries": keep all others from writing."""

HOLDING = """
os.write(1, b"ready")
os.read(0, 1)
"""
"""For ``running``: have the store open."""
