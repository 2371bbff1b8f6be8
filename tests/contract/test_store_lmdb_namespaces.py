"""Processes that cannot tell each other apart, or have other clocks, never share an LMDB store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmdb_support import HOLDING, MIB, OPENING, fill, opening, run, running
from namespaces import CLOCK, PIDS, unshare
from querycache.errors import ConfigurationError
from querycache.stores.lmdb import LMDBStore

KINDS = pytest.mark.parametrize(
    ("kinds", "why"), [(PIDS, "another PID namespace"), (CLOCK, "another time namespace")], ids=["pids", "clock"]
)
FILL = "store.fill(b'k', b'rows', store.lookup(b'k', T).lease, 60)\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(path: Path) -> Iterator[LMDBStore]:
    store = LMDBStore(path, 4 * MIB)
    yield store
    store.close()


@KINDS
def test_a_process_of_another_namespace_is_refused(
    store: LMDBStore, path: Path, kinds: tuple[str, ...], why: str
) -> None:
    told = opening(path, unshare(*kinds))
    assert told.startswith(f"ConfigurationError lmdb://{path} is in use")
    assert why in told
    assert fill(store, b"k")


@KINDS
def test_we_are_refused_where_a_process_of_another_namespace_was_first(
    path: Path, kinds: tuple[str, ...], why: str
) -> None:
    with (
        running(HOLDING, path, inside=unshare(*kinds)),
        pytest.raises(ConfigurationError, match=f"lmdb://{path} is in use.*{why}"),
    ):
        LMDBStore(path, 4 * MIB)


@KINDS
def test_what_a_process_of_another_namespace_left_is_taken_over_empty(
    path: Path, kinds: tuple[str, ...], why: str
) -> None:
    run(FILL + "store.close()", path, inside=unshare(*kinds))
    assert run("print(store.lookup(b'k', T).payload)", path) == "None"


@KINDS
def test_what_a_process_of_another_namespace_left_without_closing_is_taken_over_empty(
    path: Path, kinds: tuple[str, ...], why: str
) -> None:
    run(FILL + "store.mark(T, W, 60); os._exit(0)", path, inside=unshare(*kinds))
    assert run("print(store.lookup(b'k', T).payload, store.lookup(b'k', T).storable)", path) == "None True"


def test_processes_of_one_foreign_namespace_share_a_store(path: Path) -> None:
    script = """
import subprocess
store.fill(b'k', b'rows', store.lookup(b'k', T).lease, 60)
print(subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], capture_output=True, text=True).stdout.strip())
"""
    assert run(script, path, OPENING, inside=unshare(*PIDS)) == "opened"
