"""By which ways does the oracle change rows?

A write is performed by a Session, or by a Connection alone. It may fail as any write may (a key that is there already, a
row that another transaction locked): the machine rolls back then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st
from oracle_conditions import COLUMNS, RELATIONSHIPS, conditions, key_columns
from oracle_schema import MODELS, Item, Label, Part, Region, Tool, item_label
from oracle_values import KEYS, NUMBERS, SMALL, TEXTS, values_of
from sqlalchemy import Connection, case, delete, func, insert, literal, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class SessionWrite:
    """A change that only a Session can make."""

    name: str
    perform: Callable[[Session], Any]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"<{self.name}>")


@dataclass(frozen=True, slots=True)
class CoreWrite:
    """A change that a Connection can make, a Session's own included."""

    name: str
    perform: Callable[[Connection], Any]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"<{self.name}>")


Write = SessionWrite | CoreWrite


def writes() -> st.SearchStrategy[Write]:
    """Return changes by every way."""
    return st.one_of(session_writes(), session_writes(), core_writes())


def session_writes() -> st.SearchStrategy[SessionWrite]:
    """Return changes by unit of work, relationships, bulk methods, ORM DML and legacy Query."""
    return st.one_of(adds(), sets(), sets(), removes(), links(), bulk_inserts(), bulk_updates(), orm_dml())


def core_writes() -> st.SearchStrategy[CoreWrite]:
    """Return changes by Core DML, many sets of parameters, upserts, INSERT from SELECT, and text."""
    return st.one_of(core_dml(), core_dml(), associations(), upserts(), copies(), texts())


@st.composite
def _rows(draw: st.DrawFn, model: type[Any], *, key: bool = True) -> dict[str, Any]:
    """Return the values of a row, some left to their defaults; ``key=False``: its key is left to the database."""
    row: dict[str, Any] = {}
    for name in COLUMNS[model]:
        column = getattr(model, name).property.columns[0]
        if name == "kind" or (not key and name == "id") or (not column.primary_key and draw(st.integers(0, 3)) == 0):
            continue
        row[name] = draw(values_of(column))
    return row


@st.composite
def _identities(draw: st.DrawFn, model: type[Any]) -> Any:
    return (draw(KEYS), draw(NUMBERS)) if model is Part else draw(KEYS)


@st.composite
def adds(draw: st.DrawFn) -> SessionWrite:
    model = draw(st.sampled_from(MODELS))
    rows = draw(st.lists(_rows(model, key=model is Part or draw(st.booleans())), min_size=1, max_size=2))
    return SessionWrite(f"add {model.__name__} {rows}", lambda session: session.add_all([model(**row) for row in rows]))


@st.composite
def sets(draw: st.DrawFn) -> SessionWrite:
    """Set attributes of a row that may be there: to values, to SQL expressions, the primary key too."""
    model = draw(st.sampled_from(MODELS))
    key = draw(_identities(model))
    names = [name for name in COLUMNS[model] if name not in ("kind", "item_id")]
    names = [name for name in names if name != "id" or model in (Label, Region)]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    new = {name: draw(values_of(getattr(model, name).property.columns[0])) for name in chosen}
    counted = draw(st.sampled_from([None, None, *(name for name in ("rank", "size", "amount") if name in names)]))
    expired = draw(st.booleans())

    def perform(session: Session) -> None:
        found = session.get(model, key)
        if found is None:
            return
        if expired:
            session.flush()
            session.expire(found)
        for name, value in new.items():
            setattr(found, name, value)
        if counted is not None:
            setattr(found, counted, func.coalesce(getattr(model, counted), 0) + 1)

    return SessionWrite(f"set {model.__name__} {key} {new}{f', count {counted}' if counted else ''}", perform)


@st.composite
def removes(draw: st.DrawFn) -> SessionWrite:
    model = draw(st.sampled_from(MODELS))
    key = draw(_identities(model))

    def perform(session: Session) -> None:
        found = session.get(model, key)
        if found is not None:
            session.delete(found)

    return SessionWrite(f"delete {model.__name__} {key}", perform)


@st.composite
def links(draw: st.DrawFn) -> SessionWrite:
    """Change a relationship: append, remove, clear, or set it."""
    model = draw(st.sampled_from([Region, Item, Label]))
    name = draw(st.sampled_from(sorted(set(RELATIONSHIPS[model]) - {"parts"})))
    target, is_many = RELATIONSHIPS[model][name]
    key, other = draw(KEYS), draw(KEYS)
    verb = draw(st.sampled_from(["add", "remove", "clear"]))

    def perform(session: Session) -> None:
        found, linked = session.get(model, key), session.get(target, other)
        if found is None:
            return
        if not is_many:
            setattr(found, name, None if verb == "clear" else linked)
            return
        held: list[Any] = getattr(found, name)
        if verb == "clear":
            held.clear()
        elif verb == "remove" and held:
            held.pop()
        elif linked is not None and linked not in held:
            held.append(linked)

    return SessionWrite(f"{verb} {model.__name__} {key} {name} {other}", perform)


