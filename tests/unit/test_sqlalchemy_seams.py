"""The private names of SQLAlchemy that the library leans on still mean what they meant."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    LABEL_STYLE_DISAMBIGUATE_ONLY,
    LABEL_STYLE_TABLENAME_PLUS_COL,
    ColumnClause,
    Engine,
    ForeignKey,
    Integer,
    StaticPool,
    String,
    Uuid,
    bindparam,
    cast,
    create_engine,
    event,
    literal,
    select,
    tuple_,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import InvalidRequestError, NoSuchColumnError
from sqlalchemy.ext.asyncio.result import _ensure_sync_result
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    contains_eager,
    defer,
    joinedload,
    mapped_column,
    raiseload,
    relationship,
    selectinload,
    with_loader_criteria,
)

from querycache import FromCache, _cursors
from querycache import _sqlalchemy as seams


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owner"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    pets: Mapped[list[Pet]] = relationship(back_populates="owner")


class Pet(Base):
    __tablename__ = "pet"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    owner_id: Mapped[int] = mapped_column(ForeignKey("owner.id"))
    owner: Mapped[Owner] = relationship(back_populates="pets")


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Owner(id=1, name="ann", pets=[Pet(id=1, name="rex"), Pet(id=2, name="tom")]))
        session.commit()
    yield engine
    engine.dispose()


def compiled_of(engine: Engine, statement: Any, parameters: dict[str, Any] | None = None) -> seams.Compilation:
    return seams.compile_statement(statement, engine, engine.dialect, {}, list(parameters or ()))


def orm_state_of(session: Session, statement: Any, look: Any, **options: Any) -> Any:
    """Return what ``look`` says of the ``do_orm_execute`` state of a statement."""
    found: list[Any] = []

    def listener(state: ORMExecuteState) -> None:
        if not found:
            found.append(look(state))

    event.listen(session, "do_orm_execute", listener)
    session.execute(statement, **options)
    event.remove(session, "do_orm_execute", listener)
    return found[0]


# -- compiling ------------------------------------------------------------------------------------------------------


def test_equal_statements_with_other_values_have_equal_cache_keys() -> None:
    one: Any = seams.cache_key_of(select(Owner).where(Owner.id == 1))
    two: Any = seams.cache_key_of(select(Owner).where(Owner.id == 2))
    other: Any = seams.cache_key_of(select(Owner).where(Owner.name == "x"))
    assert (one.key == two.key, one.key == other.key) == (True, False)


def test_a_statement_is_compiled_through_the_cache_that_execute_uses(engine: Engine) -> None:
    statement = select(Owner.__table__).where(Owner.__table__.c.id == 1)
    compilation = compiled_of(engine, statement)
    with engine.connect() as connection:
        result = connection.execute(select(Owner.__table__).where(Owner.__table__.c.id == 2))
        assert result.context.compiled is compilation.compiled


def test_a_call_has_its_own_values_though_the_compiled_statement_is_shared(engine: Engine) -> None:
    one, two = (compiled_of(engine, select(Owner).where(Owner.id == value)) for value in (1, 2))
    assert one.compiled is two.compiled
    assert [list(seams.parameters_of(each, None).values()) for each in (one, two)] == [[1], [2]]


def test_a_call_takes_the_values_given_beside_the_statement(engine: Engine) -> None:
    compilation = compiled_of(engine, select(Owner).where(Owner.id == bindparam("wanted")), {"wanted": 7})
    assert seams.parameters_of(compilation, {"wanted": 7}) == {"wanted": 7}


def test_a_callable_bind_is_asked_for_its_value(engine: Engine) -> None:
    compilation = compiled_of(engine, select(Owner).where(Owner.id == bindparam("wanted", callable_=lambda: 5)))
    assert list(seams.parameters_of(compilation, None).values()) == [5]


@pytest.mark.parametrize(
    "statement",
    [
        select(Owner).where(Owner.id == 3, Owner.name == "a"),
        select(Owner).where(Owner.id.in_([3, 4]), Owner.name == "a").limit(2).offset(1),
        select(Owner.id, literal(7)).where(Owner.name == "a").order_by(Owner.id),
        select(Owner).where(Owner.id == bindparam("b", 1), Owner.name == bindparam("a", "x")),
        select(Owner).where(tuple_(Owner.id, Owner.name).in_([(1, "a")])),
        select(Owner).join(Owner.pets).where(Pet.name == "b", Owner.id > 1),
        select(Owner).where(Owner.pets.any(Pet.id == 5), Owner.id == 5),
        select(Owner),
    ],
)
def test_values_at_their_places_are_those_that_are_sent(engine: Engine, statement: Any) -> None:
    compilation = compiled_of(engine, statement)
    places = seams.places_of_binds(compilation.compiled)
    assert places is not None
    given = seams.parameters_of(compilation, None)
    assert seams.values_at(places, compilation) == [given[name] for name in sorted(given)]


def test_values_of_another_call_stand_at_the_same_places(engine: Engine) -> None:
    one, two = (
        compiled_of(engine, select(Owner).where(Owner.id == number, Owner.name == name))
        for number, name in ((1, "a"), (2, "b"))
    )
    places = seams.places_of_binds(one.compiled)
    assert places is not None
    assert sorted(map(str, seams.values_at(places, two) or ())) == ["2", "b"]


@pytest.mark.parametrize("bind", [bindparam("wanted", callable_=lambda: 5), bindparam("wanted", type_=String)])
def test_a_value_that_a_call_itself_does_not_give_has_no_place(engine: Engine, bind: Any) -> None:
    compilation = compiled_of(engine, select(Owner).where(Owner.id == bind))
    assert seams.places_of_binds(compilation.compiled) is None


def test_where_a_function_gives_what_another_call_gave_itself_its_place_is_empty(engine: Engine) -> None:
    given = compiled_of(engine, select(Owner).where(Owner.id == bindparam("wanted", 1)))
    called = compiled_of(
        engine, select(Owner).where(Owner.id == bindparam("wanted", callable_=lambda: 5, type_=Integer))
    )
    assert called.compiled is given.compiled
    places = seams.places_of_binds(given.compiled)
    assert places is not None
    assert seams.values_at(places, called) is None


def test_values_that_a_statement_was_given_apart_have_no_places(engine: Engine) -> None:
    compilation = compiled_of(engine, select(Owner).where(Owner.id == bindparam("wanted", 1)))
    places = seams.places_of_binds(compilation.compiled)
    assert places is not None
    assert seams.values_at(places, compilation._replace(collected={"wanted": 2})) is None
    assert seams.values_at(places, compilation._replace(extracted=None)) is None


def test_a_compiled_statement_keeps_what_refers_to_it_no_longer_than_it_lives(engine: Engine) -> None:
    class Kept(list[Any]):
        pass

    compiled = compiled_of(engine, select(Owner)).compiled
    kept = Kept([compiled])
    seams.keep_with_compiled(compiled, "_kept_for_a_test", kept)
    kept_still = weakref.ref(kept)
    del kept
    gc.collect()
    assert kept_still() is not None
    del compiled
    engine.clear_compiled_cache()
    gc.collect()
    assert kept_still() is None


def test_a_statement_without_cache_key_has_no_extracted_parameters(engine: Engine) -> None:
    class Unkeyed(ColumnClause[Any]):
        inherit_cache = False

    compilation = compiled_of(engine, select(Unkeyed("1")))
    assert (seams.cache_key_of(select(Unkeyed("1"))), compilation.extracted) == (None, None)


def test_bind_processors_go_by_bind_name(engine: Engine) -> None:
    compilation = compiled_of(engine, select(bindparam("u", type_=Uuid())), {"u": None})
    value = UUID(int=5)
    assert seams.bind_processors_of(compilation.compiled)["u"](value) == value.hex


def test_a_bound_tuple_has_a_tuple_of_processors(engine: Engine) -> None:
    pair = tuple_(Owner.id, cast(Owner.name, Uuid())).in_([(1, UUID(int=5))])
    ((name, processors),) = seams.bind_processors_of(compiled_of(engine, select(Owner.id).where(pair)).compiled).items()
    assert [process and process(UUID(int=5)) for process in processors] == [None, UUID(int=5).hex], name


def test_result_types_name_the_columns_in_their_order(engine: Engine) -> None:
    compilation = compiled_of(engine, select(Owner.id, Owner.name))
    assert [(name, type(kind)) for name, kind in seams.result_types_of(compilation.compiled)] == [
        ("id", type(Owner.__table__.c.id.type)),
        ("name", String),
    ]


# -- what the ORM made of a statement -------------------------------------------------------------------------------


def test_the_core_statement_of_an_orm_select_has_its_eager_joins(engine: Engine) -> None:
    compiled = compiled_of(engine, select(Owner).options(joinedload(Owner.pets))).compiled
    assert "LEFT OUTER JOIN pet" in str(seams.core_statement_of(compiled))


def test_the_core_statement_of_a_core_select_is_itself(engine: Engine) -> None:
    compiled = compiled_of(engine, select(Owner.__table__)).compiled
    assert str(seams.core_statement_of(compiled)) == str(select(Owner.__table__))


# -- replaying ------------------------------------------------------------------------------------------------------


def replay(engine: Engine, statement: Any, rows: list[tuple[Any, ...]]) -> Any:
    description = [("id", None), ("name", None)]
    return _cursors.replay_cursor(compiled_of(engine, statement), statement, engine, {}, description, rows)


def test_a_replayed_cursor_gives_the_rows_that_the_database_gave(engine: Engine) -> None:
    statement = select(Owner.__table__)
    with engine.connect() as connection:
        expected = connection.execute(statement).all()
    assert replay(engine, statement, [(1, "ann")]).all() == expected


def test_a_replayed_row_knows_its_columns_by_name_and_by_column(engine: Engine) -> None:
    row = replay(engine, select(Owner.__table__), [(1, "ann")]).one()
    assert (row.name, row._mapping[Owner.__table__.c.id]) == ("ann", 1)


def test_a_replayed_cursor_closes_like_a_real_one(engine: Engine) -> None:
    result = replay(engine, select(Owner.__table__), [(1, "ann"), (2, "bob")])
    assert result.first() is not None
    assert result.closed


def test_a_cursor_replayed_for_a_connection_is_of_that_connection_and_describes_itself(engine: Engine) -> None:
    statement = select(Owner.__table__)
    description = [("id", None), ("name", None)]
    with engine.connect() as connection:
        result: Any = _cursors.replay_cursor(
            compiled_of(engine, statement), statement, engine, {}, description, [(1, "ann")], connection
        )
        assert result.connection is connection
        assert result.cursor.description == description
        assert result.all() == [(1, "ann")]
        result.close()


def test_an_async_facade_closes_a_replayed_cursor(engine: Engine) -> None:
    result = replay(engine, select(Owner.__table__), [(1, "ann")])
    assert asyncio.run(_ensure_sync_result(result, result.all)) is result


def test_a_connection_begins_its_transaction_as_a_statement_would(engine: Engine) -> None:
    with engine.connect() as connection:
        seams.autobegin_connection(connection)
        assert connection.in_transaction()
        seams.autobegin_connection(connection)
        connection.commit()
        with connection.begin() as transaction:
            transaction.rollback()
            with pytest.raises(InvalidRequestError, match="closed transaction"):
                seams.autobegin_connection(connection)


def test_result_processors_run_over_replayed_rows(engine: Engine) -> None:
    statement = select(literal(1).label("id"), bindparam("name", type_=Uuid()).label("name"))
    result = _cursors.replay_cursor(
        compiled_of(engine, statement), statement, engine, {}, [("id", None), ("name", None)], [(1, "0" * 32)]
    )
    assert result.one().name.int == 0


def test_the_orm_loads_instances_from_a_replayed_cursor(engine: Engine) -> None:
    statement = select(Owner)

    def load(state: ORMExecuteState) -> Any:
        cursor = replay(engine, statement, [(1, "other")])
        return seams.load_result(state, state.session, cursor, state.execution_options).scalars().all()

    with Session(engine) as session:
        (owner,) = orm_state_of(session, statement, load)
        assert (owner.name, owner in session) == ("other", True)


def test_a_core_statement_in_a_session_gets_the_cursor_itself(engine: Engine) -> None:
    statement = select(Owner.__table__)
    with Session(engine) as session:
        cursor = replay(engine, statement, [(1, "other")])
        assert (
            orm_state_of(session, statement, lambda state: seams.load_result(state, state.session, cursor, {}))
            is cursor
        )


def test_buffered_rows_are_what_the_driver_gave_and_are_still_processed(engine: Engine) -> None:
    raw: list[Any] = []

    @event.listens_for(engine, "after_cursor_execute")
    def buffer(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        raw.extend(_cursors.buffer_cursor(context, cursor)[0])

    with engine.connect() as connection:
        rows = connection.execute(select(Pet.__table__.c.name)).scalars().all()
    assert (raw, rows) == ([("rex",), ("tom",)], ["rex", "tom"])


@pytest.mark.parametrize("is_bare", [True, False])
@pytest.mark.parametrize("style", [LABEL_STYLE_DISAMBIGUATE_ONLY, LABEL_STYLE_TABLENAME_PLUS_COL])
def test_a_column_is_bare_where_nothing_is_done_to_it_on_the_way(engine: Engine, is_bare: bool, style: Any) -> None:
    pets: Any = Pet.__table__
    statement = select(pets.c.name, pets.c.id if is_bare else -pets.c.id).set_label_style(style)
    with engine.connect() as connection:
        for _ in range(2):  # the second time by what was compiled the first time
            cursor = connection.execute(statement)
            assert _cursors.places_of(cursor, [pets.c.id, pets.c.name]) == [(1, None), (0, None)]
            assert _cursors.bare_places_of(cursor, [pets.c.id, pets.c.name]) == (
                [(1, None), (0, None)] if is_bare else None
            )


# -- sessions -------------------------------------------------------------------------------------------------------


def test_a_listener_that_listens_last_is_told_what_the_others_made_of_the_statement(engine: Engine) -> None:
    calls: list[Any] = []

    def theirs(state: ORMExecuteState) -> None:
        calls.append("theirs")
        state.statement = state.statement.options(with_loader_criteria(Pet, Pet.name == "tom"))
        state.update_execution_options(populate_existing=True, mine=1)

    def last(state: ORMExecuteState) -> None:
        calls.append((seams.why_refreshing(state), state.execution_options["mine"], len(state.user_defined_options)))

    def ours(state: ORMExecuteState) -> Any:
        calls.append("ours")
        return seams.listen_last(state, last)

    with Session(engine) as session:
        event.listen(session, "do_orm_execute", ours)
        event.listen(session, "do_orm_execute", theirs)
        assert [pet.name for pet in session.scalars(select(Pet))] == ["tom"]
    assert calls == ["ours", "theirs", ("it refreshes what the session holds", 1, 0)]


def test_a_result_that_a_later_listener_gives_is_the_result(engine: Engine) -> None:
    def never(state: ORMExecuteState) -> None:
        raise AssertionError("there is a result already")

    def answered(state: ORMExecuteState) -> Any:
        return state.invoke_statement(statement=select(Pet).where(Pet.name == "tom"))

    with Session(engine) as session:
        event.listen(session, "do_orm_execute", lambda state: seams.listen_last(state, never))
        event.listen(session, "do_orm_execute", answered)
        assert [pet.name for pet in session.scalars(select(Pet))] == ["tom"]


@pytest.mark.parametrize(
    "statement", [select(Owner), select(Owner).options(FromCache()), select(Owner).options(selectinload(Owner.pets))]
)
def test_options_of_the_users_are_those_that_sqlalchemy_tells(engine: Engine, statement: Any) -> None:
    with Session(engine) as session:
        told, asked = orm_state_of(
            session, statement, lambda state: (list(state.user_defined_options), list(seams.user_options_of(state)))
        )
    assert told == asked


def test_listeners_of_the_librarys_own_are_no_others(engine: Engine) -> None:
    seen: list[bool] = []

    def ours(state: ORMExecuteState) -> None:
        seen.append(seams.has_other_listeners(state))

    ours.__module__ = "querycache.session"
    with Session(engine) as session:
        event.listen(session, "do_orm_execute", ours)
        session.execute(select(Pet))
        assert orm_state_of(session, select(Pet), seams.has_other_listeners)
    assert seen == [False, True]


def test_autoflush_flushes_as_a_query_would(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Pet(id=9, name="new", owner_id=1))
        seams.autoflush(session)
        assert not session.new
        with session.no_autoflush:
            session.add(Pet(id=10, name="newer", owner_id=1))
            seams.autoflush(session)
            assert session.new


def test_a_session_s_transaction_begins_without_a_connection(engine: Engine) -> None:
    with Session(engine) as session:
        seams.autobegin(session)
        seams.autobegin(session)
        assert session.in_transaction()
        assert seams.connection_of(session, engine) is None


def test_where_a_savepoint_ended_within_its_context_beginning_is_refused(engine: Engine) -> None:
    with Session(engine) as session, session.begin_nested() as savepoint:
        savepoint.rollback()
        with pytest.raises(InvalidRequestError, match="closed transaction inside context manager"):
            seams.autobegin(session)


def test_a_statement_may_say_that_it_does_not_autoflush(engine: Engine) -> None:
    with Session(engine) as session:
        assert orm_state_of(session, select(Pet), seams.reads_at_autoflush)
        options = {"execution_options": {"autoflush": False}}
        assert not orm_state_of(session, select(Pet), seams.reads_at_autoflush, **options)


def test_a_statement_may_say_that_it_refreshes(engine: Engine) -> None:
    with Session(engine) as session:
        assert not orm_state_of(session, select(Pet), seams.why_refreshing)
        options = {"execution_options": {"populate_existing": True}}
        assert orm_state_of(session, select(Pet), seams.why_refreshing, **options)


def test_a_refresh_is_told_from_a_query(engine: Engine) -> None:
    with Session(engine) as session:
        pet = session.get_one(Pet, 1)
        found: list[bool] = []

        @event.listens_for(session, "do_orm_execute")
        def look(state: ORMExecuteState) -> None:
            found.append(seams.why_refreshing(state) is not None)

        session.refresh(pet)
    assert found == [True]


def test_the_connection_of_a_session_is_known_once_it_has_one(engine: Engine) -> None:
    with Session(engine) as session:
        assert seams.connection_of(session, engine) is None
        connection = session.connection()
        assert seams.connection_of(session, engine) is connection
        with session.begin_nested():
            assert seams.connection_of(session, engine) is connection
        session.commit()
        assert seams.connection_of(session, engine) is None


def test_the_connection_that_a_session_is_bound_to_is_its_own(engine: Engine) -> None:
    with engine.connect() as connection, Session(connection) as session:
        assert seams.connection_of(session, connection) is connection


# -- connections and cursors ----------------------------------------------------------------------------------------


def test_notes_on_a_connection_live_as_long_as_the_driver_connection(engine: Engine) -> None:
    with engine.connect() as connection:
        seams.connection_info_of(connection)["note"] = 1
    with engine.connect() as connection:
        assert seams.connection_info_of(connection)["note"] == 1
        connection.invalidate()
        connection.rollback()
        assert "note" not in seams.connection_info_of(connection)


def watched(connection: Connection, statement: Any, **options: Any) -> tuple[Any, _cursors.OpenCursor | None]:
    watches: list[_cursors.OpenCursor | None] = []

    def watch(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        watches.append(_cursors.watch_cursor(context))

    event.listen(connection, "after_cursor_execute", watch)
    result = connection.execution_options(**options).execute(statement)
    event.remove(connection, "after_cursor_execute", watch)
    return result, watches[0]


def test_a_cursor_is_open_until_its_last_row_was_fetched(engine: Engine) -> None:
    with engine.connect() as connection:
        result, watch = watched(connection, select(Pet.id))
        assert watch is not None
        assert watch.is_open
        assert result.fetchone() is not None
        assert watch.is_open
        result.all()
        assert not watch.is_open


def test_a_cursor_that_is_closed_is_not_open(engine: Engine) -> None:
    with engine.connect() as connection:
        result, watch = watched(connection, select(Pet.id))
        result.close()
        assert watch is not None
        assert not watch.is_open


@pytest.mark.parametrize("how", ["option", "call"])
def test_a_cursor_read_in_pieces_is_open_until_the_last(engine: Engine, how: str) -> None:
    with engine.connect() as connection:
        options = {"yield_per": 1} if how == "option" else {}
        result, watch = watched(connection, select(Pet.id), **options)
        if how == "call":
            result = result.yield_per(1)
        assert watch is not None
        assert result.fetchone() is not None
        assert watch.is_open
        assert len(result.all()) == 1
        assert not watch.is_open


def test_the_watch_of_a_forgotten_result_dies_with_it(engine: Engine) -> None:
    with engine.connect() as connection:
        result, watch = watched(connection, select(Pet.id))
        reference = weakref.ref(watch)
        del watch, result
        gc.collect()
        assert reference() is None


def test_rows_that_are_in_memory_already_are_not_watched(engine: Engine) -> None:
    watches: list[_cursors.OpenCursor | None] = []

    @event.listens_for(engine, "after_cursor_execute")
    def buffer_and_watch(connection: Any, cursor: Any, statement: str, given: Any, context: Any, many: bool) -> None:
        _cursors.buffer_cursor(context, cursor)
        watches.append(_cursors.watch_cursor(context))

    with engine.connect() as connection:
        connection.execute(select(Pet.id)).all()
    assert watches == [None]


# -- engines --------------------------------------------------------------------------------------------------------


def test_the_root_of_an_engine_with_options_is_the_engine(engine: Engine) -> None:
    assert seams.root_engine_of(engine.execution_options(a=1).execution_options(b=2)) is engine
    assert seams.root_engine_of(engine) is engine


def test_an_isolation_level_of_the_engine_is_known_to_its_dialect() -> None:
    chosen = create_engine("sqlite://", isolation_level="SERIALIZABLE")
    assert seams.isolation_is_set_on_connect(chosen.dialect)
    assert not seams.isolation_is_set_on_connect(create_engine("sqlite://").dialect)


def test_a_table_is_the_same_behind_its_annotations() -> None:
    annotated = select(Owner).get_final_froms()[0]
    assert seams.plain_table(annotated) is Owner.__table__
    assert seams.plain_table(Owner.__table__) is Owner.__table__


def test_the_pool_of_a_connection_and_its_dialect_are_those_of_its_engine(engine: Engine) -> None:
    records: list[Any] = []
    event.listen(engine, "connect", lambda connection, record: records.append(record))
    engine.dispose()
    with engine.connect():
        pass
    assert seams.pool_of_record(records[0]) is engine.pool
    assert seams.dialect_of_pool(engine.pool) is engine.dialect


def test_what_an_engine_passes_to_its_driver_is_known(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    given = seams.connect_arguments_of(create_engine(f"sqlite:///{path}", connect_args={"timeout": 3.0}).pool)
    assert given is not None
    assert (given[0][0], given[1]["timeout"]) == (str(path), 3.0)


def test_what_a_creator_passes_to_its_driver_is_not_known() -> None:
    own = create_engine("sqlite://", creator=lambda: sqlite3.connect(":memory:"))
    assert seams.connect_arguments_of(own.pool) is None
    assert seams.connect_arguments_of(None) is None


# -- a list's keys and rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "alone"),
    [
        (joinedload(Owner.pets), True),
        (selectinload(Owner.pets).load_only(Pet.name), True),
        (defer(Owner.name, raiseload=True), True),
        (raiseload("*"), True),
        (with_loader_criteria(Pet, Pet.id > 1), True),
        (contains_eager(Owner.pets), False),
        (joinedload(Owner.pets).contains_eager(Pet.owner), False),
        (object(), False),
    ],
)
def test_an_option_that_names_a_from_of_its_statement_is_known(option: Any, alone: bool) -> None:
    assert seams.looks_at_the_row_alone(option) is alone


def test_the_options_of_a_statement_can_be_others(engine: Engine) -> None:
    criteria = with_loader_criteria(Owner, Owner.name == "nobody")
    statement = select(Owner).options(joinedload(Owner.pets), criteria)
    limited = seams.with_options_alone(statement, seams.criteria_in(statement._with_options))

    with Session(engine) as session:
        assert session.scalars(limited).all() == []
    assert "JOIN" in str(statement)
    assert "JOIN" not in str(limited)


def test_what_a_select_of_an_entity_reads_beside_it_is_known() -> None:
    assert not seams.reads_more_than_one_from(select(Owner).where(Owner.pets.any()))
    assert seams.reads_more_than_one_from(select(Owner).join(Owner.pets))
    assert seams.reads_more_than_one_from(select(Owner).select_from(Pet).join(Pet.owner))
    assert seams.reads_more_than_one_from(select(Owner).where(Owner.id == Pet.owner_id))


def test_a_column_is_found_in_a_row_as_the_driver_gave_it(engine: Engine) -> None:
    statement = select(Pet.name, Pet.id, Pet.owner_id)
    compilation = compiled_of(engine, statement)
    described = [(name, None) for name in ("name", "id", "owner_id")]
    cursor = _cursors.replay_cursor(compilation, statement, engine, {}, described, ())

    places = _cursors.places_of(cursor, [Pet.__table__.c.owner_id, Pet.__table__.c.id])
    assert [position for position, _ in places] == [2, 1]
    with pytest.raises(NoSuchColumnError):
        _cursors.places_of(cursor, [Owner.__table__.c.id])


def test_another_statement_runs_in_a_statement_s_place_with_its_own_parameters(engine: Engine) -> None:
    another = select(Owner.name).where(Owner.id == bindparam("which"))

    with Session(engine) as session:
        state = select(Pet)
        found = orm_state_of(session, state, lambda orm: seams.invoke(orm, {}, (another, {"which": 1})).all())
    assert found == [("ann",)]
