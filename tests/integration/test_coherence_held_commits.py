"""What do readers see when MariaDB refuses a COMMIT that somebody held back?

A backup holds commits back (FLUSH TABLES WITH READ LOCK) for the whole server, hence a MariaDB of our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pymysql  # type: ignore[import-untyped]
import pytest
from sqlalchemy import URL, Engine, NullPool, create_engine, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from coherence_world import Process, Product, World, is_hit, name_of, read_in
from commit_support import Background, journal_of, tend_until_settled, wait_until
from own_servers import start_mariadb
from servers import MARIADB, database, why_not


@pytest.fixture(scope="module")
def own_server() -> Iterator[URL]:
    with start_mariadb(lambda url: why_not(MARIADB, url)) as url:
        yield url


@dataclass
class Scene:
    """A writer that waits for a held commit for two seconds at most, and a reader that has the row cached."""

    world: World
    admin: Engine
    writer: Process
    reader: Process

    @contextmanager
    def backup(self) -> Iterator[None]:
        """Hold back every commit on the server."""
        with self.admin.connect() as connection:
            connection.exec_driver_sql("FLUSH TABLES WITH READ LOCK")
            yield
            connection.exec_driver_sql("UNLOCK TABLES")

    def held_commits(self) -> list[int]:
        with self.admin.connect() as connection:
            question = "SELECT id FROM information_schema.processlist WHERE info = 'COMMIT'"
            return list(connection.exec_driver_sql(question).scalars())

    def kill(self, what: str) -> None:
        wait_until(self.held_commits, "no COMMIT is held")
        with self.admin.connect() as connection:
            for number in self.held_commits():
                connection.exec_driver_sql(f"KILL {what} {number}")

    def assert_the_truth_is_cached(self) -> None:
        with Session(self.admin) as session:
            truth = name_of(session)
        assert read_in(self.reader, name_of) == truth
        assert is_hit(self.reader)


@pytest.fixture
def scene(own_server: URL) -> Iterator[Scene]:
    with database(own_server, "held") as url:
        world = World(url.render_as_string(hide_password=False))
        world.fill()
        impatient = {"init_command": "SET lock_wait_timeout = 2"}
        admin = create_engine(url, poolclass=NullPool)
        scene = Scene(world, admin, world.process(engine_connect_args=impatient), world.process())
        read_in(scene.reader, name_of)
        yield scene
        world.close()


def test_a_commit_that_waited_too_long_keeps_its_mark_until_its_transaction_is_rolled_back(scene: Scene) -> None:
    """1205 ends the statement; whether the transaction goes with it, the server does not say."""
    with scene.writer.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        with scene.backup(), pytest.raises(OperationalError, match="1205"):
            session.commit()
        assert scene.world.store.stats().marks
        session.rollback()
    assert scene.world.store.stats().marks == 0
    scene.assert_the_truth_is_cached()


def test_a_commit_that_succeeds_at_the_second_try_is_seen(scene: Scene) -> None:
    """Driver level: SQLAlchemy would not send a second COMMIT, but the connection can."""
    with scene.writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        commit = partial(connection.dialect.do_commit, connection.connection)
        with scene.backup(), pytest.raises(pymysql.err.OperationalError, match="1205"):
            commit()
        commit()
        assert scene.world.store.stats().marks == 0
        scene.assert_the_truth_is_cached()


def test_a_commit_whose_query_was_killed_keeps_its_mark_until_its_transaction_is_rolled_back(scene: Scene) -> None:
    with scene.writer.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        with scene.backup():
            commit = Background(session.commit)
            scene.kill("QUERY")
            commit.join()
            assert isinstance(commit.error, DBAPIError)
        assert scene.world.store.stats().marks
        session.rollback()
    assert scene.world.store.stats().marks == 0
    scene.assert_the_truth_is_cached()


def test_a_commit_whose_connection_was_killed_is_asked_about(scene: Scene) -> None:
    with scene.writer.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        with scene.backup():
            commit = Background(session.commit)
            scene.kill("CONNECTION")
            commit.join()
            assert isinstance(commit.error, DBAPIError)
        assert journal_of(scene.writer).held == 1
    tend_until_settled(scene.writer)
    scene.assert_the_truth_is_cached()
