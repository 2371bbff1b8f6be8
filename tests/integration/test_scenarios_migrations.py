"""Migrations of the database, here and in another process: what they touch is read anew, and their own notes always."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, Numeric, String, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from migration_support import upgrade, upgrade_elsewhere, write_scripts
from querycache import FromCache
from scenario_support import Product, Read, World, count_of, entities, get, in_category, rows

SHARED = ["sqlite-lmdb", "postgresql-lmdb", "mariadb-lmdb"]
ONE_EACH = ["sqlite-memory", "postgresql-lmdb", "mariadb-memory"]


class Depot(DeclarativeBase):
    pass


class Shelf(Depot):
    __tablename__ = "sm_shelf"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Box(Depot):
    __tablename__ = "sm_box"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    weight: Mapped[Decimal] = mapped_column(Numeric(8, 2))
    note: Mapped[str | None] = mapped_column(String(20))
    shelf_id: Mapped[int] = mapped_column(ForeignKey("sm_shelf.id"))
    shelf: Mapped[Shelf] = relationship()


MIGRATIONS = {
    "rows are changed by text": """
op.execute("UPDATE sm_box SET name = 'moved' WHERE shelf_id = 1")
""",
    "rows are changed by a construct": """
box = sa.table("sm_box", sa.column("id"), sa.column("name"))
op.execute(box.update().where(box.c.id == 1).values(name="moved"))
op.get_bind().execute(box.delete().where(box.c.id == 2))
""",
    "rows are inserted": """
box = sa.table("sm_box", *(sa.column(name) for name in ("id", "name", "weight", "shelf_id")))
op.bulk_insert(box, [{"id": number, "name": "new", "weight": 1, "shelf_id": 1} for number in (8, 9)])
""",
    "an index and a constraint are made": """
op.create_index("sm_box_note", "sm_box", ["note"])
op.execute("UPDATE sm_box SET note = 'indexed' WHERE id = 1")
""",
    "a column is added": """
op.add_column("sm_box", sa.Column("color", sa.String(10), server_default="red"))
""",
    "a column is given another type": """
with op.batch_alter_table("sm_box") as batch:
    batch.alter_column("weight", type_=sa.Integer(), existing_type=sa.Numeric(8, 2), existing_nullable=False)
op.execute("UPDATE sm_box SET weight = 7 WHERE id = 3")
""",
    "two columns change places": """
with op.batch_alter_table("sm_box") as batch:
    batch.alter_column("name", new_column_name="was", existing_type=sa.String(20), existing_nullable=False)
with op.batch_alter_table("sm_box") as batch:
    batch.alter_column("note", new_column_name="name", existing_type=sa.String(20), existing_nullable=True)
with op.batch_alter_table("sm_box") as batch:
    batch.alter_column("was", new_column_name="note", existing_type=sa.String(20), existing_nullable=False)
""",
    "a column is renamed": """
with op.batch_alter_table("sm_box") as batch:
    batch.alter_column("note", new_column_name="remark", existing_type=sa.String(20), existing_nullable=True)
""",
    "a column is dropped": """
with op.batch_alter_table("sm_box") as batch:
    batch.drop_column("remark")
""",
    "two tables change places": """
