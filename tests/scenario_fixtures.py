"""What the scenarios run on: each database with each store, and a shop in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text
from sqlalchemy.orm import Session

from querycache import QueryCache
from scenario_market import Aisle, CountedLabel, Item, Label, Market, Offer, Seller, stock_market
from scenario_support import Category, Product, Tag, World, refill, stock, tables_of
from servers import MARIADB, POSTGRESQL, database, empty_database, server

PAIRS = ["sqlite-memory", "sqlite-lmdb", "postgresql-lmdb", "mariadb-memory"]


class Worlds:
    """Makes worlds on one database; ``models`` are cached, and have their tables made."""

    def __init__(self, url: str, store_url: str, engine_of: Callable[..., Engine], stack: ExitStack) -> None:
        self.url = url
        self.store_url = store_url
        self.engine_of = engine_of
        self._stack = stack

    def __call__(
        self,
        *models: type[Any],
        engine_options: dict[str, Any] | None = None,
        isolated: bool = True,
        make_tables: bool = True,
        store: Any = None,
        before_attach: Callable[[Engine], None] | None = None,
        **cache_options: Any,
    ) -> World:
        options = dict(engine_options or {})
        outside = self.engine(isolation_level="AUTOCOMMIT")
        if make_tables and models:
            metadata, tables = tables_of(*models)
            metadata.create_all(outside, tables=tables)
        if isolated and self.url.startswith(("mysql", "mariadb")):
            options.setdefault("isolation_level", "READ COMMITTED")
        engine = self.engine(**options)
        cache = self._stack.enter_context(QueryCache(store or self.store_url, models=models, **cache_options))
        if before_attach is not None:
            before_attach(engine)
        cache.attach(engine)
        return World(engine, outside, cache)

    def engine(self, **options: Any) -> Engine:
        """Make an engine on the database that no cache knows; SQLite's with foreign keys on."""
        engine = self.engine_of(self.url, **options)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
        return engine

    def shop(self, **options: Any) -> World:
        """Make a shop with two categories, four products and two tags."""
        world = self(Category, Product, Tag, **options)
        with Session(world.outside) as session:
            if world.dialect == "sqlite":
                # Readers and a writer pass each other, as on the servers.
                session.execute(text("PRAGMA journal_mode = WAL"))
            stock(session)
            session.commit()
        return world


@pytest.fixture(params=PAIRS)
def worlds(request: pytest.FixtureRequest, tmp_path: Path, engine_of: Callable[..., Engine]) -> Iterator[Worlds]:
    """Make worlds, on each kind of database, with one store or the other."""
    database, store = request.param.split("-")
    url: str = request.getfixturevalue(f"{database}_url")
    store_url = "memory://" if store == "memory" else f"lmdb://{tmp_path}/store?size=16MB"
    with ExitStack() as stack:
        yield Worlds(url, store_url, engine_of, stack)


@pytest.fixture
def shop(worlds: Worlds) -> World:
    """A shop with two categories, four products and two tags."""
    return worlds.shop()


@pytest.fixture(scope="module", params=["sqlite-memory", "postgresql-lmdb", "mariadb-memory"])
def standing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    """Make worlds on a database that the tests of one file share; each of them has it refilled."""
    database_name, store = request.param.split("-")
    folder = tmp_path_factory.mktemp("standing")
    with ExitStack() as stack:
        if database_name == "sqlite":
            url = f"sqlite:///{folder}/database.sqlite"
        else:
            kind = {"postgresql": POSTGRESQL, "mariadb": MARIADB}[database_name]
            server_url = stack.enter_context(server(kind))
            url = stack.enter_context(database(server_url, "standing")).render_as_string(hide_password=False)
            # A session that a failing test left open would keep the database from being dropped.
            stack.callback(empty_database, create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT"))

        def engine_of(url: str, **options: Any) -> Engine:
            engine = create_engine(url, **options)
            stack.callback(engine.dispose)
            return engine

        yield Worlds(url, "memory://" if store == "memory" else f"lmdb://{folder}/store?size=16MB", engine_of, stack)


@pytest.fixture(scope="module")
def standing_market(standing: Worlds) -> World:
    """A market's tables in the database of one file."""
    return standing(Aisle, Item, Label, Seller, Offer, CountedLabel)


@pytest.fixture
def market(standing_market: World) -> World:
    """A market with the rows that it has at first."""
    refill(standing_market, Market, stock_market)
    return standing_market
