"""Which model, row or statement does somebody mean who types at a command line?

Promises: a name that fits nothing, or more than one thing, is an ``UnknownTarget`` that says what there is.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from flask import current_app
from sqlalchemy import Column, Select, create_engine, event, inspect, select
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper, ORMExecuteState, Query, Session, class_mapper, make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value

from querycache import cache as core
from querycache.flask.engines import DATABASE


class UnknownTarget(Exception):
    """What was typed names nothing that can be used."""


_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_READERS: Final[Mapping[type[Any], Callable[[str], Any]]] = {
    bool: lambda text: _BOOLEANS[text.lower()],
    int: int,
    float: float,
    Decimal: Decimal,
    uuid.UUID: uuid.UUID,
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
}


def model_named(cache: core.QueryCache, name: str) -> type[Any]:
    """Return the model of a name: that of its class, or ``module:Class`` where several have one name."""
    if ":" in name:
        found = _object_at(name)
        if not _is_model(found):
            raise UnknownTarget(f"{name} is not a mapped class")
        assert isinstance(found, type)
        return found
    known = _known_models(cache)
    named = [model for model in known if model.__name__ == name]
    if len(named) == 1:
        return named[0]
    if named:
        raise UnknownTarget(f"several models are named {name}: say which, {' or '.join(map(_path_of, named))}")
    names = ", ".join(sorted({model.__name__ for model in known})) or "none"
    raise UnknownTarget(f"there is no model {name!r}. Known are: {names}. For others write module:Class")


def statement_at(path: str) -> Any:
    """Return the select(), the ``Query`` or the model that ``module:name`` leads to, calling it where it is a function."""
    found = _object_at(path)
    if callable(found) and not isinstance(found, type | Select | Query):
        try:
            found = found()
        except TypeError as error:
            raise UnknownTarget(f"{path} cannot be called without arguments: {error}") from error
    if not (_is_model(found) or isinstance(found, Query) or getattr(found, "is_select", False)):
        raise UnknownTarget(f"{path} gives no select(), but {type(found).__name__}")
    return found


def get_statement(model: type[Any], key: str) -> tuple[Any, Any]:
    """Return what ``session.get(model, key)`` would execute, and its parameters. Connects to nothing."""
    sent: list[tuple[Any, Any]] = []

    class Caught(Exception):
        pass

    def catch(orm: ORMExecuteState) -> None:
        sent.append((orm.statement, orm.parameters))
        raise Caught

    # An engine that no cache knows, so that the cache does not answer first.
    with Session(create_engine("sqlite://")) as session:
        event.listen(session, "do_orm_execute", catch)
        with suppress(Caught):
            session.get(model, _key_of(class_mapper(model), key))
    return sent[0]


def select_where(model: type[Any], conditions: Iterable[str]) -> Select[Any]:
    """Return the select() of a model's rows that meet conditions of the form ``column=value``."""
    values: dict[str, Any] = {}
    mapper: Mapper[Any] = class_mapper(model)
    for condition in conditions:
        name, equals, text = condition.partition("=")
        if not equals or name not in mapper.column_attrs:
            names = ", ".join(attribute.key for attribute in mapper.column_attrs)
            raise UnknownTarget(f"{condition!r} is not COLUMN=VALUE with a column of {model.__name__}: {names}")
        values[name] = _value_of(mapper.column_attrs[name].columns[0], text)
    return select(model).filter_by(**values)


def detached_row(model: type[Any], key: str) -> Any:
    """Return an instance that stands for the row with a key, without asking the database."""
    mapper: Mapper[Any] = class_mapper(model)
    row = mapper.class_manager.new_instance()
    for column, value in zip(mapper.primary_key, _key_of(mapper, key), strict=True):
        set_committed_value(row, mapper.get_property_by_column(column).key, value)
    make_transient_to_detached(row)
    return row


def _key_of(mapper: Mapper[Any], key: str) -> tuple[Any, ...]:
    """Return a primary key's values. A key of one column is taken whole, commas included."""
    columns = mapper.primary_key
    texts = [key] if len(columns) == 1 else key.split(",")
    if len(texts) != len(columns):
        names = ",".join(str(column.key) for column in columns)
        raise UnknownTarget(f"{key!r} is not a key of {mapper.class_.__name__}: give {names}, with commas between")
    return tuple(_value_of(column, text) for column, text in zip(columns, texts, strict=True))


def _value_of(column: Column[Any] | Any, text: str) -> Any:
    """Read a value as the column's Python type; as text where that is none of the plain ones."""
    try:
        python_type = column.type.python_type
    except NotImplementedError:
        return text
    read = _READERS.get(python_type)
    if read is None:
        return text
    try:
        return read(text)
    except (ArithmeticError, KeyError, ValueError) as error:
        raise UnknownTarget(f"{text!r} is not a value for {column}, which holds {python_type.__name__}") from error


def _known_models(cache: core.QueryCache) -> list[type[Any]]:
    """Return the application's models: the cacheable ones, and all that are declared beside them."""
    registries = {class_mapper(model).registry for model, _ in cache.cacheable_models()}
    base = getattr(current_app.extensions[DATABASE], "Model", None)
    if base is not None:
        registries.add(base.registry)
    models = {mapper.class_ for registry in registries for mapper in registry.mappers}
    return sorted(models, key=_path_of)


def _path_of(model: type[Any]) -> str:
    return f"{model.__module__}:{model.__qualname__}"


def _object_at(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownTarget(f"{path} cannot be found: {error}") from error
    return found


def _is_model(found: Any) -> bool:
    try:
        return isinstance(found, type) and isinstance(inspect(found), Mapper)
    except NoInspectionAvailable:
        return False
