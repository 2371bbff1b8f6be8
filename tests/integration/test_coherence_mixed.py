"""Old code and new code of one application, in processes of their own, write and read one database at once.

Whatever their models differ in, each reads what the database says to its own models, in all four directions, also while
the other one is in the middle of a commit; and when the old code is gone the new one's reads are hits again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import querycache
from app_process import AppProcess
from querycache.statements import fingerprint
from querycache.statements import tags as naming
from querycache.stores import _lmdb_place, _registers

MARK_S = 31

MODELS = """
from __future__ import annotations
from enum import Enum
from typing import Any
from sqlalchemy import BigInteger, ForeignKey, Index, Integer, Numeric, String
from sqlalchemy import Enum as EnumType
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Shelf(Base):
    __tablename__ = "mx_shelf"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)

{before}

class {name}(Base):
    __tablename__ = "mx_thing"
    id = mapped_column({key}, primary_key=True, autoincrement=False)
    name = mapped_column(String(20))
    shelf_id = mapped_column(ForeignKey("mx_shelf.id"))
    kind = mapped_column({kind}, nullable=True)
    {columns}

{after}

ENTITY = {name}
MODELS = {models}
TAG_COLUMNS = {tag_columns}
"""

TABLES = (
    "CREATE TABLE mx_shelf (id INTEGER PRIMARY KEY)",
    "CREATE TABLE mx_thing (id INTEGER PRIMARY KEY, name VARCHAR(20), shelf_id INTEGER REFERENCES mx_shelf (id),"
    " kind VARCHAR(20){columns})",
    "INSERT INTO mx_shelf (id) VALUES (3), (4), (7)",
    "INSERT INTO mx_thing (id, name, shelf_id, kind) VALUES (1, 'a', 3, 'one'), (2, 'b', 3, 'one'), (3, 'c', 7, 'one')",
)

POLYMORPHIC = '__mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "any"}'
SUBCLASS = 'class {0}(Thing):\n    __mapper_args__ = {{"polymorphic_identity": "{1}"}}\n'
ENUM = "class Kind(Enum):\n    {0}\n"
ENUM_TYPE = "EnumType(Kind, native_enum=False, length=20, values_callable=lambda kinds: [kind.value for kind in kinds])"


def models(
    columns: str = "",
    *,
    name: str = "Thing",
    key: str = "Integer",
    kind: str = "String(20)",
    before: str = "",
    after: str = "",
    also: str = "",
    tag_columns: str = "None",
) -> str:
    """Write a file of models."""
    return MODELS.format(
        name=name,
        key=key,
        kind=kind,
        before=before,
        after=after,
        columns=columns,
        models=f"[{name}, {also}]",
        tag_columns=tag_columns,
    )


Write = tuple[str, dict[str, Any]]

READS = ("get", "shelf", "all", "count", "names", "named")
WRITES: tuple[Write, ...] = (
    ("blind", {"id": 1, "name": "y"}),
    ("change", {"id": 1, "name": "x"}),
    ("change", {"id": 1, "name": "a"}),
    ("change", {"id": 3, "shelf_id": 3}),
    ("change", {"id": 3, "shelf_id": 7}),
    ("bulk", {"name": "bulk"}),
    ("core", {"name": "core"}),
    ("run_text", {"statement": "UPDATE mx_thing SET name = 'text' WHERE id = 1"}),
    ("insert", {"id": 9, "name": "a", "shelf_id": 3}),
    ("delete", {"id": 9}),
    ("change", {"id": 2, "name": "a"}),
)


@dataclass(frozen=True)
class Deploy:
    """Two versions of an application's models, and the migration between them. ``writes``: what only one of them can do."""

    old: str
    new: str
    migration: tuple[str, ...] = ()
    columns: str = ""
    old_reads: tuple[str, ...] = ()
    new_reads: tuple[str, ...] = ()
    old_writes: tuple[Write, ...] = ()
    new_writes: tuple[Write, ...] = ()


EXTRA = "extra = mapped_column(Integer, nullable=True{0})"
SET_EXTRA: tuple[Write, ...] = (
    ("change", {"id": 1, "extra": 4}),
    ("change", {"id": 2, "extra": 5}),
    ("bulk", {"extra": 4}),
    ("change", {"id": 2, "extra": None}),
)
WITH_EXTRA = models(EXTRA.format(""))

