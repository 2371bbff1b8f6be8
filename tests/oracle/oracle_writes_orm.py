"""Writes by a Session past its unit of work: bulk methods, ORM-enabled INSERT, UPDATE and DELETE, legacy Query."""

from __future__ import annotations

from typing import Any

from oracle_conditions import condition, pair_of
from oracle_schema import key_of, keys_in, mapper_of, subclasses_of, table_of
from oracle_stage import Stage
from oracle_writes import SessionWrite, settable_of, write
from oracle_writes_flush import found, row_of
from sqlalchemy import delete, exists, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

_SYNCHRONIZE = ("auto", "fetch", "evaluate", False)


@write("bulk insert")
def bulk_insert(stage: Stage) -> SessionWrite:
    model = stage.any_model()
    rows = [row_of(stage, model) for _ in range(stage.dice.weighted([(1, 3), (2, 1)]))]
    way = stage.dice.one_of(["mappings", "objects", "insert", "returning"])
    if len(list(mapper_of(model).with_polymorphic_mappers)) > 1 and way in ("insert", "returning"):
        way = "objects"  # SQLAlchemy cannot insert into a class that loads its subclasses inline

    def perform(session: Session) -> None:
        session.flush()
        if way == "mappings":
            session.bulk_insert_mappings(mapper_of(model), rows)
        elif way == "objects":
            session.bulk_save_objects([model(**row) for row in rows])
        elif way == "insert":
            session.execute(insert(model), rows)
        else:
            session.scalars(insert(model).returning(keys_in(model, model)[0]), rows).all()

    return SessionWrite("bulk insert", f"({way}) {model.__name__} {rows}", perform)


@write("bulk update", 3)
def bulk_update(stage: Stage) -> SessionWrite | None:
    """Update rows by their primary keys, with none of them loaded, or with all."""
    model = stage.any_model()
    settable = settable_of(model)
    if not settable:
        return None
    one = stage.dice.one_of(settable)
    names = [part.name for part in key_of(model)]
    keys = list(dict.fromkeys(stage.key(model) for _ in range(stage.dice.number(1, 2))))
    rows = [{**dict(zip(names, key, strict=True)), one.name: stage.value(one.column)} for key in keys]
    # By mappings it is the application's to say which version it has. A concrete class has none of its own.
    version = mapper_of(model).version_id_col
    versions = [each.key for each in mapper_of(model).column_attrs if version is not None and version in each.columns]
    rows = [{**row, **dict.fromkeys(versions, 1)} for row in rows]
    way = stage.dice.one_of(["mappings", "update", "objects"])

    def perform(session: Session) -> None:
        session.flush()
        if way == "mappings":
            session.bulk_update_mappings(mapper_of(model), rows)
        elif way == "update":
            session.execute(update(model), rows)
        else:
            targets = [target for key in keys if (target := found(session, model, key)) is not None]
            for target in targets:
                setattr(target, one.name, rows[0][one.name])
            session.bulk_save_objects(targets)

    return SessionWrite("bulk update", f"({way}) {model.__name__} {rows}", perform)


@write("ORM update", 4)
def orm_update(stage: Stage) -> SessionWrite | None:
    model = stage.any_model()
    settable = settable_of(model)
    if not settable:
        return None
    where, one = condition(stage, model, 1), stage.dice.one_of(settable)
    value = stage.value(one.column)
    way = stage.dice.one_of(["update", "update", "Query.update", "returning", "count"])
    synchronize: Any = stage.dice.one_of(_SYNCHRONIZE)

    def perform(session: Session) -> None:
        if way == "Query.update":
            session.query(model).filter(where(model)).update({one.name: value}, synchronize_session=synchronize)
            return
        column = getattr(model, one.name)
        new = column + 1 if way == "count" and one.kind.counts else value
        changed = update(model).where(where(model)).values({column: new})
        if way == "returning" and stage.dialect != "mysql":
            changed = changed.returning(*keys_in(model, model))
        session.execute(changed, execution_options={"synchronize_session": synchronize})

    told = f"({way}, {synchronize}) {model.__name__} set {one.name} = {value!r} where {where(model)}"
    return SessionWrite("ORM update", told, perform)


