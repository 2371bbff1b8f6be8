"""A. Values that the database, or SQLAlchemy at the last moment, gives: rows are found under what was given, at once.

With each ``eager_defaults`` of the mapper, as that decides whether a session is told what was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from sqlalchemy import Computed, Identity, String, func, insert, null, select, text, update
from sqlalchemy import __version__ as version_of_sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from scenario_support import Matrix, Read, World, get, refill, rows

MODES: Final[dict[str, Any]] = {"auto": "auto", "eager": True, "lazy": False}


class Papers(DeclarativeBase):
    pass


def class_of(name: str) -> Any:
    """Make a class whose columns are filled in every way there is."""

    class Base(DeclarativeBase):
        metadata = Papers.metadata

    class Doc(Base):
        __tablename__ = f"sg_doc_{name}"
        __mapper_args__ = {"eager_defaults": MODES[name]}  # noqa: RUF012

        id: Mapped[int] = mapped_column(Identity(start=100), primary_key=True)
        size: Mapped[int]
        by_server: Mapped[int] = mapped_column(server_default="1", index=True)
        word: Mapped[str] = mapped_column(String(10), server_default="new")
        by_python: Mapped[int] = mapped_column(default=4, onupdate=5)
        by_function: Mapped[int] = mapped_column(
            default=lambda context: context.get_current_parameters()["size"] + 1, onupdate=lambda: 6
        )
        by_sql: Mapped[int] = mapped_column(default=text("20 + 1"), onupdate=text("by_sql + 1"))
        twice: Mapped[int] = mapped_column(Computed("size * 2", persisted=True))
        free: Mapped[int | None]

    return Doc


DOCS: Final[dict[str, Any]] = {name: class_of(name) for name in MODES}


def reads_of(doc: Any) -> dict[str, Read]:
    def ids(condition: Any) -> Read:
        return rows(select(doc.size, doc.word).where(condition).order_by(doc.id))

    return {
        "server default": ids(doc.by_server == 1),
        "server default, text": ids(doc.word == "new"),
        "default": ids(doc.by_python == 4),
        "onupdate": ids(doc.by_python == 5),
        "default by a function": ids(doc.by_function == 31),
        "onupdate by a function": ids(doc.by_function == 6),
        "default in SQL": ids(doc.by_sql == 21),
        "onupdate in SQL": ids(doc.by_sql == 22),
        "computed": ids(doc.twice == 60),
        "computed anew": ids(doc.twice == 14),
        "nothing": ids(doc.free.is_(None)),
        "something": ids(doc.free == 8),
        "all": rows(select(func.count()).select_from(doc)),
        "the first": get(doc, 1),
        "kept get": get(doc, 2),
        "kept list": ids(doc.by_server == 2),
    }


COMING: Final = {
    "server default",
    "server default, text",
    "default",
    "default by a function",
    "default in SQL",
    "computed",
}
CHANGING: Final = {
    "default",
    "onupdate",
    "onupdate by a function",
    "default in SQL",
    "onupdate in SQL",
    "computed anew",
    "the first",
}
Change = Callable[[Session, Any], Any]


def set_size(session: Session, doc: Any) -> None:
    session.get_one(doc, 1).size = 7


def set_in_sql(session: Session, doc: Any) -> None:
    first = session.get_one(doc, 1)
    first.size, first.free = doc.size + 6, select(func.max(doc.by_server) + 6).scalar_subquery()


def set_null(session: Session, doc: Any) -> None:
    session.get_one(doc, 1).free = null()


def set_twice(session: Session, doc: Any) -> None:
    """Change a row that the session was not told all of, as if its values were those that it is given first."""
    new = doc(size=30)
    session.add(new)
    session.flush()
    new.by_server, new.by_python, new.by_function, new.by_sql = 3, 4, 31, 21
    session.flush()
    new.by_server, new.by_python, new.by_function, new.by_sql = doc.by_server - 2, 4, 31, 21


IS_20: Final = version_of_sqlalchemy.startswith("2.0.")

COME: Final[dict[str, Change]] = {
    "a flush": lambda session, doc: session.add(doc(size=30)),
    "a flush of many": lambda session, doc: session.add_all([doc(size=30), doc(size=30)]),
    "an insert": lambda session, doc: session.execute(insert(doc).values(size=30)),
    "an insert of many": lambda session, doc: session.execute(insert(doc), [{"size": 30}, {"size": 30}]),
    "an insert returning": lambda session, doc: session.scalars(insert(doc).returning(doc), [{"size": 30}]).all(),
    "an insert of SQL": lambda session, doc: session.add(
        doc(size=select(func.max(doc.size) + 29).scalar_subquery(), by_function=31)
    ),
    "mappings": lambda session, doc: session.bulk_insert_mappings(doc, [{"size": 30}, {"size": 30, "free": 3}]),
    "Core": lambda session, doc: session.connection().execute(insert(doc.__table__), [{"size": 30}, {"size": 30}]),
    "a flush, changed at once": set_twice,
}
CHANGE: Final[dict[str, Change]] = {
    "a flush": set_size,
    "a flush of SQL": set_in_sql,
    "an update": lambda session, doc: session.execute(update(doc).where(doc.id == 1).values(size=7)),
    "an update by primary key": lambda session, doc: session.execute(update(doc), [{"id": 1, "size": 7}]),
    "mappings": lambda session, doc: session.bulk_update_mappings(doc, [{"id": 1, "size": 7}]),
    "Core": lambda session, doc: session.connection().execute(
        update(doc.__table__).where(doc.__table__.c.id == 1).values(size=7)
    ),
}


def stock_papers(session: Session) -> None:
    for doc in DOCS.values():
        session.add_all([doc(id=1, size=1), doc(id=2, size=1, by_server=2, word="old", by_python=0, by_sql=0, free=0)])


@pytest.fixture(scope="module")
def papers(standing: Any) -> tuple[World, dict[str, Matrix]]:
    world: World = standing(*DOCS.values())
    refill(world, Papers, stock_papers)
    return world, {name: Matrix(world, reads_of(doc)) for name, doc in DOCS.items()}


def each_way(ways: dict[str, Change]) -> list[Any]:
    """Return each way with the default mode; and flushes, as only these ask, with the others."""
    return [
        pytest.param(mode, way, id=f"{mode}-{name}")
        for mode in MODES
        for name, way in ways.items()
        if mode == "auto" or name.startswith("a flush")
    ]


@pytest.mark.parametrize(("mode", "way"), each_way(COME))
def test_s14_a_row_is_found_under_all_that_it_was_given(papers: Any, mode: str, way: Change) -> None:
    world, matrices = papers
    refill(world, Papers, stock_papers)
    matrices[mode].begin()
    with world.write() as session:
        way(session, DOCS[mode])
    # Of many rows the keys are not told (by SQLAlchemy 2.0 hardly ever), and a row that was not there may be one of them.
    many = [COME["an insert of many"], COME["Core"]]
    many += [COME["a flush of many"], COME["an insert returning"]] if IS_20 else []
    kept = set() if way in many else {"kept get", "the first"}
    # SQLAlchemy does not send a value that it was not told to have been another.
    coming = COMING - {"default in SQL"} if way is set_twice else COMING
    assert coming - matrices[mode].changed_by({f"sg_doc_{mode}"}, kept) == set()
    matrices[mode].assert_all_stored()


@pytest.mark.parametrize(("mode", "way"), each_way(CHANGE))
def test_s14_s15_a_row_moves_with_all_that_changes_by_itself(papers: Any, mode: str, way: Change) -> None:
    world, matrices = papers
    refill(world, Papers, stock_papers)
    matrices[mode].begin()
    with world.write() as session:
        way(session, DOCS[mode])
    assert CHANGING - matrices[mode].changed_by({f"sg_doc_{mode}"}, {"kept get"}) == set()
    matrices[mode].assert_all_stored()
