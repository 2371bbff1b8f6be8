"""Writes by the unit of work: objects added, changed, deleted, merged, linked and unlinked; keys that change."""

from __future__ import annotations

from typing import Any

from oracle_schema import ROLE, attributes_of, key_of, mapper_of, relations_of
from oracle_stage import Stage
from oracle_writes import SessionWrite, settable_of, write
from sqlalchemy import case, func
from sqlalchemy.orm import Session


def row_of(stage: Stage, model: type[Any], omit: float = 0.3) -> dict[str, Any]:
    """Return the values of a new object by attribute, some left to defaults or the database."""
    row: dict[str, Any] = {}
    for one in attributes_of(model):
        column = one.column
        if ROLE in column.info or column.computed is not None:
            continue
        is_given_by_database = column.primary_key and column.table.autoincrement_column is column
        may_be_left = column.nullable or column.server_default is not None or column.default is not None
        if (is_given_by_database or may_be_left) and stage.dice.happens(omit):
            continue
        row[one.name] = stage.new_value(column)
    return row


def found(session: Session, model: type[Any], key: tuple[Any, ...]) -> Any:
    """Return the object of a key, None where there is none."""
    return session.get(model, key if len(key) > 1 else key[0])


@write("flush: insert", 3)
def add(stage: Stage) -> SessionWrite:
    model = stage.any_model()
    rows = [row_of(stage, model) for _ in range(stage.dice.weighted([(1, 3), (2, 1)]))]
    return SessionWrite(
        "flush: insert", f"{model.__name__} {rows}", lambda session: session.add_all([model(**row) for row in rows])
    )


@write("flush: update", 6)
def change(stage: Stage) -> SessionWrite | None:
    """Set attributes of a row that may be there: to values, to SQL expressions; loaded or expired before."""
    model = stage.any_model()
    key, settable = stage.key(model), settable_of(model)
    if not settable:
        return None
    new = {one.name: stage.value(one.column) for one in stage.dice.some_of(settable, 1, 2)}
    numbers = [one.name for one in settable if one.kind.counts and not one.column.foreign_keys]
    counted = stage.dice.one_of(numbers) if numbers and stage.dice.happens(0.3) else None
    way = stage.dice.one_of(["loaded", "loaded", "expired", "only", "cased"])

    def perform(session: Session) -> None:
        target = found(session, model, key)
        if target is None:
            return
        if way == "expired":
            session.flush()
            session.expire(target)
        if counted is not None:
            setattr(target, counted, func.coalesce(getattr(model, counted), 0) + 1)
        if counted is None or way != "only":
            for name, value in new.items():
                if way == "cased" and name in numbers:
                    setattr(target, name, case((getattr(model, name) == value, 1), else_=value))
                else:
                    setattr(target, name, value)

    return SessionWrite("flush: update", f"{model.__name__} {key} {new} ({way}), count {counted}", perform)


@write("flush: key change", 1)
def change_key(stage: Stage) -> SessionWrite:
    model = stage.any_model()
    key = stage.key(model)
    part = stage.dice.one_of(key_of(model))
    value = stage.value(part.column, null=False)

    def perform(session: Session) -> None:
        target = found(session, model, key)
        if target is not None:
            setattr(target, part.name, value)

    return SessionWrite("flush: key change", f"{model.__name__} {key} {part.name} = {value!r}", perform)


@write("flush: delete", 3)
def remove(stage: Stage) -> SessionWrite:
    model = stage.any_model()
    key = stage.key(model)

    def perform(session: Session) -> None:
        target = found(session, model, key)
        if target is not None:
            session.delete(target)

    return SessionWrite("flush: delete", f"{model.__name__} {key}", perform)


@write("flush: relationship", 4)
def link(stage: Stage) -> SessionWrite | None:
    """Append to a relationship, remove from it, clear it, or set it; a row that is no longer held may be an orphan."""
    model = stage.model(lambda one: any(relation.writes for relation in relations_of(one)))
    if model is None:
        return None
    relation = stage.relation(model, lambda one: one.writes)
    assert relation is not None
    name, target, many = relation.name, relation.target, relation.many
    key, other = stage.key(model), stage.key(target)
    verb = stage.dice.one_of(["add", "add", "remove", "clear", "new"])
    row = row_of(stage, target)

    def perform(session: Session) -> None:
        here = found(session, model, key)
        if here is None:
            return
        there = target(**row) if verb == "new" else found(session, target, other)
        if not many:
            setattr(here, name, None if verb in ("clear", "remove") else there)
            return
        held: list[Any] = getattr(here, name)
        if verb == "clear":
            held.clear()
        elif verb == "remove":
            if held:
                held.pop()
        elif there is not None and there not in held:
            held.append(there)

    told = f"{verb} {model.__name__} {key} {name} {row if verb == 'new' else other}"
    return SessionWrite("flush: relationship", told, perform)


@write("flush: merge", 1)
def merge(stage: Stage) -> SessionWrite:
    model = stage.any_model()
    row = row_of(stage, model, 0.5) | dict(zip((one.name for one in key_of(model)), stage.key(model), strict=True))

    def perform(session: Session) -> None:
        one = model(**row)
        held = session.identity_map.get(mapper_of(model).identity_key_from_instance(one))
        # SQLAlchemy merges into what it holds under a key, be it of the class or not, and ends in a KeyError.
        if held is None or isinstance(held, model):
            session.merge(one)

    return SessionWrite("flush: merge", f"{model.__name__} {row}", perform)