@st.composite
def bulk_inserts(draw: st.DrawFn) -> SessionWrite:
    model = draw(st.sampled_from([Region, Item, Tool, Part, Label]))
    rows = draw(st.lists(_rows(model, key=model is Part or draw(st.booleans())), min_size=1, max_size=3))
    way = draw(st.sampled_from(["mappings", "objects", "insert", "returning"]))

    def perform(session: Session) -> None:
        session.flush()
        if way == "mappings":
            session.bulk_insert_mappings(model.__mapper__, rows)
        elif way == "objects":
            session.bulk_save_objects([model(**row) for row in rows])
        elif way == "insert" or model is Tool:
            session.execute(insert(model), rows)
        else:
            session.scalars(insert(model).returning(key_columns(model, model)[0]), rows).all()

    return SessionWrite(f"bulk insert ({way}) {model.__name__} {rows}", perform)


@st.composite
def bulk_updates(draw: st.DrawFn) -> SessionWrite:
    """Update rows by their primary keys, with none of them loaded."""
    model = draw(st.sampled_from([Region, Item, Label]))
    name = draw(st.sampled_from([name for name in COLUMNS[model] if name not in ("id", "kind")]))
    column = getattr(model, name).property.columns[0]
    rows = draw(st.lists(st.fixed_dictionaries({"id": KEYS, name: values_of(column)}), min_size=1, max_size=2))
    mappings = draw(st.booleans())

    def perform(session: Session) -> None:
        session.flush()
        if mappings:
            session.bulk_update_mappings(model.__mapper__, rows)
        else:
            session.execute(update(model), rows)

    return SessionWrite(f"bulk update {model.__name__} {rows}", perform)


@st.composite
def orm_dml(draw: st.DrawFn) -> SessionWrite:
    model = draw(st.sampled_from([Region, Item, Part, Label]))
    where = draw(conditions(model, 0))
    name = draw(st.sampled_from([name for name in COLUMNS[model] if name not in ("id", "kind", "item_id", "number")]))
    value = draw(values_of(getattr(model, name).property.columns[0]))
    way = draw(st.sampled_from(["update", "delete", "Query.update", "Query.delete"]))
    synchronize: Any = draw(st.sampled_from(["auto", "fetch", False]))

    def perform(session: Session) -> None:
        if way == "update":
            changed = update(model).where(where(model)).values({name: value})
            session.execute(changed, execution_options={"synchronize_session": synchronize})
        elif way == "delete":
            session.execute(delete(model).where(where(model)), execution_options={"synchronize_session": synchronize})
        elif way == "Query.update":
            session.query(model).filter(where(model)).update({name: value}, synchronize_session=synchronize)
        else:
            session.query(model).filter(where(model)).delete(synchronize_session=synchronize)

    return SessionWrite(f"{way} {model.__name__} set {name} = {value!r} where {where(model)}", perform)


@st.composite
def core_dml(draw: st.DrawFn) -> CoreWrite:
    """Insert, update or delete by Core, with one set of parameters or several, by key or by anything else."""
    model = draw(st.sampled_from([Region, Item, Part, Label]))
    table: Any = model.__table__
    where = draw(conditions(model, 0))
    name = draw(st.sampled_from([name for name in COLUMNS[model] if name not in ("id", "kind", "item_id", "number")]))
    value = draw(values_of(table.c[name]))
    key = draw(_identities(model))
    rows = draw(st.lists(_rows(model), min_size=1, max_size=2))
    way = draw(
        st.sampled_from(["insert", "insert many", "values", "update", "update by key", "delete", "delete by key"])
    )
    keys = key_columns(table.c, model)
    by_key = [column == part for column, part in zip(keys, key if isinstance(key, tuple) else (key,), strict=True)]

    def perform(connection: Connection) -> None:
        statement: Any = {
            "insert": insert(table).values(rows[0]),
            "insert many": insert(table),
            "values": insert(table).values(rows[:1]),
            "update": update(table).where(where(table.c)).values({name: value}),
            "update by key": update(table).where(*by_key).values({name: value}),
            "delete": delete(table).where(where(table.c)),
            "delete by key": delete(table).where(*by_key),
        }[way]
        if way == "insert many":
            names = sorted(set.intersection(*(set(row) for row in rows)))
            connection.execute(statement, [{name: row[name] for name in names} for row in rows])
        else:
            connection.execute(statement)

    what = (
        f"{rows}" if way in ("insert", "insert many", "values") else f"{key} {name} = {value!r} where {where(table.c)}"
    )
    return CoreWrite(f"Core {way} {table.name} {what}", perform)


