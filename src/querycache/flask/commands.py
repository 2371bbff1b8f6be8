"""What can be asked of the cache at the command line?

``flask querycache stats | explain | invalidate | clear``. A command is a process of its own: it sees the shared store and
the database, never the counters of the servers that run.

Promises: whatever goes wrong is one sentence and exit code 1, a wrong call exit code 2. Never does: say that something
was dropped where no running server would notice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Final, TypeVar

import click
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy.exc import SQLAlchemyError

from querycache import cache as core
from querycache.errors import QueryCacheError
from querycache.flask.disabled import DisabledCache
from querycache.flask.engines import session_of
from querycache.flask.targets import UnknownTarget, detached_row, get_statement, model_named, select_where, statement_at

Command = TypeVar("Command", bound=Callable[..., None])

as_json: Final[Callable[[Command], Command]] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("querycache", cls=AppGroup)
def querycache_commands() -> None:
    """Look into the query cache, and drop what is in it."""


def _with_cache(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the current application's cache, and turn errors into a sentence."""

    @wraps(command)
    def run(**arguments: Any) -> None:
        with _told_in_words():
            command(current_app.extensions["querycache"], **arguments)

    return run


@contextmanager
def _told_in_words() -> Iterator[None]:
    try:
        yield
    except UnknownTarget as error:
        raise click.UsageError(str(error)) from error
    except QueryCacheError as error:
        raise click.ClickException(str(error)) from error
    except SQLAlchemyError as error:
        raise click.ClickException(f"the database could not be asked: {error}") from error


def _refuse_unless_shared(cache: core.QueryCache, what: str) -> None:
    """End a command that would change nothing for a running server."""
    if isinstance(cache, DisabledCache):
        raise click.ClickException(f"QUERYCACHE_ENABLED is False: nothing to {what}.")
    for store in cache.stats()["stores"]:
        if store["scope"] == "threads":
            raise click.ClickException(
                f"{store['url']} lives in each process, and this command is another one: no server would notice. "
                f"Restart the application to {what}, call cache.{what}() in it, or set QUERYCACHE_URL to lmdb://."
            )


# -- stats -----------------------------------------------------------------------------------------------------------


@querycache_commands.command("stats")
@as_json
@_with_cache
def _stats(cache: core.QueryCache, as_json: bool) -> None:
    """Show what the stores hold, which databases are attached and what is promised.

    Hits and misses are counted by each server process for itself: ask cache.stats() there.
    """
    told = _told_stats(cache)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    if not told["enabled"]:
        click.echo("off        QUERYCACHE_ENABLED is False")
        return
    for store in told["stores"]:
        click.echo(f"store      {store['url']}")
        click.echo(f"  entries  {_or_unknown(store['entries'])}")
        click.echo(f"  size     {_size(store['size_bytes'])} of {_size(store['max_size_bytes'])}")
        click.echo(f"  marks    {_or_unknown(store['marks'])} (commits under way)")
    for database in told["databases"]:
        click.echo(f"database   {database}")
    for catalog in told["catalogs"]:
        click.echo(f"catalog    {catalog['tables']:,} tables, read in {catalog['survey_seconds'] * 1000:,.1f} ms")
    click.echo(
        f"models     {', '.join(told['models']) or 'none: give a model CacheableMixin, or QueryCache(models=[...])'}"
    )
    for number, line in enumerate(told["guarantee"].splitlines()):
        click.echo(f"{'' if number else 'promise':11}{line}")


_SHARED_FIGURES: Final = ("url", "scope", "entries", "size_bytes", "max_size_bytes", "marks")


def _told_stats(cache: core.QueryCache) -> dict[str, Any]:
    return {
        "enabled": not isinstance(cache, DisabledCache),
        "stores": [{name: store[name] for name in _SHARED_FIGURES} for store in cache.stats()["stores"]],
        "databases": [engine.url.render_as_string() for engine in cache.engines],
        "catalogs": _catalogs_of(cache),
        "models": sorted({model.__name__ for model, _ in cache.cacheable_models()}),
        "guarantee": cache.guarantee,
    }