DEPLOYS: dict[str, Deploy] = {
    "a column is added": Deploy(
        models(),
        WITH_EXTRA,
        ("ALTER TABLE mx_thing ADD COLUMN extra INTEGER", "UPDATE mx_thing SET extra = 4 WHERE id = 1"),
        new_reads=("extra",),
        new_writes=SET_EXTRA,
    ),
    "a column is removed": Deploy(
        WITH_EXTRA, models(), columns=", extra INTEGER", old_reads=("extra",), old_writes=SET_EXTRA
    ),
    "a column is retyped": Deploy(
        WITH_EXTRA,
        models("extra = mapped_column(Numeric(10, 2), nullable=True)"),
        ("ALTER TABLE mx_thing {alter} extra {type} NUMERIC(10, 2)",),
        columns=", extra INTEGER",
        old_reads=("extra",),
        new_reads=("extra",),
        old_writes=SET_EXTRA,
        new_writes=SET_EXTRA,
    ),
    "a class is renamed": Deploy(models(), models(name="Article")),
    "an index is added": Deploy(
        WITH_EXTRA,
        models(EXTRA.format(", index=True")),
        ("CREATE INDEX ix_extra ON mx_thing (extra)",),
        columns=", extra INTEGER",
        old_reads=("extra",),
        new_reads=("extra",),
        old_writes=SET_EXTRA,
        new_writes=SET_EXTRA,
    ),
    "a foreign key is added": Deploy(
        WITH_EXTRA,
        models('extra = mapped_column(ForeignKey("mx_shelf.id"), nullable=True)'),
        ("ALTER TABLE mx_thing ADD CONSTRAINT fk_extra FOREIGN KEY (extra) REFERENCES mx_shelf (id)",),
        columns=", extra INTEGER",
        old_reads=("extra",),
        new_reads=("extra",),
        old_writes=(("change", {"id": 1, "extra": 4}), ("change", {"id": 1, "extra": 7})),
        new_writes=(("bulk", {"extra": 4}), ("change", {"id": 2, "extra": 7})),
    ),
    "the primary key gets another type": Deploy(
        models(), models(key="BigInteger"), ("ALTER TABLE mx_thing {alter} id {type} BIGINT",)
    ),
    "tag columns are named": Deploy(models(), models(tag_columns='{"mx_thing": ["name"]}')),
    "no column narrows any more": Deploy(models(), models(tag_columns='{"mx_thing": []}')),
    "a polymorphic identity is added": Deploy(
        models(POLYMORPHIC, after=SUBCLASS.format("One", "one"), also="One"),
        models(POLYMORPHIC, after=SUBCLASS.format("One", "one") + SUBCLASS.format("Two", "two"), also="One, Two"),
        new_writes=(
            ("run_text", {"statement": "UPDATE mx_thing SET kind = 'two' WHERE id = 1"}),
            ("run_text", {"statement": "UPDATE mx_thing SET kind = 'one' WHERE id = 1"}),
        ),
    ),
    "an enum gets a value": Deploy(
        models(kind=ENUM_TYPE, before=ENUM.format('ONE = "one"')),
        models(kind=ENUM_TYPE, before=ENUM.format('ONE = "one"; TWO = "two"')),
        new_writes=(("bulk", {"kind": "two"}), ("bulk", {"kind": "one"})),
    ),
    "an enum loses a name": Deploy(
        models(kind=ENUM_TYPE, before=ENUM.format('ONE = "one"; TWO = "two"')),
        models(kind=ENUM_TYPE, before=ENUM.format('ONE = "one"; LAST = "last"')),
        old_writes=(("bulk", {"kind": "two"}), ("bulk", {"kind": "one"})),
    ),
}