op.execute("DROP TABLE sm_spare")
op.rename_table("sm_box", "sm_spare")
op.create_table(
    "sm_box",
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(20)),
    sa.Column("weight", sa.Numeric(8, 2)),
    sa.Column("note", sa.String(20)),
    sa.Column("shelf_id", sa.Integer),
)
""",
}


def whole(session: Session) -> list[dict[str, Any]]:
    """Read what the table has, whatever the models say of it."""
    return [{**row._mapping} for row in session.execute(text("SELECT * FROM sm_box ORDER BY id"))]


READS: list[Read] = [
    get(Box, 1),
    entities(select(Box).order_by(Box.id)),
    entities(select(Box).where(Box.shelf_id == 1).order_by(Box.id)),
    rows(select(Box.name, Shelf.name).join(Shelf).order_by(Box.id)),
    rows(select(Box.name).order_by(Box.id)),
    count_of(Box),
    whole,
]


def attempted(read: Read) -> Read:
    """Read, or say which kind of error the database gave: what no longer fits must fail as it does without a cache."""

    def attempt(session: Session) -> Any:
        try:
            return read(session)
        except DBAPIError as error:
            session.rollback()
            return type(error)

    return attempt


def depot(worlds: Any) -> World:
    world: World = worlds(Shelf, Box)
    with Session(world.outside) as session:
        session.execute(text("CREATE TABLE sm_spare (id INTEGER)"))
        session.add_all([Shelf(id=1, name="low"), Shelf(id=2, name="high")])
        session.flush()
        for number in (1, 2, 3):
            session.add(Box(id=number, name=f"box {number}", weight=Decimal(number), note="n", shelf_id=1 + number % 2))
        session.commit()
    return world


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s40_alembic_migrations_are_heard_while_sessions_read(worlds: Any, tmp_path: Path) -> None:
    world = depot(worlds)
    write_scripts(tmp_path / "alembic", list(MIGRATIONS.values()))
    for revision, name in enumerate(MIGRATIONS, 1):
        for read in map(attempted, READS):
            world.assert_true(read)
        # Where a column's type changed, the store waits for processes that may know the old one: 30 seconds.
        cached = [read for read in map(attempted, READS) if world.cost(read) == 0]
        (before,) = world.prime(whole)
        with world.session() as reader:
            # From the cache: this session holds no lock for which the migration would wait.
            for read in cached:
                assert read(reader) == world.truth(read), name
            upgrade(tmp_path / "alembic", world.engine, str(revision))
            # psycopg's prepared statements do not outlive a change of what they return.
            world.engine.dispose()
            world.outside.dispose()
            reader.expunge_all()
            for read in map(attempted, READS):
                assert read(reader) == world.truth(read), name
        for read in map(attempted, READS):
            world.assert_true(read)
        assert world.truth(whole) != before, f"nothing changes where {name}"
        world.assert_hit(whole)


SEVERAL = ["a column is added", "a column is given another type", "a column is renamed", "rows are changed by text"]


@pytest.mark.parametrize("worlds", SHARED, indirect=True)
def test_s40_migrations_of_another_process_are_heard(worlds: Any, tmp_path: Path) -> None:
    world = depot(worlds)
    write_scripts(tmp_path / "alembic", [MIGRATIONS[name] for name in SEVERAL])
    world.prime(*READS)
    upgrade_elsewhere(tmp_path / "alembic", world.engine.url.render_as_string(hide_password=False), worlds.store_url)
    for read in map(attempted, READS):
        world.assert_true(read)
    with world.write() as session:
        session.execute(text("UPDATE sm_box SET remark = 'late' WHERE id = 1"))
    for read in map(attempted, READS):
        world.assert_true(read)
    world.assert_hit(whole)


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s40_a_migration_that_fails_leaves_nothing_that_is_not_so(worlds: Any, tmp_path: Path) -> None:
    world = depot(worlds)
    body = (
        MIGRATIONS["rows are inserted"] + MIGRATIONS["a column is added"] + 'op.execute("SELECT no_such FROM sm_box")'
    )
    write_scripts(tmp_path / "alembic", [body])
    world.prime(*READS)
    with pytest.raises(DBAPIError):
        upgrade(tmp_path / "alembic", world.engine)
    for read in READS:
        world.assert_true(read)


class Noted(DeclarativeBase):
    pass


class Version(Noted):
    """A model of what Alembic notes."""

    __tablename__ = "alembic_version"

    version_num: Mapped[str] = mapped_column(String(32), primary_key=True)


class Renamed(Noted):
    """A model of what Alembic notes under another name."""

    __tablename__ = "sm_version"

    version_num: Mapped[str] = mapped_column(String(32), primary_key=True)


class Migration(Noted):
    """A model of what many tools note."""

    __tablename__ = "schema_migrations"

    version: Mapped[str] = mapped_column(String(32), primary_key=True)


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s82_a_table_in_which_migrations_are_noted_is_never_cached(worlds: Any) -> None:
    world: World = worlds(Version, Renamed, Migration)
    for model in (Version, Renamed, Migration):
        (number,), name = model.__table__.columns, model.__tablename__
        written = text(f"SELECT {number.name} FROM {name}")
        reads = {
            "entities": rows(select(model)),
            "columns": rows(select(number).options(FromCache())),
            "text": rows(written),
            "asking": rows(written.options(FromCache())),
            "declared": rows(written.execution_options(querycache_reads=[name])),
            "a construct, declared": rows(select(number).execution_options(querycache_reads=[name])),
        }
        for kind, read in reads.items():
            with world.outside.connect() as connection:
                connection.execute(text(f"DELETE FROM {name}"))
                connection.execute(text(f"INSERT INTO {name} ({number.name}) VALUES ('{kind[:8]}')"))
            assert [world.cost(read), world.cost(read)] == [1, 1], (name, kind)
    assert any("keeps the state of migrations" in reason for reason in world.cache.stats()["reasons"])


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s82_what_alembic_notes_is_true_after_each_migration(worlds: Any, tmp_path: Path) -> None:
    world: World = worlds(Version, make_tables=False)
    write_scripts(tmp_path / "alembic", ["pass", "pass"])
    for revision in ("1", "2"):
        upgrade(tmp_path / "alembic", world.engine, revision)
        assert world.read(rows(select(Version.version_num))) == [(revision,)]


# -- the tests of users ----------------------------------------------------------------------------------------------


def begin_before_savepoints(engine: Engine) -> None:
    """Have SQLite begin where SQLAlchemy does, as its documentation tells for savepoints."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))


