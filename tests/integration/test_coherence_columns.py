"""An update drops what uses the columns that it changes, and nothing else; a column that changes unsaid is heard, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Computed,
    FetchedValue,
    Float,
    ForeignKey,
    Integer,
    String,
    delete,
    exists,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    defer,
    load_only,
    mapped_column,
    relationship,
    selectinload,
)

from querycache import CacheableMixin, ConfigurationError
from querycache.coherence import transactions
from scenario_fixtures import Worlds
from scenario_support import Read, World, entities, get, rows, values_of


class Base(DeclarativeBase):
    pass


class Board(Base):
    __tablename__ = "cl_board"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(20))
    color: Mapped[str] = mapped_column(String(20), default="red")
    visits: Mapped[int] = mapped_column(default=0)
    posts: Mapped[list[Post]] = relationship(back_populates="board")


class Post(Base, CacheableMixin):
    __tablename__ = "cl_post"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    board_id: Mapped[int] = mapped_column(ForeignKey("cl_board.id"))
    owner: Mapped[int | None] = mapped_column(default=None)
    title: Mapped[str] = mapped_column(String(20))
    rank: Mapped[int] = mapped_column(default=0)
    views: Mapped[int] = mapped_column("Views", default=0)
    likes: Mapped[int] = mapped_column(default=0)
    board: Mapped[Board] = relationship(back_populates="posts")


def fill(session: Session) -> None:
    session.add_all([Board(id=number, name=f"board {number}") for number in (1, 2)])
    session.flush()
    session.add_all(
        [Post(id=number, board_id=number % 2 + 1, title=f"post {number}", rank=9 - number) for number in range(1, 7)]
    )


@pytest.fixture
def world(worlds: Worlds) -> World:
    return filled(worlds)


def filled(worlds: Worlds, **options: Any) -> World:
    world = worlds(Board, Post, **options)
    with Session(world.outside) as session:
        if world.dialect == "sqlite":
            session.execute(text("PRAGMA journal_mode = WAL"))
        fill(session)
        session.commit()
    return world


POSTS: Any = Post.__table__


def posts_of(board: int) -> Any:
    return select(Post).where(Post.board_id == board)


OTHER = aliased(Post)

NARROW: dict[str, Read] = {
    "count": rows(select(func.count()).select_from(Post)),
    "count of a list, as paginate() asks": rows(select(func.count()).select_from(posts_of(1).subquery())),
    "count of a list": rows(select(func.count()).where(Post.board_id == 1)),
    "keys": rows(select(Post.id).order_by(Post.rank)),
    "keys of a list": rows(select(Post.id).where(Post.board_id == 1).order_by(Post.title).limit(2)),
    "columns": rows(select(Post.title, Post.rank).order_by(Post.id)),
    "column of a row": rows(select(Post.title).where(Post.id == 1)),
    "columns of some rows": rows(select(Post.title).where(Post.id.in_([1, 2])).order_by(Post.id)),
    "exists": rows(select(exists().where(Post.board_id == 1, Post.rank > 3))),
    "exists an entity": rows(select(posts_of(1).exists())),
    "group by": rows(select(Post.board_id, func.count()).group_by(Post.board_id).order_by(Post.board_id)),
    "having": rows(select(Post.board_id).group_by(Post.board_id).having(func.max(Post.rank) > 7)),
    "parents with children": entities(select(Board).where(Board.posts.any(Post.rank > 2)).order_by(Board.id)),
    "parents without children": entities(select(Board).where(~exists().where(Post.board_id == Board.id))),
    "parents and how many children": rows(
        select(Board.name, select(func.count()).where(Post.board_id == Board.id).scalar_subquery()).order_by(Board.id)
    ),
    "parents in the order of their children": rows(
        select(Board.id).join(Board.posts).group_by(Board.id).order_by(func.min(Post.rank))
    ),
    "self-join": rows(select(Post.id).join(OTHER, OTHER.rank == Post.rank + 1).order_by(Post.id)),
    "some attributes": lambda session: [
        (post.id, post.title) for post in session.scalars(select(Post).options(load_only(Post.title)).order_by(Post.id))
    ],
    "all attributes but two": lambda session: [
        (post.id, post.title)
        for post in session.scalars(select(Post).options(defer(Post.views), defer(Post.likes)).order_by(Post.id))
    ],
    "distinct": rows(select(Post.board_id).distinct().order_by(Post.board_id)),
    "window": rows(select(Post.id, func.rank().over(order_by=Post.rank)).order_by(Post.id)),
    "union": rows(select(Post.rank).where(Post.id == 1).union(select(Post.rank).where(Post.id == 2))),
}

WHOLE: dict[str, Read] = {
    "entities": entities(select(Post).order_by(Post.id)),
    "list": entities(posts_of(2).order_by(Post.id)),
    "get": get(Post, 3),
    "eager": lambda session: [
        [values_of(post) for post in board.posts]
        for board in session.scalars(select(Board).options(selectinload(Board.posts)).order_by(Board.id))
    ],
    "sum of the column": rows(select(func.sum(Post.views))),
    "count by the column": rows(select(func.count()).where(Post.views > 3)),
    "order by the column": rows(select(Post.id).order_by(Post.views.desc(), Post.id).limit(1)),
}


def _by_flush(session: Session) -> None:
    session.get_one(Post, 3).views = 7


def _by_core(session: Session) -> None:
    session.connection().execute(update(POSTS).where(POSTS.c.id == 3).values(Views=7))


def _by_expression(session: Session) -> None:
    session.execute(update(Post).where(Post.id == 3).values(views=Post.views + 7))


def _by_expression_on_an_instance(session: Session) -> None:
    session.get_one(Post, 3).views = Post.views + 7


def _by_many_sets(session: Session) -> None:
    session.execute(update(Post), [{"id": 3, "views": 7}, {"id": 4, "views": 6}])


def _by_bulk_mappings(session: Session) -> None:
    session.bulk_update_mappings(Post.__mapper__, [{"id": 3, "views": 7}])


WAYS = [_by_flush, _by_core, _by_expression, _by_expression_on_an_instance, _by_many_sets, _by_bulk_mappings]


@pytest.mark.parametrize("write", WAYS)
def test_what_does_not_use_a_column_survives_its_update_and_what_does_is_dropped(
    world: World, write: Callable[[Session], None]
) -> None:
    kept = list(NARROW.values())
    if write is _by_many_sets and world.dialect != "sqlite":
        # Of several rows of a table with foreign keys the old values are not asked.
        kept = [read for name, read in NARROW.items() if "list" not in name and "exists" not in name]
    with world.expecting(changed=list(WHOLE.values()), kept=kept), world.write() as session:
        write(session)


def test_a_row_that_comes_is_counted(world: World) -> None:
    with (
        world.expecting(
            changed=[
                NARROW[name] for name in ("count", "count of a list", "keys", "group by", "columns", "some attributes")
            ],
            kept=[NARROW["column of a row"], rows(select(func.count()).where(Post.board_id == 2))],
        ),
        world.write() as session,
    ):
        session.add(Post(id=8, board_id=1, title="new", rank=20))


def test_a_row_that_goes_is_counted_no_more(world: World) -> None:
    changed = ["count", "count of a list", "keys", "parents and how many children", "columns", "group by"]
    with world.expecting(changed=[NARROW[name] for name in changed]), world.write() as session:
        session.execute(delete(Post).where(Post.id == 2))


def test_an_update_drops_each_read_that_uses_its_column(world: World) -> None:
    changed = ["keys", "columns", "self-join", "window", "union", "having", "parents in the order of their children"]
    kept = ["count", "column of a row", "some attributes", "group by", "distinct", "count of a list"]
    with (
        world.expecting(changed=[NARROW[name] for name in changed], kept=[NARROW[name] for name in kept]),
        world.write() as session,
    ):
        session.get_one(Post, 1).rank = 0


def test_a_row_that_moves_is_counted_where_it_went(world: World) -> None:
    with (
        world.expecting(
            changed=[NARROW["count of a list"], NARROW["group by"], NARROW["parents and how many children"]],
            kept=[NARROW["count"], NARROW["keys"], NARROW["column of a row"]],
        ),
        world.write() as session,
    ):
        session.get_one(Post, 1).board_id = 1


def test_a_row_that_takes_another_key_is_another_row(world: World) -> None:
    with (
        world.expecting(
            changed=[NARROW["keys"], NARROW["column of a row"]], kept=[NARROW["parents with children"]][:0]
        ),
        world.write() as session,
    ):
        session.get_one(Post, 1).id = 77


def test_an_update_of_many_columns_drops_what_uses_any_of_them(world: World) -> None:
    kept = [NARROW["count"], NARROW["group by"]]
    with world.expecting(changed=[NARROW["columns"], NARROW["column of a row"]], kept=kept), world.write() as session:
        post = session.get_one(Post, 1)
        post.title, post.rank, post.views, post.likes, post.owner = "other", 30, 1, 2, 3


def test_a_read_keeps_only_by_what_a_join_uses_of_a_table(world: World) -> None:
    by_board = entities(select(Post).join(Post.board).where(Board.name == "board 2").order_by(Post.id))
    with world.expecting(changed=[get(Board, 2)], kept=[by_board]), world.write() as session:
        session.get_one(Board, 2).visits += 1
    with world.expecting(changed=[by_board]), world.write() as session:
        session.get_one(Board, 2).name = "renamed"


def test_what_is_not_known_row_by_row_drops_every_read_of_the_table(world: World) -> None:
    reads = [NARROW["count"], NARROW["keys"], NARROW["column of a row"], NARROW["exists an entity"]]
    world.prime(*reads)
    for statement in (update(Post).where(Post.rank > 0).values(views=3), text("UPDATE cl_post SET likes = 4")):
        with world.write() as session:
            session.execute(statement)
        assert [world.cost(read) for read in reads] == [1] * len(reads)
        world.prime(*reads)


def test_without_old_images_what_is_not_narrowed_survives(worlds: Worlds) -> None:
    world = filled(worlds, old_images=False)
    kept = [NARROW["count"], NARROW["keys"], NARROW["column of a row"], NARROW["group by"]]
    with world.expecting(changed=[get(Post, 3)], kept=kept), world.write() as session:
        _by_flush(session)
    reads = [NARROW["count of a list"], NARROW["keys of a list"]]
    world.prime(*reads)
    with world.write() as session:
        session.get_one(Post, 3).views = 8
    assert [world.cost(read) for read in reads] == [1, 1]


def test_an_instance_that_is_invalidated_drops_narrow_reads_of_its_row(world: World) -> None:
    reads = [NARROW[name] for name in ("count", "count of a list", "keys", "column of a row", "columns", "exists")]
    world.prime(*reads)
    with world.session() as session:
        post = session.get_one(Post, 1)
    with Session(world.outside) as session:
        session.execute(update(Post).where(Post.id == 1).values(title="outside", rank=100, board_id=1))
        session.commit()
    world.cache.invalidate(post)
    for read in reads:
        world.assert_true(read)


def test_a_model_that_is_invalidated_drops_narrow_reads(world: World) -> None:
    reads = [NARROW["count"], NARROW["keys of a list"], NARROW["column of a row"]]
    world.prime(*reads)
    world.cache.invalidate(Post)
    assert [world.cost(read) for read in reads] == [1, 1, 1]


def test_a_transaction_that_changes_more_rows_than_are_followed_drops_its_table_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "MAX_ROW_TAGS", 20)
    with (
        world.expecting(
            changed=[NARROW["columns"]], kept=[get(Board, 1), rows(select(func.count()).select_from(Board))]
        ),
        world.write() as session,
    ):
        for post in session.scalars(select(Post)):
            post.title = f"other {post.id}"
    assert world.cost(NARROW["count"]) == 1


# -- columns that change by themselves -------------------------------------------------------------------------------


class Meter(Base):
    __tablename__ = "cl_meter"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int]
    note: Mapped[str] = mapped_column(String(20), default="")
    double: Mapped[int] = mapped_column(Computed("value * 2", persisted=True))


class Plain(DeclarativeBase):
    """Knows of no computed column."""


class PlainMeter(Plain):
    __tablename__ = "cl_meter"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int]
    note: Mapped[str] = mapped_column(String(20), default="")
    double: Mapped[int] = mapped_column(FetchedValue())


METER_DDL = (
    "CREATE TABLE cl_meter (id INTEGER PRIMARY KEY, value INTEGER NOT NULL, note VARCHAR(20) NOT NULL, "
    "double {type} GENERATED ALWAYS AS (value * 2) STORED)"
)


def of_meters(model: Any) -> tuple[list[Read], list[Read]]:
    """Return reads that use the computed column, and reads that use neither it nor what it is computed from."""
    using = [
        rows(select(model.double).order_by(model.id)),
        rows(select(model.id).where(model.double > 5)),
        rows(select(func.max(model.double))),
        rows(select(model.double).where(model.id == 1)),
    ]
    return using, [rows(select(func.count()).select_from(model)), rows(select(model.note).where(model.id == 1))]


def test_a_computed_column_changes_with_what_it_is_computed_from(worlds: Worlds) -> None:
    world = worlds(Meter)
    with world.write() as session:
        session.add(Meter(id=1, value=2))
    using, others = of_meters(Meter)
    with world.expecting(changed=using, kept=others), world.write() as session:
        session.get_one(Meter, 1).value = 5


@pytest.mark.parametrize("write", ["flush", "core"])
def test_a_column_that_only_the_catalog_knows_to_be_computed_does_too(worlds: Worlds, write: str) -> None:
    with worlds.engine().begin() as connection:
        connection.execute(text(METER_DDL.format(type="INTEGER").replace("double", quoted(worlds, "double"))))
        connection.execute(text("INSERT INTO cl_meter (id, value, note) VALUES (1, 2, '')"))
    world = worlds(PlainMeter, make_tables=False)
    using, others = of_meters(PlainMeter)
    with world.expecting(changed=using, kept=others), world.write() as session:
        if write == "flush":
            session.get_one(PlainMeter, 1).value = 5
        else:
            session.execute(update(PlainMeter).where(PlainMeter.id == 1).values(value=5))


def quoted(worlds: Worlds, name: str) -> str:
    return worlds.engine().dialect.identifier_preparer.quote(name)


def test_a_column_of_a_mapping_that_the_database_updates_is_dropped_by_each_update(worlds: Worlds) -> None:
    class Stamped(DeclarativeBase):
        pass

    class Row(Stamped):
        __tablename__ = "cl_row"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        value: Mapped[int]
        changed: Mapped[int] = mapped_column(server_default="0", server_onupdate=FetchedValue())

    world = worlds(Row)
    with world.write() as session:
        session.add(Row(id=1, value=2))
    changed = rows(select(Row.changed))
    world.prime(changed)
    with world.write() as session:
        session.get_one(Row, 1).value = 3
    assert world.cost(changed) == 1


@pytest.mark.parametrize("worlds", ["mariadb-memory"], indirect=True)
def test_a_timestamp_that_mariadb_updates_by_itself_is_heard(worlds: Worlds) -> None:
    class Timed(DeclarativeBase):
        pass

    class Row(Timed):
        __tablename__ = "cl_timed"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        value: Mapped[int]
        at: Mapped[str] = mapped_column(String(30))

    with worlds.engine().begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE cl_timed (id INTEGER PRIMARY KEY, value INTEGER, "
                "at TIMESTAMP(6) NOT NULL DEFAULT '2001-01-01' ON UPDATE CURRENT_TIMESTAMP(6))"
            )
        )
        connection.execute(text("INSERT INTO cl_timed (id, value) VALUES (1, 2)"))
    world = worlds(Row, make_tables=False)
    at = rows(select(func.concat(Row.at, "")))
    with world.expecting(changed=[at], kept=[rows(select(func.count()).select_from(Row))]), world.write() as session:
        session.get_one(Row, 1).value = 3


@pytest.mark.parametrize("worlds", ["postgresql-lmdb"], indirect=True)
def test_a_system_column_changes_with_every_update(worlds: Worlds) -> None:
    class Versioned(DeclarativeBase):
        pass

    class Row(Versioned):
        __tablename__ = "cl_versioned"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        value: Mapped[int]
        xmin: Mapped[int] = mapped_column(Integer, system=True, server_default=FetchedValue())

    world = worlds(Row)
    with world.write() as session:
        session.add(Row(id=1, value=2))
    with world.expecting(changed=[rows(select(Row.xmin))]), world.write() as session:
        session.execute(update(Row).where(Row.id == 1).values(value=3))


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_the_row_id_changes_with_the_primary_key(worlds: Worlds) -> None:
    class Numbered(DeclarativeBase):
        pass

    class Row(Numbered):
        __tablename__ = "cl_numbered"
        number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        value: Mapped[int]

    class Hidden(DeclarativeBase):
        pass

    class RowById(Hidden):
        __tablename__ = "cl_numbered"
        rowid: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        value: Mapped[int]

    world = worlds(Row)
    hidden = worlds(RowById, make_tables=False)
    with world.write() as session:
        session.add(Row(number=1, value=2))
    assert hidden.read(rows(select(RowById.rowid))) == [(1,)]
    with world.write() as session:
        session.execute(update(Row).where(Row.number == 1).values(number=5))
    assert world.read(rows(select(Row.number))) == [(5,)]


@pytest.mark.parametrize("worlds", ["postgresql-lmdb"], indirect=True)
def test_an_element_of_an_array_is_a_change_of_its_column(worlds: Worlds) -> None:
    class Lists(DeclarativeBase):
        pass

    class Row(Lists):
        __tablename__ = "cl_lists"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        numbers: Mapped[list[int]] = mapped_column(ARRAY(Integer))
        value: Mapped[int]

    world = worlds(Row)
    with world.write() as session:
        session.add(Row(id=1, numbers=[1, 2], value=2))
    with world.expecting(changed=[rows(select(Row.numbers))]), world.write() as session:
        session.execute(update(Row).where(Row.id == 1).values({Row.numbers[2]: 7}))


# -- a row that goes without being named -----------------------------------------------------------------------------


class Author(Base):
    __tablename__ = "cl_author"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Book(Base):
    __tablename__ = "cl_book"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("cl_author.id", ondelete="SET NULL"))
    code: Mapped[int] = mapped_column(BigInteger, unique=True)


def test_a_column_that_a_cascade_of_the_database_sets_is_heard(worlds: Worlds) -> None:
    world = worlds(Author, Book)
    with world.write() as session:
        session.add_all([Author(id=1), Author(id=2)])
        session.flush()
        session.add_all([Book(id=1, author_id=1, code=1), Book(id=2, author_id=2, code=2)])
    orphans = rows(select(func.count()).where(Book.author_id.is_(None)))
    with world.expecting(changed=[orphans]), world.write() as session:
        session.execute(delete(Author).where(Author.id == 1), execution_options={"synchronize_session": False})


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_rows_that_update_or_replace_deletes_are_counted_no_more(worlds: Worlds) -> None:
    world = worlds(Author, Book)
    with world.write() as session:
        session.add_all([Book(id=1, code=1), Book(id=2, code=2)])
    changed = [rows(select(func.count()).select_from(Book)), get(Book, 2), rows(select(Book.id).order_by(Book.id))]
    with world.expecting(changed=changed), world.write() as session:
        session.execute(update(Book).prefix_with("OR REPLACE").where(Book.id == 1).values(code=2))


def test_rows_that_an_upsert_changes_are_heard(world: World) -> None:
    names = {"sqlite": "sqlite", "postgresql": "postgresql", "mariadb": "mysql"}
    dialect = __import__(f"sqlalchemy.dialects.{names[world.dialect]}", fromlist=["insert"])
    statement = dialect.insert(Post).values(id=1, board_id=1, title="new", rank=1, Views=1, likes=1)
    if world.dialect == "mariadb":
        statement = statement.on_duplicate_key_update(title="new", board_id=1)
    else:
        statement = statement.on_conflict_do_update(index_elements=["id"], set_={"title": "new", "board_id": 1})
    changed = [NARROW["column of a row"], NARROW["count of a list"]]
    with world.expecting(changed=changed), world.write() as session:
        session.execute(statement)


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("worlds", ["sqlite-memory", "mariadb-memory"], indirect=True)
def test_a_mapping_that_writes_a_name_in_another_case_is_heard(worlds: Worlds) -> None:
    class One(DeclarativeBase):
        pass

    class Other(DeclarativeBase):
        pass

    class Tank(One):
        __tablename__ = "cl_tank"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        level: Mapped[float] = mapped_column("Level", Float)
        name: Mapped[str | None] = mapped_column(String(20))

    class OtherTank(Other):
        __tablename__ = "cl_tank"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        level: Mapped[float] = mapped_column("LEVEL", Float)
        name: Mapped[str | None] = mapped_column(String(20))

    world = worlds(Tank)
    with world.write() as session:
        session.add(Tank(id=1, level=1.5))
    with (
        world.expecting(changed=[rows(select(Tank.level))], kept=[rows(select(Tank.name))]),
        world.write() as session,
    ):
        session.execute(update(OtherTank).where(OtherTank.id == 1).values(level=2.5))


def test_explain_tells_the_columns_and_rows_that_drop_a_read(world: World) -> None:
    explained = world.cache.explain(select(Post.title).where(Post.board_id == 1)).tables[0]
    assert explained.narrowed_by == "board_id"
    assert "rows with board_id=1 that come or go, updates of title in them" in explained.dropped_by
    assert any(name.endswith("|board_id=1.title") for name in explained.tags)
    counted = world.cache.explain(select(func.count()).select_from(Post)).tables[0]
    assert counted.dropped_by == "any row inserted or deleted"
    summed = world.cache.explain(select(func.sum(Post.views))).tables[0]
    assert summed.dropped_by == "any row inserted or deleted, updates of views"
    whole = world.cache.explain(select(Post)).tables[0]
    assert whole.dropped_by == "any row inserted, updated or deleted"


# -- lists of keys, and rows each by itself --------------------------------------------------------------------------


def listed(session: Session) -> list[Any]:
    return [values_of(post) for post in Post.cache.filter(board_id=1, session=session)]


def test_a_row_of_a_list_changes_and_its_keys_are_still_cached(world: World) -> None:
    with world.expecting(changed=[listed]), world.write() as session:
        session.get_one(Post, 2).views = 9
    with world.write() as session:
        session.get_one(Post, 2).views = 10
    world.sent.clear()
    world.read(listed)
    # One query for one row, and none for the keys.
    (sent,) = world.sent
    assert "IN (" in sent or "= " in sent


def test_a_list_that_is_kept_whole_is_dropped_by_any_column_of_its_rows(world: World) -> None:
    world.prime(listed)
    for number in range(3):
        with world.expecting(changed=[listed]), world.write() as session:
            session.get_one(Post, 4).title = f"other {number}"


# -- groups ----------------------------------------------------------------------------------------------------------


class Member(Base):
    __tablename__ = "cl_member"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    org: Mapped[int]
    person: Mapped[int]
    role: Mapped[str] = mapped_column(String(20), default="guest")


def member(org: int, person: int) -> Read:
    return entities(select(Member).where(Member.org == org, Member.person == person).order_by(Member.id))


def members(worlds: Worlds, *groups: Any) -> World:
    world = worlds(Member, tag_columns={"cl_member": groups})
    with world.write() as session:
        session.add_all([Member(id=number, org=number // 3, person=number % 3) for number in range(9)])
    return world


def test_a_read_narrowed_by_a_group_is_dropped_by_its_values_alone(worlds: Worlds) -> None:
    world = members(worlds, ("org", "person"), "org")
    by_org = entities(select(Member).where(Member.org == 1).order_by(Member.id))
    with (
        world.expecting(changed=[member(1, 1), by_org], kept=[member(1, 2), member(2, 1), member(7, 7)]),
        world.write() as session,
    ):
        session.get_one(Member, 4).role = "owner"


def test_a_row_that_moves_from_one_group_of_values_to_another_is_in_both(worlds: Worlds) -> None:
    world = members(worlds, ("org", "person"))
    with (
        world.expecting(changed=[member(1, 1), member(1, 5)], kept=[member(1, 2), member(2, 1)]),
        world.write() as session,
    ):
        session.execute(update(Member).where(Member.id == 4).values(person=5))


def test_a_row_that_comes_or_goes_is_in_its_group(worlds: Worlds) -> None:
    world = members(worlds, ("org", "person"))
    with world.expecting(changed=[member(7, 7)], kept=[member(1, 1)]), world.write() as session:
        session.execute(insert(Member).values(id=20, org=7, person=7))
    with world.expecting(changed=[member(7, 7)], kept=[member(1, 1)]), world.write() as session:
        session.delete(session.get_one(Member, 20))


def test_a_group_of_columns_that_are_not_known_to_the_writer_is_any(worlds: Worlds) -> None:
    world = worlds(Member, tag_columns={"cl_member": [("org", "person")]}, old_images=False)
    with world.write() as session:
        session.add_all([Member(id=1, org=1, person=1), Member(id=2, org=2, person=2)])
    reads = [member(1, 1), member(2, 2)]
    world.prime(*reads)
    with world.write() as session:
        session.get_one(Member, 1).role = "owner"
    assert [world.cost(read) for read in reads] == [1, 1]


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("named", ["org", [3], [()], [("org", "org")]])
def test_a_group_that_is_none_is_an_error_of_the_setting(worlds: Worlds, named: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"tag_columns.*'cl_member'"):
        worlds(Member, tag_columns={"cl_member": named})


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_a_group_with_a_column_that_is_not_there_is_an_error_that_names_table_and_column(worlds: Worlds) -> None:
    world = worlds(Member, tag_columns={"cl_member": [("org", "colour")]})
    with pytest.raises(ConfigurationError, match=r"'cl_member'.*'colour'"):
        world.read(member(1, 1))