def _catalogs_of(cache: core.QueryCache) -> list[dict[str, Any]]:
    """Have the catalogs read, as each process does before its first read, and tell what that took."""
    for engine in cache.engines:
        with suppress(SQLAlchemyError):  # what the stores hold can be told while a database is down
            engine.connect().close()
    catalogs: list[dict[str, Any]] = cache.stats()["databases"]
    return catalogs


def _or_unknown(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _size(number: int | None) -> str:
    if number is None:
        return "unknown"
    return f"{number / 1_000_000:,.1f} MB" if number >= 100_000 else f"{number / 1000:,.1f} kB"


# -- explain ---------------------------------------------------------------------------------------------------------


@querycache_commands.command("explain")
@click.argument("target")
@click.option("--get", "key", metavar="KEY", help="Explain session.get(MODEL, KEY); a composite key as 3,4.")
@click.option(
    "--where", "conditions", metavar="COLUMN=VALUE", multiple=True, help="Explain a list of MODEL. Repeatable."
)
@as_json
@_with_cache
def _explain(cache: core.QueryCache, target: str, key: str | None, conditions: tuple[str, ...], as_json: bool) -> None:
    """Say whether a statement is cached and why, and which writes would drop it.

    TARGET is a MODEL (its name, or shop.models:Product), or module:name of a select() or of a function without
    arguments that returns one. Nothing is run, except such a function.

    \b
      flask querycache explain Product --get 7
      flask querycache explain Product --where category_id=3
      flask querycache explain shop.queries:best_sellers
    """
    parameters = None
    found = statement_at(target) if ":" in target else model_named(cache, target)
    if isinstance(found, type) and key is not None:
        if conditions:
            raise click.UsageError("give --get or --where, not both")
        statement, parameters = get_statement(found, key)
    elif isinstance(found, type):
        statement = select_where(found, conditions)
    elif key is not None or conditions:
        raise click.UsageError(f"--get and --where go with a model, and {target} is a statement")
    else:
        statement = found
    session = session_of(current_app) if len(cache.engines) > 1 else None
    explanation = cache.explain(statement, parameters, session=session)
    click.echo(json.dumps(explanation.to_dict(), indent=2) if as_json else str(explanation))


# -- invalidate, clear -----------------------------------------------------------------------------------------------


@querycache_commands.command("invalidate")
@click.argument("model", required=False)
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Drop all that depends on the application's databases.")
@as_json
@_with_cache
def _invalidate(
    cache: core.QueryCache, model: str | None, keys: tuple[str, ...], everything: bool, as_json: bool
) -> None:
    """Drop what depends on a MODEL, or on its rows with the given keys, for all processes that share the store.

    For changes that querycache could not see, such as rows edited by hand. What the application itself writes is
    dropped without this.

    \b
      flask querycache invalidate Product
      flask querycache invalidate Product 7 8
      flask querycache invalidate OrderLine 3,4
    """
    if everything == (model is not None):
        raise click.UsageError("give a MODEL, or --all")
    _refuse_unless_shared(cache, "invalidate")
    if model is None:
        cache.invalidate_all()
        dropped = "everything"
    else:
        found = model_named(cache, model)
        cache.invalidate(*[detached_row(found, key) for key in keys] or [found])
        dropped = " ".join([found.__name__, ", ".join(keys)]).strip()
    click.echo(json.dumps({"dropped": dropped}) if as_json else f"Dropped what depends on {dropped}.")


@querycache_commands.command("clear")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@_with_cache
def _clear(cache: core.QueryCache, yes: bool, as_json: bool) -> None:
    """Empty the stores, also for other applications that share them."""
    _refuse_unless_shared(cache, "clear")
    urls = [store["url"] for store in cache.stats()["stores"]]
    if not yes:
        click.confirm(f"Empty {', '.join(urls)} for every application that shares it?", abort=True, err=True)
    cache.clear()
    click.echo(json.dumps({"cleared": urls}) if as_json else f"Emptied {', '.join(urls)}.")
