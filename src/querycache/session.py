"""How does the cache hear of a Session's reads?

One ``do_orm_execute`` listener on every Session: a statement on an attached engine is handed to that engine's reader, which
answers it or says why not. The other listeners carry what was served before the Session had a connection to it.
"""

from __future__ import annotations

from functools import wraps
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine, Result
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from querycache import _lazyloads, _loading, _sqlalchemy
from querycache.coherence.declared import READS
from querycache.engine import Attachment
from querycache.gets import NOT_ANSWERED, get, key_of
from querycache.questions import Bypass
from querycache.reader import Reader, declined_at_once
from querycache.readings import NOTES, notes_of
from querycache.results import GETS, Gets
from querycache.statements.reads import NotCacheable
from querycache.statements.textreads import text_reads_of, why_not_declared

_READER: Final = "_querycache_reader"


def register(attachment: Attachment, reader: Reader) -> None:
    """Have the reads on an attached engine answered by ``reader``."""
    # With the engine, not in a table of this module's: the attachment refers to the engine, which would never be freed.
    attachment.dialect.__dict__[_READER] = (reader, attachment)
    listen_to_sessions()


def listen_to_sessions() -> None:
    """Hear of every Session's reads, from now on."""
    if not event.contains(Session, "do_orm_execute", _do_orm_execute):
        event.listen(Session, "do_orm_execute", _do_orm_execute)
        Session.get = _get  # type: ignore[method-assign]
        _lazyloads.listen_to_lazy_loads(_get_lazily)
        event.listen(Session, "after_begin", _after_begin)
        event.listen(Session, "after_transaction_end", _after_transaction_end)


def attachment_of(engine: Engine) -> tuple[Reader, Attachment] | None:
    """Return who caches an engine, None where nobody does."""
    return _reader_of(engine.dialect)


def _reader_of(dialect: Dialect) -> tuple[Reader, Attachment] | None:
    return dialect.__dict__.get(_READER)


def _do_orm_execute(orm: ORMExecuteState) -> Result[Any] | None:
    found = _found(orm)
    if found is None:
        return None
    if not _sqlalchemy.has_other_listeners(orm):
        return _answer_by(*found, orm)
    if (declined := declined_at_once(orm)) is not None:
        # Now: what is streamed would be streamed in its eager loads, too, if it were invoked from here.
        found[1].coherence.events.emit("bypass", reason=declined)
        return None
    return _sqlalchemy.listen_last(orm, _answer)


def _answer(orm: ORMExecuteState) -> Result[Any] | None:
    found = _found(orm)
    return None if found is None else _answer_by(*found, orm)


def _found(orm: ORMExecuteState) -> tuple[Reader, Attachment, Engine | Connection] | None:
    """Return by whom and where a statement may be answered; None for one that is no read, or on no attached engine."""
    written = _sqlalchemy.written_select_of(orm.statement)
    if not orm.is_select and written is None:
        return None
    try:
        bind = orm.session.get_bind(**orm.bind_arguments)
    except Exception:  # the application's code, perhaps; a sharded session has no bind before its own listener ran
        return None
    found = _reader_of(bind.dialect)
    if found is None:
        return None
    reader, attachment = found
    if written is not None and (why_not := _why_no_read(written.text, orm, attachment)) is not None:
        attachment.coherence.events.emit("bypass", reason=why_not)
        return None
    return reader, attachment, bind


def _answer_by(
    reader: Reader, attachment: Attachment, bind: Engine | Connection, orm: ORMExecuteState
) -> Result[Any] | None:
    outcome = reader.read(orm, attachment, bind)
    if not isinstance(outcome, Bypass):
        return outcome
    attachment.coherence.events.emit("defect" if outcome.defect else "bypass", reason=outcome.reason)
    return None


def _why_no_read(text: str, orm: ORMExecuteState, attachment: Attachment) -> str | None:
    """Say why a text is left alone: one that may be no SELECT must not even begin a transaction or flush here."""
    if READS in orm.execution_options:
        return why_not_declared(text, attachment.dialect.name)
    answer = text_reads_of(text, attachment.dialect.name)
    return answer.reason if isinstance(answer, NotCacheable) else None


_ordinary_get: Final = Session.get


@wraps(_ordinary_get)
def _get(self: Session, entity: Any, ident: Any, **options: Any) -> Any:
    if not (options and any(options.values())) and options.get("identity_token") is None:
        found = _get_from_cache(self, entity, ident)
        if found is not NOT_ANSWERED:
            return found
    return _ordinary_get(self, entity, ident, **options)


def _get_from_cache(session: Session, entity: Any, ident: Any) -> Any:
    """Return the instance of a primary key, None where there is no such row, or ``NOT_ANSWERED``."""
    gets: Gets | None = entity.__dict__.get(GETS) if isinstance(entity, type) else None
    # Before the bind is asked for: a session of another make (sharded, say) may need to know more for that.
    if gets is None or not _loading.may_get(session, entity.__mapper__):
        return NOT_ANSWERED
    try:
        target = session.get_bind(entity.__mapper__, clause=gets.statement)
    except Exception:  # the ordinary way asks again, and lets it raise
        return NOT_ANSWERED
    dialect = target.dialect
    found = _reader_of(dialect)
    known = None if found is None else found[0].results.known_get(gets, dialect)
    key = None if known is None else key_of(known, ident)
    if found is None or known is None or key is None:
        return NOT_ANSWERED
    reader, attachment = found
    return get(reader, session, attachment, target, known, key)


def _get_lazily(session: Session, model: type[Any], ident: tuple[Any, ...]) -> Any:
    """Return what a lazy load by primary key gives, under the key of ``Session.get``, or ``_lazyloads.NOT_ANSWERED``."""
    if None in ident or not _loading.may_get(session, model.__mapper__):
        return _lazyloads.NOT_ANSWERED
    found = _get_from_cache(session, model, ident)
    if found is not NOT_ANSWERED:
        return found
    # What is not known yet is asked for in this way, too, so that it will be.
    return _ordinary_get(session, model, ident) if _is_read_by_us(session, model) else _lazyloads.NOT_ANSWERED


def _is_read_by_us(session: Session, model: type[Any]) -> bool:
    try:
        bind = session.get_bind(model.__mapper__)
    except Exception:  # the ordinary way asks again, and lets it raise
        return False
    return _reader_of(bind.engine.dialect) is not None


def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    found = _reader_of(connection.dialect)
    if found is None:
        return
    notes = notes_of(session)
    state = found[1].state_of(connection)
    served = notes.served.pop(connection.dialect, None)
    if state is not None and served:
        state.served.take(served)


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.__dict__.pop(NOTES, None)
