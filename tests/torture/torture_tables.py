"""Which tables are tortured, how is each question asked through SQLAlchemy, and how is a version written?

Knows no cache: whether a question is answered from one is decided by the engine that it is asked of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import BigInteger, Engine, ForeignKey, Select, func, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from torture_story import Row, Story


class Base(DeclarativeBase):
    """The tables of the torture."""


class Group(Base):
    __tablename__ = "torture_group"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]
    token: Mapped[int] = mapped_column(BigInteger)


class Item(Base):
    __tablename__ = "torture_item"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    group_id: Mapped[int] = mapped_column(ForeignKey(Group.id), index=True)
    shelf: Mapped[int] = mapped_column(index=True)
    amount: Mapped[int]
    version: Mapped[int]
    token: Mapped[int] = mapped_column(BigInteger)


def fill_tables(engine: Engine, groups: int) -> None:
    """Make the tables anew, every group at version 0."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Group(id=group, version=0, token=0) for group in range(groups))
        session.flush()
        for group in range(groups):
            session.add_all(
                Item(id=key, group_id=group, shelf=shelf, amount=amount, version=version, token=0)
                for key, shelf, amount, version in Story(group).state(0)
            )
        session.commit()


# -- questions -----------------------------------------------------------------------------------------------------


def _items(found: list[Item]) -> list[list[int]]:
    return [[item.id, item.shelf, item.amount, item.version, item.token] for item in found]


Options = tuple[Any, ...]


def ask(session: Session, kind: str, argument: int, group: int, *options: Any) -> Any:
    """Ask one question; the answer is made of lists and numbers, as it goes into a log."""
    if kind == "row":
        found = session.get(Item, argument, options=options)
        return _items([found] if found is not None else [])
    if kind == "board":
        board = select(Group).order_by(Group.id).options(*options)
        return [[one.id, one.version, one.token] for one in session.scalars(board)]
    if kind == "count":
        return _number(session, select(func.count()).select_from(Item).where(Item.shelf == argument), options)
    if kind == "sum":
        return _number(session, select(func.sum(Item.amount)).where(Item.group_id == group), options)
    where = Item.shelf == argument if kind == "shelf" else Item.group_id == group
    return _items(list(session.scalars(select(Item).where(where).order_by(Item.id).options(*options))))


def _number(session: Session, statement: Select[Any], options: Options) -> int:
    return int(session.scalars(statement.options(*options)).one())


# -- writes --------------------------------------------------------------------------------------------------------


def lock_group(session: Session, group: int) -> tuple[int, int]:
    """Lock a group for this transaction; return its version and token."""
    if session.get_bind().dialect.name == "sqlite":
        # No row locks: whoever writes first has the file to itself.
        session.execute(update(Group).where(Group.id == group).values(token=Group.token))
    found = session.get_one(Group, group, with_for_update=True, populate_existing=True)
    return found.version, found.token


def write_version(session: Session, story: Story, version: int, token: int, way: str) -> None:
    """Change what a version changes, in one of several ways, and raise the group to it."""
    for row in story.changed(version):
        _WAYS[way](session, row, token)
    group = session.get_one(Group, story.group)
    group.version, group.token = version, token
    session.flush()


def _by_flush(session: Session, row: Row, token: int) -> None:
    item = session.get_one(Item, row[0], populate_existing=True)
    _, item.shelf, item.amount, item.version = row
    item.token = token


def _values(row: Row, token: int) -> dict[str, int]:
    return {"shelf": row[1], "amount": row[2], "version": row[3], "token": token}


def _by_core(session: Session, row: Row, token: int) -> None:
    session.execute(update(Item).where(Item.id == row[0]).values(**_values(row, token)))


_TEXT: Final = text(
    "UPDATE torture_item SET shelf = :shelf, amount = :amount, version = :version, token = :token WHERE id = :id"
)


def _by_text(session: Session, row: Row, token: int) -> None:
    session.execute(_TEXT, {"id": row[0], **_values(row, token)})


_WAYS: Final[dict[str, Callable[[Session, Row, int], None]]] = {
    "flush": _by_flush,
    "core": _by_core,
    "text": _by_text,
}
WAYS: Final = tuple(_WAYS)
