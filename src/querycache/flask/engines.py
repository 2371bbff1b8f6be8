"""Which database extension has an application, and which engines has that?

Flask-SQLAlchemy and Flask-SQLAlchemy-Lite register under one name; they are told apart by their classes, and neither is
imported unless it is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from flask import Flask
from sqlalchemy.orm import Session, scoped_session

from querycache.errors import ConfigurationError

DATABASE: Final = "sqlalchemy"


def database_of(app: Flask, given: Any) -> Any:
    """Return the application's ``db``.

    Raises ``ConfigurationError`` where it is of another kind, is not the one given, or was not initialised yet.
    """
    if given is not None and not is_database(given):
        raise ConfigurationError(
            f"db={given!r} is neither Flask-SQLAlchemy's nor Flask-SQLAlchemy-Lite's SQLAlchemy: "
            "for other engines use querycache.QueryCache and its attach(engine)"
        )
    registered = app.extensions.get(DATABASE)
    if registered is None:
        raise ConfigurationError(
            f"{app.name!r} has no database yet: call db.init_app(app) first, then QueryCache's init_app(app)"
        )
    if given is not None and given is not registered:
        raise ConfigurationError(
            f"{app.name!r} was initialised with another db than the one given to QueryCache: give QueryCache the same"
        )
    if not is_database(registered):
        raise ConfigurationError(
            f'app.extensions["{DATABASE}"] of {app.name!r} is a {type(registered).__name__}, which is not known: '
            "use Flask-SQLAlchemy (3.1 or newer) or Flask-SQLAlchemy-Lite"
        )
    return registered


def is_database(db: Any) -> bool:
    """Tell whether ``db`` belongs to one of the two extensions."""
    return any(isinstance(db, known) for known in _known_classes())


def engines_of(app: Flask, db: Any) -> list[Any]:
    """Return the engines that ``db`` made for an application: every bind, and Lite's async ones."""
    with app.app_context():
        return [*db.engines.values(), *getattr(db, "async_engines", {}).values()]


def session_of(app: Flask) -> Session:
    """Return the session that the application's code would use now. Needs an application context."""
    session: Session | scoped_session[Session] = app.extensions[DATABASE].session
    return session() if isinstance(session, scoped_session) else session


def _known_classes() -> Iterator[type[Any]]:
    try:
        from flask_sqlalchemy import SQLAlchemy
    except ImportError:
        pass
    else:
        yield SQLAlchemy
    try:
        from flask_sqlalchemy_lite import SQLAlchemy as Lite
    except ImportError:
        pass
    else:
        yield Lite