@pytest.mark.parametrize("mode", ["create_savepoint", "control_fully"])
@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s80_a_test_that_is_rolled_back_as_a_whole_sees_its_own_rows_and_leaves_none(worlds: Any, mode: Any) -> None:
    # What begins a transaction might set its connection, too; it is said that it does not.
    shop: World = worlds.shop(before_attach=begin_before_savepoints, vary=lambda session: None)
    reads = [get(Product, 1), in_category(1), count_of(Product)]
    before = shop.prime(*reads)
    for name in ("quince", "plum"):
        with shop.engine.connect() as connection:
            around = connection.begin()
            with Session(connection, join_transaction_mode=mode) as session:
                assert [read(session) for read in reads] == before
                session.get_one(Product, 1).name = name
                if mode == "create_savepoint":
                    session.commit()
                else:
                    session.flush()
                session.expire_all()
                assert session.get_one(Product, 1).name == name
                assert get(Product, 1)(session) != before[0]
            if around.is_active:
                around.rollback()
        for read in reads:
            shop.assert_true(read)
        assert shop.truth(reads[0]) == before[0]


FROZEN: dict[str, Callable[[], Any]] = {
    "time": lambda: 1_500_000_000.0,
    "time_ns": lambda: 1_500_000_000_000_000_000,
    "monotonic": lambda: 1000.0,
    "monotonic_ns": lambda: 1_000_000_000_000,
    "perf_counter": lambda: 1000.0,
}


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s80_a_clock_that_stands_still_makes_nothing_stale(worlds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shop: World = worlds.shop()
    reads = [get(Product, 1), in_category(1)]
    shop.prime(*reads)
    for name, frozen in FROZEN.items():
        monkeypatch.setattr(time, name, frozen)
    for name in ("quince", "plum", "apple"):
        with shop.write() as session:
            session.get_one(Product, 1).name = name
        for read in reads:
            shop.assert_true(read)
            shop.assert_hit(read)
