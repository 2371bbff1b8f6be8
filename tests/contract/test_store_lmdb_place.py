"""A directory that cannot hold the LMDB store is refused at the start, with the cause and the remedy."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmdb_support import MIB, OPENING, opening
from namespaces import on_small_filesystem, with_read_only
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores import _lmdb_place
from querycache.stores.lmdb import LMDBStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(path: Path) -> Iterator[LMDBStore]:
    store = LMDBStore(path, 4 * MIB)
    yield store
    store.close()


def refused(path: Path, kind: type[Exception] = ConfigurationError, **options: object) -> str:
    with pytest.raises(kind) as caught:
        LMDBStore(path, 4 * MIB, **options)  # type: ignore[arg-type]  # options of several types
    assert f"lmdb://{path}" in str(caught.value)
    return str(caught.value)


def test_a_path_that_is_a_file_is_refused(path: Path) -> None:
    path.write_text("mine")
    assert "is a file" in refused(path)


def test_a_path_below_a_file_is_refused(path: Path) -> None:
    path.write_text("mine")
    refused(path / "below", StoreUnavailable)


def test_a_directory_with_files_of_others_is_refused_and_left_alone(path: Path) -> None:
    path.mkdir()
    (path / "letters.txt").write_text("mine")
    assert "letters.txt" in refused(path)
    assert os.listdir(path) == ["letters.txt"]


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "virtiofs", "fuse.sshfs", "fuseblk"])
def test_a_network_filesystem_is_refused_by_its_type(path: Path, kind: str) -> None:
    assert repr(kind) in refused(path, filesystem=lambda _: kind)
    assert not path.exists()


def test_the_type_of_a_filesystem_is_found_for_a_path_that_does_not_exist_yet(path: Path) -> None:
    assert _lmdb_place.filesystem_of(path) == _lmdb_place.filesystem_of(path.parent) != ""
    assert _lmdb_place.filesystem_of(Path("/proc/self/x")) == "proc"


def test_a_directory_in_use_by_another_version_is_refused(
    store: LMDBStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lmdb_place, "FORMAT", "querycache-lmdb another")
    with pytest.raises(ConfigurationError, match="another version of querycache"), _place(path).opening():
        pass


def _place(path: Path) -> _lmdb_place.Place:
    return _lmdb_place.Place(path, is_default=False)


def test_a_default_directory_that_others_can_write_is_refused_with_the_remedy(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)
    assert "QUERYCACHE_URL" in refused(path, is_default=True)


def test_a_default_directory_that_is_a_link_is_refused(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")
    assert "QUERYCACHE_URL" in refused(path, is_default=True)


def test_a_default_directory_of_another_user_is_refused_with_the_remedy(path: Path) -> None:
    if os.geteuid() == 0:
        path.mkdir(mode=0o700)
        os.chown(path, 12345, 12345)
    else:
        path = Path("/usr")
    assert f"belongs to user {path.stat().st_uid}" in refused(path, is_default=True)


AS_NOBODY = """
import os, querycache.stores.lmdb
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
"""


@pytest.mark.parametrize(("name", "kind"), [("cache", "ConfigurationError"), ("new/cache", "StoreUnavailable")])
def test_a_directory_without_permission_is_an_error_at_the_start(tmp_path: Path, name: str, kind: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").mkdir(mode=0o555)
    home.chmod(0o555)
    if os.geteuid() == 0:
        for directory in list(home.parents)[:4]:
            directory.chmod(directory.stat().st_mode | 0o055)
    told = subprocess.run(
        [sys.executable, "-c", AS_NOBODY + OPENING, str(home / name)], capture_output=True, text=True, check=True
    ).stdout
    assert told.startswith(f"{kind} lmdb://{home / name} cannot be")
    assert f"user {os.geteuid() or 65534}" in told


@pytest.mark.parametrize(("name", "kind"), [("cache", "ConfigurationError"), ("new/cache", "StoreUnavailable")])
def test_a_read_only_filesystem_is_an_error_at_the_start(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "cache").mkdir()
    assert opening(tmp_path / name, with_read_only(tmp_path)).startswith(f"{kind} lmdb://{tmp_path / name} cannot be")


def test_a_filesystem_without_room_for_the_stamps_is_an_error_at_the_start(tmp_path: Path) -> None:
    told = opening(tmp_path / "cache", on_small_filesystem(tmp_path, 12))
    assert told.startswith(f"StoreUnavailable lmdb://{tmp_path / 'cache'} cannot be used: No space left")


def test_a_new_directory_belongs_to_its_user_alone(store: LMDBStore, path: Path) -> None:
    files = [path, *path.rglob("*")]
    assert all(stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 for file in files)


def test_a_directory_that_its_owner_shares_with_a_group_has_files_that_the_group_can_write(path: Path) -> None:
    before = os.umask(0o002)
    try:
        path.mkdir()
        path.chmod(0o770)
        LMDBStore(path, 4 * MIB).close()
    finally:
        os.umask(before)
    files = list(path.rglob("*"))
    assert files
    assert all(file.stat().st_mode & 0o060 == 0o060 for file in files)


def test_a_process_that_opens_for_ever_holds_up_no_other(
    store: LMDBStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lmdb_place, "OPENING_S", 0.01)
    with _place(path).opening(), pytest.raises(StoreUnavailable) as caught, _place(path).opening():
        pass
    assert "is being opened by another process" in str(caught.value)