def on(**names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test for these migrations, by the name of the database."""
    cases = [
        pytest.param((name, database), id=f"{name}-{database}") for database, some in names.items() for name in some
    ]
    return pytest.mark.parametrize("deployed", cases, indirect=True)


MIGRATED = [name for name, deploy in DEPLOYS.items() if deploy.migration]
OF_TWO_MINDS = ["a column is added", "no column narrows any more"]


@dataclass
class Side:
    """One version of the application, in its process."""

    process: AppProcess
    reads: tuple[str, ...]
    writes: tuple[Write, ...]

    def read(self) -> None:
        """Check each read twice: what the first one stored is what the second one is told."""
        for _ in range(2):
            self.process.read(*self.reads)


@pytest.fixture(scope="module")
def processes() -> Iterator[tuple[AppProcess, AppProcess]]:
    """Two processes, in each of which one application after the other is started."""
    both = AppProcess(), AppProcess()
    yield both
    for process in both:
        process.end()


@pytest.fixture
def deployed(
    processes: tuple[AppProcess, AppProcess],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    engine_of: Callable[..., Any],
) -> Iterator[tuple[Side, Side]]:
    """The old code, which has read and cached everything, and then the new code, which has migrated the database."""
    name, database = request.param
    deploy, url = DEPLOYS[name], request.getfixturevalue(f"{database}_url")
    outside = engine_of(url)
    with outside.begin() as connection:
        for statement in TABLES:
            connection.execute(text(statement.format(columns=deploy.columns)))
    for version, source in (("old", deploy.old), ("new", deploy.new)):
        (tmp_path / f"{version}.py").write_text(source, encoding="utf-8")
    old = Side(processes[0], (*READS, *deploy.old_reads), (*WRITES, *deploy.old_writes))
    new = Side(processes[1], (*READS, *deploy.new_reads), (*WRITES, *deploy.new_writes))
    old.process.start(tmp_path / "old.py", url, tmp_path / "store")
    old.read()
    new.process.start(tmp_path / "new.py", url, tmp_path / "store")
    words = {"alter": "ALTER COLUMN", "type": "TYPE"} if database == "postgresql" else {"alter": "MODIFY", "type": ""}
    for statement in deploy.migration:
        new.process.write("run_text", statement=statement.format(**words))
    yield old, new
    for side in (old, new):
        side.process.ask("close")


def move(id_: int, shelf: int) -> Write:
    """Move a thing to another shelf."""
    return "change", {"id": id_, "shelf_id": shelf}


def take_over(side: Side, other: Side) -> None:
    """Have a side read alone for the life of a mark, so that it is the one whose reads are hits."""
    side.read()
    for each in (side, other):
        each.process.ask("advance", seconds=MARK_S)
    side.read()
    assert "count" in side.process.hits(*side.reads)


@on(postgresql=DEPLOYS, mariadb=MIGRATED, sqlite=OF_TWO_MINDS)
def test_old_and_new_code_write_and_read_at_once(deployed: tuple[Side, Side]) -> None:
    for writer in deployed:
        for how, values in writer.writes:
            writer.process.write(how, **values)
            for reader in deployed:
                reader.read()


@on(postgresql=[*OF_TWO_MINDS, "a column is retyped", "a foreign key is added"])
def test_a_commit_of_the_other_code_is_seen_by_one_that_is_served(deployed: tuple[Side, Side]) -> None:
    for reader, writer in (deployed, deployed[::-1]):
        for how, values in writer.writes:
            take_over(reader, writer)
            writer.process.write(how, **values)
            reader.read()


@on(postgresql=OF_TWO_MINDS, mariadb=OF_TWO_MINDS[:1], sqlite=OF_TWO_MINDS[:1])
@pytest.mark.parametrize("point", ["after mark", "before release"])
@pytest.mark.parametrize("served", ["reader", "writer"])
def test_one_code_reads_in_the_middle_of_the_others_commit(
    deployed: tuple[Side, Side], point: str, served: str
) -> None:
    for reader, writer in (deployed, deployed[::-1]):
        to = 3 if writer is deployed[0] else 4
        for how, values in (("blind", {"id": 1, "name": f"n{to}"}), ("bulk", {"name": f"m{to}"}), move(2, to)):
            take_over(*((reader, writer) if served == "reader" else (writer, reader)))
            with writer.process.stopped(point, how, **values):
                reader.read()
            reader.read()
            writer.read()


@on(postgresql=DEPLOYS)
def test_when_the_old_code_is_gone_the_new_ones_reads_are_hits_again(deployed: tuple[Side, Side]) -> None:
    old, new = deployed
    old.process.write("change", id=1, name="last")
    new.read()
    old.process.ask("close")
    new.process.ask("advance", seconds=MARK_S)
    new.read()
    assert new.process.hits(*new.reads) == list(new.reads)


# -- versions of the library -----------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """Make a copy of the library as another version of it would be: one text of one module is another."""

    def make(module: str, old: str, new: str) -> Path:
        folder = tmp_path / "library"
        package = Path(querycache.__file__).parent
        shutil.copytree(package, folder / "querycache", ignore=shutil.ignore_patterns("__pycache__"))
        changed = folder / "querycache" / module
        source = changed.read_text(encoding="utf-8")
        assert len(re.findall(old, source)) == 1, f"{module} has another text now"
        changed.write_text(re.sub(old, new, source), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def start(
    sqlite_url: str, tmp_path: Path, engine_of: Callable[..., Any]
) -> Iterator[Callable[[Path | None], AppProcess]]:
    """Start processes of one application with one version of the library or another."""
    with engine_of(sqlite_url).begin() as connection:
        for statement in TABLES:
            connection.execute(text(statement.format(columns="")))
    (tmp_path / "models.py").write_text(models(), encoding="utf-8")
    started: list[AppProcess] = []

    def begin(library: Path | None) -> AppProcess:
        started.append(AppProcess(library))
        started[-1].start(tmp_path / "models.py", sqlite_url, tmp_path / "store")
        return started[-1]

    yield begin
    for process in started:
        process.end()


OTHER_VERSIONS = {
    "of payloads": ("rows/codec.py", r'(?m)^MAGIC: Final = b"qcr\\x\d+"', r'MAGIC: Final = b"qcr\\x7f"'),
    "of keys": ("statements/fingerprint.py", r'(?m)^FORMAT: Final = b"\w+"', 'FORMAT: Final = b"another"'),
}


@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_two_versions_of_the_library_hear_each_other_and_keep_entries_of_their_own(
    start: Callable[[Path | None], AppProcess], library: Callable[[str, str, str], Path], version: str
) -> None:
    sides = start(None), start(library(*OTHER_VERSIONS[version]))
    for writer in sides:
        for how, values in WRITES:
            writer.write(how, **values)
            for reader in sides:
                reader.read(*READS)
                assert reader.hits(*READS) == list(READS)
    for side in sides:
        assert "defect" not in side.ask("stats")["counts"]


def test_a_version_that_makes_other_tags_of_columns_and_this_one_are_never_stale_for_each_other(
    start: Callable[[Path | None], AppProcess], library: Callable[[str, str, str], Path]
) -> None:
    folder = library("statements/tags.py", r'(?m)^FORMAT: Final = "\w+"', 'FORMAT: Final = "another"')
    for module, old, new in (
        ("tags", 'MEMBERS_SUFFIX: Final = b"#"', 'MEMBERS_SUFFIX: Final = b"%"'),
        ("tags", 'return f".{', 'return f":{'),
        # Else they overwrite each other's entries, and none is old.
        ("fingerprint", f"FORMAT: Final = {fingerprint.FORMAT!r}".replace("'", '"'), 'FORMAT: Final = b"another"'),
    ):
        path = folder / "querycache" / "statements" / f"{module}.py"
        source = path.read_text(encoding="utf-8")
        assert source.count(old) == 1
        path.write_text(source.replace(old, new), encoding="utf-8")
    sides = start(None), start(folder)
    for writer in sides:
        for how, values in WRITES:
            writer.write(how, **values)
            for reader in sides:
                reader.read(*READS)


def test_a_version_with_other_files_is_refused_while_this_one_runs_and_takes_over_when_it_ends(
    start: Callable[[Path | None], AppProcess], library: Callable[[str, str, str], Path]
) -> None:
    this = start(None)
    this.read(*READS)
    other = library("stores/_lmdb_place.py", r'FORMAT: Final = "querycache-lmdb \d+"', 'FORMAT: Final = "another"')
    with pytest.raises(RuntimeError, match=r"ConfigurationError.*another version of querycache.*stop them first"):
        start(other)
    assert this.hits(*READS) == list(READS)
    this.end()
    after = start(other)
    after.read(*READS)
    assert after.hits(*READS) == list(READS)


def test_what_processes_must_agree_on_has_a_version_that_changes_with_it() -> None:
    """A change of these names needs another ``FORMAT``: processes with other names would not hear each other."""
    assert _lmdb_place.FORMAT == "querycache-lmdb 3"
    assert naming.bind_tag("b") == b"b/"
    assert naming.table_tag("b", "s.t") == b"b/s.t!"
    assert naming.rows_tag("b", "s.t") == b"b/s.t*"
    assert naming.key_tag("b", "s.t", ["i3", "i4"]) == b"b/s.t|pk=i3,i4"
    assert naming.value_tag("b", "s.t", ["c"], ["i3"]) == b"b/s.t|c=i3"
    assert naming.value_tag("b", "s.t", ["c", "d"], ["i3", "i4"]) == b"b/s.t|c,d=i3,i4"
    assert naming.unknown_tag("b", "s.t", ["c"]) == b"b/s.t|c=?"
    assert naming.members_tag(b"b/s.t*") == b"b/s.t*#"
    assert naming.column_tag(b"b/s.t*", "D") == b"b/s.t*.d"
    assert naming.FORMAT == "2"
    assert _registers.slot_key(b"b/s.t!", 18).hex() == "7300019608"
    assert _registers.guard_key(b"b/s.t!").hex() == "67fc3098b83cea445242322a1449cbc8f8"