@write("ORM delete", 2)
def orm_delete(stage: Stage) -> SessionWrite:
    model = stage.any_model()
    where = condition(stage, model, 1)
    way = stage.dice.one_of(["delete", "Query.delete", "returning"])
    synchronize: Any = stage.dice.one_of(_SYNCHRONIZE)

    def perform(session: Session) -> None:
        if way == "Query.delete":
            session.query(model).filter(where(model)).delete(synchronize_session=synchronize)
            return
        statement: Any = delete(model).where(where(model))
        if way == "returning":
            statement = statement.returning(*keys_in(model, model))
        session.execute(statement, execution_options={"synchronize_session": synchronize})

    return SessionWrite("ORM delete", f"({way}, {synchronize}) {model.__name__} where {where(model)}", perform)


@write("ORM update by another table")
def orm_update_from(stage: Stage) -> SessionWrite | None:
    """Update the rows that a correlated EXISTS finds."""
    model, target = stage.any_model(), stage.any_model()
    pair, settable = pair_of(stage, model, target), settable_of(model)
    if pair is None or not settable or table_of(model) is table_of(target):
        return None
    here, there = pair
    inner, one = condition(stage, target, 0), stage.dice.one_of(settable)
    value = stage.value(one.column)

    def perform(session: Session) -> None:
        other = aliased(target)
        which = exists().where(getattr(other, there) == getattr(model, here), inner(other))
        changed = update(model).where(which).values({one.name: value})
        session.execute(changed, execution_options={"synchronize_session": False})

    told = f"{model.__name__} set {one.name} = {value!r} where {here} = {target.__name__}.{there}, {inner(target)}"
    return SessionWrite("ORM update by another table", told, perform)


@write("ORM upsert", 1)
def orm_upsert(stage: Stage) -> SessionWrite | None:
    """Insert or update, and take the object that comes back."""
    model = stage.model(lambda one: mapper_of(one).inherits is None and not subclasses_of(one))
    if model is None or stage.dialect == "mysql" or not settable_of(model):
        return None
    row = row_of(stage, model, 0.2) | dict(zip((a.name for a in key_of(model)), stage.key(model), strict=True))
    one = stage.dice.one_of(settable_of(model))
    value = stage.value(one.column)
    make: Any = sqlite.insert if stage.dialect == "sqlite" else postgresql.insert

    def perform(session: Session) -> None:
        session.flush()
        statement = make(model).values(**row)
        statement = statement.on_conflict_do_update(
            index_elements=[part.column for part in key_of(model)], set_={one.column: value}
        )
        session.scalars(statement.returning(model), execution_options={"populate_existing": True}).all()

    return SessionWrite("ORM upsert", f"{model.__name__} {row} or {one.name} = {value!r}", perform)


@write("ORM insert from select", 1)
def orm_insert_from(stage: Stage) -> SessionWrite | None:
    """Copy rows of a class under keys made of constants and of another column."""
    model = stage.model(lambda one: mapper_of(one).inherits is None and len(key_of(one)) == 1)
    if model is None:
        return None
    required = [c for c in table_of(model).columns if not c.nullable and not c.primary_key and c.computed is None]
    key = key_of(model)[0]
    value, source = stage.dice.one_of(key.kind.keys), stage.dice.one_of(key.kind.keys)

    def perform(session: Session) -> None:
        from sqlalchemy import literal

        table = table_of(model)
        chosen = select(literal(value, key.column.type), *required).where(key.column == source)
        session.execute(insert(table).from_select([key.column, *required], chosen))

    return SessionWrite("ORM insert from select", f"{model.__name__} {value!r} from {source!r}", perform)