@st.composite
def associations(draw: st.DrawFn) -> CoreWrite:
    item, label = draw(KEYS), draw(KEYS)
    way = draw(st.sampled_from(["insert", "delete", "delete all"]))
    statement: Any = {
        "insert": insert(item_label).values(item_id=item, label_id=label),
        "delete": delete(item_label).where(item_label.c.item_id == item, item_label.c.label_id == label),
        "delete all": delete(item_label).where(item_label.c.label_id == label),
    }[way]
    return CoreWrite(f"Core {way} item_label {item} {label}", lambda connection: connection.execute(statement))


@st.composite
def upserts(draw: st.DrawFn) -> CoreWrite:
    """Insert, or else update or ignore or replace; a unique column may hit another row than the key does."""
    key, name, rank = draw(KEYS), draw(TEXTS), draw(SMALL)
    way = draw(st.sampled_from(["update", "ignore", "replace"]))

    def perform(connection: Connection) -> None:
        dialect = connection.dialect.name
        values = {"id": key, "name": name, "rank": rank}
        if dialect in ("mysql", "mariadb"):
            statement: Any = mysql.insert(Region).values(values)
            updated, ignored = statement.on_duplicate_key_update(rank=rank), statement.prefix_with("IGNORE")
            statement = updated if way == "update" else ignored
        else:
            statement = (sqlite.insert if dialect == "sqlite" else postgresql.insert)(Region).values(values)
            if way == "replace" and dialect == "sqlite":
                statement = insert(Region).values(values).prefix_with("OR REPLACE")
            elif way == "ignore":
                statement = statement.on_conflict_do_nothing()
            else:
                statement = statement.on_conflict_do_update(index_elements=["id"], set_={"rank": rank, "name": name})
        connection.execute(statement)

    return CoreWrite(f"upsert ({way}) region {key} {name!r} {rank}", perform)


@st.composite
def copies(draw: st.DrawFn) -> CoreWrite:
    """INSERT from SELECT, and an UPDATE by a subquery."""
    item, number = draw(KEYS), draw(NUMBERS)
    way = draw(st.sampled_from(["insert", "update", "case"]))

    def perform(connection: Connection) -> None:
        items: Any = Item.__table__
        parts: Any = Part.__table__
        if way == "insert":
            chosen = select(items.c.id, literal(number), items.c.size).where(items.c.id >= item)
            connection.execute(insert(parts).from_select(["item_id", "number", "amount"], chosen))
        elif way == "update":
            linked = select(item_label.c.item_id).where(item_label.c.label_id == item)
            connection.execute(update(items).where(items.c.id.in_(linked)).values(size=number))
        else:
            value = case((items.c.size == 1, 2), else_=1)
            connection.execute(update(items).where(items.c.id == item).values(size=value))

    return CoreWrite(f"copy ({way}) {item} {number}", perform)


_TEXTS: Final = (
    "UPDATE item SET size = {number} WHERE id = {key}",
    "UPDATE region SET rank = {number} WHERE id >= {key}",
    "DELETE FROM region WHERE id = {key}",
    "DELETE FROM item WHERE region_id = {key}",
    "INSERT INTO label (id, kind, text) VALUES ({key}, 'label', 'b')",
    "DELETE FROM item_label",
    "UPDATE part SET item_id = {key} WHERE number = {number}",
    "WITH chosen AS (SELECT id FROM item WHERE size = {number}) DELETE FROM part WHERE item_id IN (SELECT id FROM chosen)",
)


@st.composite
def texts(draw: st.DrawFn) -> CoreWrite:
    template = draw(st.sampled_from(_TEXTS))
    values = {"key": draw(KEYS), "number": draw(NUMBERS)}
    way = draw(st.sampled_from(["text", "bound text", "driver"]))

    def perform(connection: Connection) -> None:
        # "rank" is a word of MySQL's own.
        quoted = template.replace("rank", connection.dialect.identifier_preparer.quote("rank"))
        if way == "driver":
            connection.exec_driver_sql(quoted.format(**values))
        elif way == "text":
            connection.execute(text(quoted.format(**values)))
        else:
            used = {name: value for name, value in values.items() if "{" + name + "}" in template}
            connection.execute(text(quoted.format(key=":key", number=":number")), used)

    return CoreWrite(f"{way}: {template.format(**values)}", perform)
