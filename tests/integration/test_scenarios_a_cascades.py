"""A. What the database changes along: it does not say which rows, so every read of the tables it can reach is new.

What it cannot reach stays: other tables, the parents of what is deleted, and the children of a parent of which no column
changes that they refer to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import pytest
from sqlalchemy import (
    ForeignKey,
    ForeignKeyConstraint,
    String,
    UniqueConstraint,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from scenario_support import Matrix, Read, World, get, refill, rows


class Line(DeclarativeBase):
    pass


class Root(Line):
    __tablename__ = "sd_root"

    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(String(20), unique=True)
    title: Mapped[str] = mapped_column(String(20), default="")
    stems: Mapped[list[Stem]] = relationship(back_populates="root", passive_deletes="all", order_by="Stem.id")


class Stem(Line):
    """A table further; its own key goes on to the leaves."""

    __tablename__ = "sd_stem"
    __table_args__ = (UniqueConstraint("id", "root_code"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    root_code: Mapped[str] = mapped_column(ForeignKey("sd_root.code", ondelete="CASCADE", onupdate="CASCADE"))
    keeper_id: Mapped[int | None] = mapped_column(ForeignKey("sd_keeper.id", ondelete="SET NULL"))
    root: Mapped[Root] = relationship(back_populates="stems")
    leaves: Mapped[list[Leaf]] = relationship(passive_deletes=True, passive_updates=True, order_by="Leaf.id")


class Leaf(Line):
    __tablename__ = "sd_leaf"
    __table_args__ = (
        ForeignKeyConstraint(
            ["stem_id", "stem_code"], ["sd_stem.id", "sd_stem.root_code"], ondelete="CASCADE", onupdate="CASCADE"
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    stem_id: Mapped[int]
    stem_code: Mapped[str] = mapped_column(String(20))


class Keeper(Line):
    __tablename__ = "sd_keeper"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Node(Line):
    """A tree in one table, of which the database prunes branches; a node's friend is forgotten."""

    __tablename__ = "sd_node"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("sd_node.id", ondelete="CASCADE"))
    friend_id: Mapped[int | None] = mapped_column(ForeignKey("sd_node.id", ondelete="SET NULL"))
    name: Mapped[str] = mapped_column(String(20))
    children: Mapped[list[Node]] = relationship(foreign_keys=parent_id, passive_deletes=True, order_by="Node.id")


class Unmapped(Line):
    """Refers to a root with a constraint that only the database has."""

    __tablename__ = "sd_unmapped"

    id: Mapped[int] = mapped_column(primary_key=True)
    root_id: Mapped[int]


class Aside(Line):
    """What nothing here reaches."""

    __tablename__ = "sd_aside"

    id: Mapped[int] = mapped_column(primary_key=True)


def stock_line(session: Session) -> None:
    session.add_all(
        [Root(id=1, code="a"), Root(id=2, code="b"), Keeper(id=1, name="kim"), Keeper(id=2, name="lou"), Aside(id=1)]
    )
    session.flush()
    session.add_all(
        [Stem(id=1, root_code="a", keeper_id=1), Stem(id=2, root_code="a"), Stem(id=3, root_code="b", keeper_id=2)]
    )
    session.flush()
    session.add_all(
        [
            Leaf(id=1, stem_id=1, stem_code="a"),
            Leaf(id=2, stem_id=2, stem_code="a"),
            Leaf(id=3, stem_id=3, stem_code="b"),
        ]
    )
    session.add(Node(id=1, name="top"))
    session.flush()
    session.add_all([Node(id=2, parent_id=1, name="middle"), Node(id=4, name="other", friend_id=1)])
    session.flush()
    session.add_all([Node(id=3, parent_id=2, name="low"), Unmapped(id=1, root_id=1), Unmapped(id=2, root_id=2)])


