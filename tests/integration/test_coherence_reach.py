"""Do readers hear of what a statement changes beyond the rows that it names?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Column as PlainColumn
from sqlalchemy import ForeignKey, String, Table, event, func, insert, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from coherence_world import Process, World, make_engine, read_in


class Base(DeclarativeBase):
    pass


article_tag = Table(
    "article_tag",
    Base.metadata,
    PlainColumn("article_id", ForeignKey("article.id", ondelete="CASCADE"), primary_key=True),
    PlainColumn("tag_id", ForeignKey("tag.id", ondelete="CASCADE"), primary_key=True),
)


class Article(Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50), unique=True)
    shelf: Mapped[int] = mapped_column(index=True, server_default="1")
    comments: Mapped[list[Comment]] = relationship(passive_deletes=True, order_by="Comment.id")
    tags: Mapped[list[Tag]] = relationship(secondary=article_tag, passive_deletes=True, order_by="Tag.id")


class Comment(Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str] = mapped_column(String(50))
    article_id: Mapped[int] = mapped_column(ForeignKey("article.id", ondelete="CASCADE"))


class Tag(Base):
    __tablename__ = "tag"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))


class Log(Base):
    __tablename__ = "log"
    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(String(50))


MODELS = [Article, Comment, Tag, Log]


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    engine = make_engine(database_url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Tag(name="red"))
        session.add(Article(title="one", shelf=1, comments=[Comment(body="hm")]))
        session.commit()
    engine.dispose()
    world = World(database_url)
    yield world
    world.close()


@pytest.fixture
def writer(world: World) -> Process:
    return process_of(world)


@pytest.fixture
def reader(world: World, writer: Process) -> Process:
    return process_of(world)


def process_of(world: World, **options: Any) -> Process:
    process = world.process(**options)
    assert process.cache is not None
    process.cache.add_models(*MODELS)
    return process


def shelf(session: Session, number: int) -> list[str]:
    return list(session.scalars(select(Article.title).where(Article.shelf == number).order_by(Article.id)))


def titles(session: Session) -> list[str]:
    return list(session.scalars(select(Article.title).order_by(Article.id)))


def count_of(model: Any) -> Any:
    return lambda session: session.scalar(select(func.count()).select_from(model))


def logged(session: Session) -> list[str]:
    return list(session.scalars(select(Log.what).order_by(Log.id)))


def test_a_key_that_the_database_gives_ends_the_absence_of_its_row(writer: Process, reader: Process) -> None:
    assert read_in(reader, lambda session: session.get(Article, 2)) is None
    with writer.session() as session:
        session.add(Article(title="two", shelf=5))
        session.commit()
    assert read_in(reader, lambda session: session.get_one(Article, 2).title) == "two"


def test_keys_that_the_database_gives_to_many_rows_end_their_absence(writer: Process, reader: Process) -> None:
    assert read_in(reader, lambda session: [session.get(Article, key) for key in (2, 3)]) == [None, None]
    with writer.session() as session:
        session.add_all([Article(title="two", shelf=5), Article(title="three", shelf=5)])
        session.commit()
    found = read_in(reader, lambda session: [session.get_one(Article, key).title for key in (2, 3)])
    assert sorted(found) == ["three", "two"]


def test_rows_inserted_by_many_parameters_in_core_end_their_absence(writer: Process, reader: Process) -> None:
    assert read_in(reader, lambda session: session.get(Article, 3)) is None
    assert read_in(reader, lambda session: shelf(session, 5)) == []
    with writer.engine.begin() as connection:
        connection.execute(insert(Article), [{"title": "two", "shelf": 5}, {"title": "three", "shelf": 5}])
    assert read_in(reader, lambda session: shelf(session, 5)) == ["two", "three"]
    assert read_in(reader, lambda session: session.get_one(Article, 3).title) == "three"


def test_a_row_whose_column_the_server_fills_is_seen_in_its_list(writer: Process, reader: Process) -> None:
    assert read_in(reader, lambda session: shelf(session, 1)) == ["one"]
    with writer.session() as session:
        session.add(Article(id=7, title="seven"))
        session.commit()
    assert read_in(reader, lambda session: shelf(session, 1)) == ["one", "seven"]


def test_rows_inserted_from_a_select_are_seen(writer: Process, reader: Process) -> None:
    assert read_in(reader, titles) == ["one"]
    with writer.engine.begin() as connection:
        rows = select(Article.id + 10, Article.title + "x", Article.shelf)
        connection.execute(insert(Article).from_select(["id", "title", "shelf"], rows))
    assert len(read_in(reader, titles)) == 2


def test_a_row_moved_by_an_upsert_is_seen_in_both_lists(writer: Process, reader: Process) -> None:
    assert read_in(reader, lambda session: (shelf(session, 1), shelf(session, 9))) == (["one"], [])
    values = {"id": 1, "title": "one", "shelf": 9}
    statement: Any
    if writer.engine.dialect.name == "postgresql":
        upsert = postgresql.insert(Article).values(values)
        statement = upsert.on_conflict_do_update(index_elements=["id"], set_={"shelf": upsert.excluded.shelf})
    elif writer.engine.dialect.name == "sqlite":
        merge = sqlite.insert(Article).values(values)
        statement = merge.on_conflict_do_update(index_elements=["id"], set_={"shelf": merge.excluded.shelf})
    else:
        statement = mysql.insert(Article).values(values).on_duplicate_key_update(shelf=9)
    with writer.engine.begin() as connection:
        connection.execute(statement)
    assert read_in(reader, lambda session: (shelf(session, 1), shelf(session, 9))) == ([], ["one"])


def test_a_primary_key_that_changes_is_seen_under_both(writer: Process, reader: Process) -> None:
    def both(session: Session) -> list[bool]:
        return [session.get(Tag, key) is not None for key in (1, 8)]

    assert read_in(reader, both) == [True, False]
    with writer.session() as session:
        session.get_one(Tag, 1).id = 8
        session.commit()
    assert read_in(reader, both) == [False, True]


def test_a_primary_key_that_core_changes_is_seen_under_both(writer: Process, reader: Process) -> None:
    def both(session: Session) -> list[bool]:
        return [session.get(Tag, key) is not None for key in (1, 8)]

    assert read_in(reader, both) == [True, False]
    with writer.engine.begin() as connection:
        connection.execute(update(Tag).where(Tag.id == 1).values(id=8))
    assert read_in(reader, both) == [False, True]


def test_a_link_of_many_to_many_is_seen(writer: Process, reader: Process) -> None:
    def tags(session: Session) -> list[str]:
        return [tag.name for tag in session.get_one(Article, 1).tags]

    assert read_in(reader, tags) == []
    with writer.session() as session:
        article = session.get_one(Article, 1)
        article.tags.append(session.get_one(Tag, 1))
        session.commit()
    assert read_in(reader, tags) == ["red"]
    with writer.session() as session:
        article = session.get_one(Article, 1)
        article.tags.clear()
        session.commit()
    assert read_in(reader, tags) == []


def test_rows_that_the_database_deletes_along_are_gone(world: World, writer: Process, reader: Process) -> None:
    assert read_in(reader, count_of(Comment)) == 1
    with writer.engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            connection.commit()
        connection.exec_driver_sql("DELETE FROM article WHERE id = 1")
        connection.commit()
    assert read_in(reader, count_of(Comment)) == 0


def test_mappings_written_in_bulk_are_seen(writer: Process, reader: Process) -> None:
    assert read_in(reader, titles) == ["one"]
    with writer.session() as session:
        session.bulk_insert_mappings(Article.__mapper__, [{"id": 5, "title": "five", "shelf": 1}])
        session.bulk_update_mappings(Article.__mapper__, [{"id": 1, "title": "uno", "shelf": 3}])
        session.commit()
    assert read_in(reader, titles) == ["uno", "five"]
    assert read_in(reader, lambda session: shelf(session, 3)) == ["uno"]


def make_trigger(process: Process) -> None:
    """Have the database write the log with each comment."""
    kind = process.engine.dialect.name
    with process.engine.begin() as connection:
        if kind == "postgresql":
            connection.exec_driver_sql(
                "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN INSERT INTO log (what) VALUES (NEW.body); RETURN NEW; END $$"
            )
            connection.exec_driver_sql(
                "CREATE TRIGGER noted AFTER INSERT ON comment FOR EACH ROW EXECUTE FUNCTION note()"
            )
        else:
            body = "INSERT INTO log (what) VALUES (NEW.body)"
            if kind == "sqlite":
                body = f"BEGIN {body}; END"
            connection.exec_driver_sql(f"CREATE TRIGGER noted AFTER INSERT ON comment FOR EACH ROW {body}")


def test_what_a_trigger_writes_is_seen(world: World, writer: Process, reader: Process) -> None:
    make_trigger(writer)
    assert read_in(reader, logged) == []
    with process_of(world).session() as session:
        session.add(Comment(body="noted", article_id=1))
        session.commit()
    assert read_in(reader, logged) == ["noted"]


def test_what_a_trigger_wrote_in_a_transaction_rolled_back_is_never_stored(world: World, writer: Process) -> None:
    make_trigger(writer)
    with writer.session() as session:
        session.add(Comment(body="noted", article_id=1))
        session.flush()
        assert logged(session) == ["noted"]
        session.rollback()
    assert read_in(writer, logged) == []


def test_a_trigger_made_while_the_process_runs_is_heard_of(writer: Process, reader: Process) -> None:
    read_in(reader, logged)
    with writer.session() as session:
        session.add(Comment(body="before", article_id=1))
        session.commit()
    make_trigger(writer)
    assert read_in(writer, logged) == []
    with writer.session() as session:
        session.add(Comment(body="noted", article_id=1))
        session.commit()
    assert read_in(writer, logged) == ["noted"]


def test_a_change_inside_a_select_is_seen(world: World, writer: Process, reader: Process) -> None:
    if writer.engine.dialect.name != "postgresql":
        return  # only PostgreSQL has them
    assert read_in(reader, logged) == []
    cte = insert(Log).values(id=1, what="hidden").returning(Log.id).cte()
    with writer.engine.begin() as connection:
        connection.execute(select(Article.id).add_cte(cte)).all()
    assert read_in(reader, logged) == ["hidden"]


def test_a_select_of_a_users_function_counts_as_a_change_of_anything(writer: Process, reader: Process) -> None:
    kind = writer.engine.dialect.name
    if kind == "sqlite":
        return  # its functions are the application's own, and cannot write
    with writer.engine.begin() as connection:
        if kind == "postgresql":
            connection.exec_driver_sql(
                "CREATE FUNCTION bump() RETURNS int LANGUAGE sql AS"
                " $$ UPDATE article SET title = 'bumped' WHERE id = 1 RETURNING id $$"
            )
        else:
            connection.exec_driver_sql(
                "CREATE FUNCTION bump() RETURNS INT MODIFIES SQL DATA BEGIN"
                " UPDATE article SET title = 'bumped' WHERE id = 1; RETURN 1; END"
            )
    assert read_in(reader, titles) == ["one"]
    with writer.session() as session:
        session.execute(select(func.bump())).all()
        session.commit()
    assert read_in(reader, titles) == ["bumped"]


def test_ddl_that_commits_by_itself_commits_what_was_pending(writer: Process, reader: Process) -> None:
    if writer.engine.dialect.name != "mariadb":
        return  # elsewhere DDL is part of the transaction
    assert read_in(reader, titles) == ["one"]
    with writer.engine.connect() as connection:
        connection.execute(update(Article).where(Article.id == 1).values(title="uno"))
        connection.exec_driver_sql("CREATE TABLE other (id INT)")
        assert read_in(reader, titles) == ["uno"]
        connection.rollback()
    assert read_in(reader, titles) == ["uno"]


def test_a_procedure_that_commits_is_seen(writer: Process, reader: Process) -> None:
    if writer.engine.dialect.name != "mariadb":
        return  # a function of PostgreSQL cannot commit, and SQLite has none
    with writer.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE PROCEDURE p() BEGIN UPDATE article SET title = 'uno' WHERE id = 1; COMMIT; END"
        )
    assert read_in(reader, titles) == ["one"]
    with writer.engine.connect() as connection:
        connection.execute(text("CALL p()"))
        assert read_in(reader, titles) == ["uno"]
        connection.rollback()
    assert read_in(reader, titles) == ["uno"]


def test_a_view_is_not_cached(world: World, writer: Process, reader: Process) -> None:
    with writer.engine.begin() as connection:
        connection.exec_driver_sql("CREATE VIEW titles AS SELECT id, title FROM article")
    view = Table("titles", Base.metadata.__class__(), PlainColumn("id", key="id"), PlainColumn("title"))
    statement = select(view.c.title)
    late = process_of(world)
    assert read_in(late, lambda session: list(session.scalars(statement))) == ["one"]
    with writer.engine.begin() as connection:
        connection.execute(update(Article).where(Article.id == 1).values(title="uno"))
    assert read_in(late, lambda session: list(session.scalars(statement))) == ["uno"]


def test_rows_beyond_what_is_followed_one_by_one_are_seen(writer: Process, reader: Process) -> None:
    assert read_in(reader, lambda session: shelf(session, 4)) == []
    with writer.engine.begin() as connection:
        rows = [{"id": number, "title": str(number), "shelf": 4} for number in range(100, 1200)]
        connection.execute(insert(Article), rows)
    assert len(read_in(reader, lambda session: shelf(session, 4))) == 1100


@pytest.mark.parametrize("by_text", [False, True])
def test_a_row_whose_key_nobody_reported_is_seen(writer: Process, reader: Process, by_text: bool) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("a listener's own mistake")

    assert read_in(reader, lambda session: session.get(Article, 2)) is None
    with writer.engine.connect() as connection:
        event.listen(writer.engine, "after_cursor_execute", fail)
        with pytest.raises(RuntimeError):
            connection.execute(insert(Article).values(title="two", shelf=5))
        event.remove(writer.engine, "after_cursor_execute", fail)
        if by_text:
            connection.exec_driver_sql("COMMIT")
        else:
            connection.commit()
    assert read_in(reader, lambda session: session.get_one(Article, 2).title) == "two"
