"""What is served and stored on a replica, which may show less than has been committed?

Replicas are found by asking. A real standby follows a PostgreSQL of our own, lags when it is told to, and is promoted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, event, make_url, select
from sqlalchemy.orm import Session

from coherence_fixtures import world_on
from coherence_world import (
    Process,
    Product,
    StagedStore,
    World,
    category_of,
    is_hit,
    name_of,
    names_in,
    pin,
    read_in,
    rename,
    repeatable,
)
from commit_support import wait_until
from own_servers import start_postgresql, start_standby
from querycache import FromCache, SnapshotMovedError
from servers import POSTGRESQL, database, why_not


@dataclass
class Pair:
    """A primary and its standby, one database on both."""

    primary: World
    standby_url: URL
    admin: Engine

    def on_standby(self, **options: Any) -> Process:
        """Start a process whose engine leads to the standby; the store is the one that all share."""
        engine_options = {name[7:]: options.pop(name) for name in list(options) if name.startswith("engine_")}
        return self.primary.process(engine=create_engine(self.standby_url, **engine_options), **options)

    def plainly(self, statement: str) -> Any:
        """Ask the standby itself, without a cache."""
        with self.admin.connect() as connection:
            return connection.exec_driver_sql(statement).scalar()

    def truth(self) -> Any:
        return self.plainly("SELECT name FROM product WHERE id = 1")

    def catch_up(self) -> None:
        """Wait until the standby shows all that the primary has committed."""
        with self.primary.process(cached=False).engine.begin() as connection:
            position = connection.exec_driver_sql("SELECT pg_logical_emit_message(true, 'catch up', '')").scalar()
        shows_it = f"SELECT pg_last_wal_replay_lsn() >= '{position}'"
        wait_until(lambda: self.plainly(shows_it), "the standby does not follow its primary")

    @contextmanager
    def lag(self) -> Iterator[None]:
        """Keep the standby from following; it may be promoted meanwhile."""
        self.catch_up()
        self.plainly("SELECT pg_wal_replay_pause()")
        wait_until(lambda: self.plainly("SELECT pg_get_wal_replay_pause_state()") == "paused", "the standby goes on")
        try:
            yield
        finally:
            if self.plainly("SELECT pg_is_in_recovery()"):
                self.plainly("SELECT pg_wal_replay_resume()")

    def promote(self) -> None:
        assert self.plainly("SELECT pg_promote()")


@contextmanager
def paired() -> Iterator[Pair]:
    refusal = partial(why_not, POSTGRESQL)
    with (
        start_postgresql(refusal) as server_url,
        database(server_url, "replicated") as url,
        world_on(url.render_as_string(hide_password=False)) as world,
        start_standby(server_url, refusal) as standby,
    ):
        standby_url = standby.set(database=url.database)
        admin = create_engine(standby_url, isolation_level="AUTOCOMMIT")
        yield Pair(world, standby_url, admin)
        admin.dispose()


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    with paired() as pair:
        yield pair


@pytest.fixture
def pair(servers: Pair) -> Pair:
    """Begin with the first name, seen on both, and an empty store."""
    servers.primary.store = StagedStore()
    rename(servers.primary.process(cached=False), "a")
    servers.catch_up()
    return servers


# -- a standby that follows -----------------------------------------------------------------------------------------


def test_what_is_read_on_a_standby_is_not_stored(pair: Pair) -> None:
    replica = pair.on_standby()
    for read in (name_of, category_of, lambda session: names_in(session, 3)):
        read_in(replica, read)
        assert not is_hit(replica, read)
    assert "fill" not in replica.counts()


def test_what_is_read_on_a_standby_while_it_lags_is_not_stored(pair: Pair) -> None:
    replica, primary = pair.on_standby(), pair.primary.process()
    with pair.lag():
        rename(primary, "b")
        assert read_in(replica, name_of) == pair.truth() == "a"
        assert read_in(primary, name_of) == "b"


def test_a_list_put_together_of_rows_that_a_standby_gave_is_not_stored(pair: Pair) -> None:
    replica, primary = pair.on_standby(cached=False), pair.primary.process()
    assert primary.cache is not None
    primary.cache.attach(replica.engine)

    def rows(session: Session) -> list[str]:
        by_keys = select(Product).order_by(Product.id).options(FromCache(shape="keys"))
        return [product.name for product in session.scalars(by_keys)]

    read_in(primary, rows)
    with pair.lag():
        rename(primary, "b")
        assert read_in(replica, rows) == ["a", "z"]
        assert read_in(primary, rows) == ["b", "z"]


def test_rows_that_a_standby_gave_are_not_put_together_with_newer_ones(pair: Pair) -> None:
    replica, primary = pair.on_standby(cached=False), pair.primary.process()
    assert primary.cache is not None
    primary.cache.attach(replica.engine)

    def rows(session: Session) -> list[str]:
        by_keys = select(Product).order_by(Product.id).options(FromCache(shape="keys"))
        return [product.name for product in session.scalars(by_keys)]

    def last(session: Session) -> list[str]:
        by_keys = select(Product).where(Product.category_id == 7).order_by(Product.id).options(FromCache(shape="keys"))
        return [product.name for product in session.scalars(by_keys)]

    before = read_in(primary, rows)
    read_in(primary, last)
    with pair.lag():
        with Session(primary.engine) as session:
            for product in session.scalars(select(Product)):
                product.name = product.name + " anew"
            session.commit()
        read_in(primary, last)

        assert read_in(replica, rows) == before


def test_a_standby_is_the_same_database_as_its_primary(pair: Pair) -> None:
    replica, primary = pair.on_standby(), pair.primary.process()
    read_in(primary, name_of)
    assert is_hit(replica)
    rename(primary, "b")
    pair.catch_up()
    assert read_in(replica, name_of) == "b"


def test_what_the_primary_gave_is_served_on_a_standby_that_lags(pair: Pair) -> None:
    replica, primary = pair.on_standby(), pair.primary.process()
    with pair.lag():
        rename(primary, "b")
        read_in(primary, name_of)
        assert read_in(replica, name_of) == "b"
        assert pair.truth() == "a"


def test_one_cache_may_have_both_and_takes_neither_for_the_other(pair: Pair) -> None:
    primary = pair.primary.process()
    replica = pair.on_standby(cached=False)
    assert primary.cache is not None
    primary.cache.attach(replica.engine)
    read_in(primary, category_of)
    with pair.lag():
        rename(primary, "b")
        assert read_in(replica, name_of) == "a"
        assert read_in(primary, name_of) == "b"
        assert read_in(replica, name_of) == "b"


# -- snapshots on a standby -----------------------------------------------------------------------------------------


def test_a_snapshot_on_a_standby_is_never_served_what_it_may_not_show(pair: Pair) -> None:
    replica, primary = pair.on_standby(engine_isolation_level="REPEATABLE READ"), pair.primary.process()
    with pair.lag():
        rename(primary, "b")
        read_in(primary, name_of)
        with replica.session() as session:
            assert name_of(session) == "a"
            assert name_of(session) == "a"


def test_where_a_connection_turns_out_to_be_a_standbys_what_was_served_has_moved_once(pair: Pair) -> None:
    # Whoever says by what rows vary is served before there is a connection, whatever leads the engine elsewhere.
    process = repeatable(pair.primary, vary=lambda session: None)
    hosts = [pair.standby_url.port]

    @event.listens_for(process.engine, "do_connect")
    def lead_elsewhere(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
        options["port"] = hosts[0]

    hosts[0] = make_url(pair.primary.url).port
    read_in(process, name_of)
    assert is_hit(process)
    process.engine.dispose()
    hosts[0] = pair.standby_url.port
    with process.session() as session:
        assert name_of(session) == "a"
        with pytest.raises(SnapshotMovedError):
            pin(session)
    with process.session() as session:
        assert name_of(session) == "a"
        pin(session)


# -- promotion ------------------------------------------------------------------------------------------------------


def test_a_promoted_standby_begins_with_nothing_cached_and_stores() -> None:
    with paired() as pair:
        old, replica = pair.primary.process(), pair.on_standby()
        read_in(old, name_of)
        assert is_hit(replica)
        with pair.lag():
            rename(old, "lost")
            read_in(old, name_of)
            assert read_in(replica, name_of) == "lost"
            pair.promote()
        new = pair.on_standby()
        found = read_in(new, name_of)
        assert found == pair.truth()
        assert is_hit(new)
        rename(new, "b")
        assert read_in(new, name_of) == read_in(replica, name_of) == "b"


# -- MariaDB --------------------------------------------------------------------------------------------------------


@pytest.fixture
def read_only(own_mariadb: World) -> Iterator[World]:
    """A MariaDB that says of itself what a replica says. One with all rights may write there all the same."""
    admin = own_mariadb.process(cached=False, engine_isolation_level="AUTOCOMMIT").engine
    with admin.connect() as connection:
        connection.exec_driver_sql("SET GLOBAL read_only = 1")
        try:
            yield own_mariadb
        finally:
            connection.exec_driver_sql("SET GLOBAL read_only = 0")


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_what_is_read_on_a_server_that_is_read_only_is_not_stored(read_only: World, level: str) -> None:
    replica = read_only.process(engine_isolation_level=level)
    read_in(replica, name_of)
    assert not is_hit(replica)


def test_a_write_on_a_server_that_is_read_only_is_heard_by_those_who_came_before(own_mariadb: World) -> None:
    before, admin = own_mariadb.process(), own_mariadb.process(cached=False, engine_isolation_level="AUTOCOMMIT")
    read_in(before, name_of)
    with admin.engine.connect() as connection:
        connection.exec_driver_sql("SET GLOBAL read_only = 1")
        try:
            replica = own_mariadb.process(engine_isolation_level="READ COMMITTED")
            assert is_hit(before)
            rename(replica, "b")
            assert read_in(before, name_of) == read_in(replica, name_of) == "b"
        finally:
            connection.exec_driver_sql("SET GLOBAL read_only = 0")