READS: Final[dict[str, Read]] = {
    "root": get(Root, 1),
    "other root": get(Root, 2),
    "roots": rows(select(Root.code, Root.title).order_by(Root.id)),
    "stem": get(Stem, 1),
    "stems of a": rows(select(Stem.id, Stem.keeper_id).where(Stem.root_code == "a").order_by(Stem.id)),
    "stems of z": rows(select(Stem.id).where(Stem.root_code == "z").order_by(Stem.id)),
    "kept stems": rows(select(Stem.id).where(Stem.keeper_id == 1)),
    "unkept stems": rows(select(Stem.id).where(Stem.keeper_id.is_(None)).order_by(Stem.id)),
    "stems of a root": lambda session: [stem.id for stem in root.stems] if (root := session.get(Root, 1)) else None,
    "leaf": get(Leaf, 1),
    "leaves of a": rows(select(Leaf.id).where(Leaf.stem_code == "a").order_by(Leaf.id)),
    "leaves of a stem": rows(select(Leaf.id, Leaf.stem_code).where(Leaf.stem_id == 1)),
    "leaves": rows(select(func.count()).select_from(Leaf)),
    "node": get(Node, 3),
    "branch": rows(select(Node.name).where(Node.parent_id == 1)),
    "tops": rows(select(Node.name).where(Node.parent_id.is_(None)).order_by(Node.id)),
    "friends": rows(select(Node.name).where(Node.friend_id == 1)),
    "nodes": rows(select(func.count()).select_from(Node)),
    "unmapped": get(Unmapped, 1),
    "unmapped of a root": rows(select(Unmapped.id).where(Unmapped.root_id == 1)),
    "keepers": rows(select(Keeper.name).order_by(Keeper.id)),
    "keeper": get(Keeper, 2),
    "aside": get(Aside, 1),
}
ROOT, STEM, LEAF, KEEPER, NODE, UNMAPPED = "sd_root", "sd_stem", "sd_leaf", "sd_keeper", "sd_node", "sd_unmapped"


@dataclass(frozen=True)
class Case:
    """A change, the tables that the database may change along, the reads that must say something new, those that stay."""

    change: Callable[[Session], Any]
    written: Collection[str]
    new: Collection[str]
    kept: Collection[str] = ()


def gone(entity: type[Any], key: Any) -> Callable[[Session], Any]:
    return lambda session: session.delete(session.get_one(entity, key))


def set_on(entity: type[Any], key: Any, **new: Any) -> Callable[[Session], Any]:
    def change(session: Session) -> None:
        instance = session.get_one(entity, key)
        for name, value in new.items():
            setattr(instance, name, value)

    return change


FALLEN = {
    "root",
    "roots",
    "stem",
    "stems of a",
    "stems of a root",
    "leaf",
    "leaves of a",
    "leaves",
    "unmapped",
    "kept stems",
}
PRUNED = {"node", "branch", "friends", "nodes", "tops"}
CASES: Final[dict[str, Case]] = {
    "a root deleted": Case(gone(Root, 1), {ROOT, STEM, LEAF, UNMAPPED}, FALLEN, {"other root"}),
    "a root deleted by Core": Case(
        lambda session: session.execute(delete(Root).where(Root.code == "a")), {ROOT, STEM, LEAF, UNMAPPED}, FALLEN
    ),
    "a root deleted by text": Case(
        lambda session: session.execute(text("DELETE FROM sd_root WHERE code = 'a'")),
        {ROOT, STEM, LEAF, UNMAPPED},
        FALLEN,
    ),
    "a stem deleted": Case(gone(Stem, 1), {STEM, LEAF}, {"stem", "stems of a", "leaf", "leaves of a stem"}),
    "a leaf deleted": Case(gone(Leaf, 1), {LEAF}, {"leaf", "leaves of a", "leaves of a stem", "leaves"}),
    "a keeper deleted": Case(
        gone(Keeper, 1), {KEEPER, STEM}, {"stem", "kept stems", "unkept stems", "stems of a", "keepers"}, {"keeper"}
    ),
    "a keeper deleted by Core": Case(
        lambda session: session.execute(delete(Keeper).where(Keeper.name == "kim")),
        {KEEPER, STEM},
        {"stem", "kept stems", "unkept stems", "stems of a", "keepers"},
    ),
    "a root renamed": Case(
        set_on(Root, 1, code="z"),
        {ROOT, STEM, LEAF},
        {"root", "roots", "stem", "stems of a", "stems of z", "leaf", "leaves of a", "leaves of a stem"},
        {"other root"},
    ),
    "a root renamed by Core": Case(
        lambda session: session.execute(update(Root).where(Root.id == 1).values(code="z")),
        {ROOT, STEM, LEAF},
        {"root", "roots", "stem", "stems of a", "stems of z", "leaf", "leaves of a", "leaves of a stem"},
        {"other root"},
    ),
    "a root given another title": Case(set_on(Root, 1, title="first"), {ROOT}, {"root", "roots"}, {"other root"}),
    "a keeper given another name": Case(set_on(Keeper, 1, name="joe"), {KEEPER}, {"keepers"}, {"keeper"}),
    "a node deleted with its branch": Case(gone(Node, 1), {NODE}, PRUNED),
    "a node deleted by Core": Case(
        lambda session: session.execute(delete(Node).where(Node.name == "top")), {NODE}, PRUNED
    ),
    "a node given another name": Case(set_on(Node, 2, name="centre"), {NODE}, {"branch"}, {"node", "friends", "tops"}),
    "a stem moved to another root": Case(
        set_on(Stem, 2, root_code="b"), {STEM, LEAF}, {"stems of a", "leaves of a"}, {"stem"}
    ),
}


@pytest.fixture(scope="module")
def standing_line(standing: Any) -> tuple[World, Matrix]:
    world: World = standing(Root, Stem, Leaf, Keeper, Node, Aside)
    with world.outside.connect() as connection:
        connection.execute(
            text(
                "CREATE TABLE sd_unmapped (id INTEGER PRIMARY KEY, root_id INTEGER NOT NULL,"
                " FOREIGN KEY (root_id) REFERENCES sd_root (id) ON DELETE CASCADE)"
            )
        )
    world.cache.add_models(Unmapped)
    refill(world, Line, stock_line)
    return world, Matrix(world, READS)


@pytest.mark.parametrize("name", CASES)
def test_s5_what_the_database_changes_along_is_seen_and_what_it_cannot_reach_stays(
    standing_line: tuple[World, Matrix], name: str
) -> None:
    line, matrix = standing_line
    case = CASES[name]
    refill(line, Line, stock_line)
    matrix.begin()
    with line.write() as session:
        case.change(session)
    assert set(case.new) <= matrix.changed_by(case.written, case.kept)
    matrix.assert_all_stored()


class Heirs(DeclarativeBase):
    pass


class Estate(Heirs):
    __tablename__ = "sd_estate"

    id: Mapped[int] = mapped_column(primary_key=True)


class Heir(Heirs):
    __tablename__ = "sd_heir"

    id: Mapped[int] = mapped_column(primary_key=True)
    estate_id: Mapped[int] = mapped_column(
        ForeignKey("sd_estate.id", ondelete="SET DEFAULT", onupdate="SET DEFAULT"), server_default="1"
    )


# MariaDB knows no SET DEFAULT.
@pytest.mark.parametrize("worlds", ["sqlite-memory", "postgresql-lmdb"], indirect=True)
@pytest.mark.parametrize("change", [gone(Estate, 2), set_on(Estate, 2, id=9)], ids=["deleted", "renumbered"])
def test_s5_what_falls_back_to_a_default_is_seen_where_it_falls(worlds: Any, change: Callable[[Session], Any]) -> None:
    world: World = worlds(Estate, Heir)
    with world.write() as session:
        session.add_all([Estate(id=1), Estate(id=2)])
        session.flush()
        session.add_all([Heir(id=1, estate_id=1), Heir(id=2, estate_id=2)])
    of = {number: rows(select(Heir.id).where(Heir.estate_id == number).order_by(Heir.id)) for number in (1, 2)}
    with (
        world.expecting(changed=[of[1], of[2], get(Heir, 2), get(Estate, 2)], kept=[get(Estate, 1)]),
        world.write() as session,
    ):
        change(session)
