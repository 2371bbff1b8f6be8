"""What do readers see when the wire breaks while a COMMIT is on it?

Real servers, real sockets: the connection is cut at a named point, before or after the server has committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import update
from sqlalchemy.exc import DBAPIError

from coherence_world import Process, Product, World, is_hit, make_engine, name_of, read_in, rename
from commit_support import Background, journal_of, tend, tend_until_settled, wait_until
from wire import Point, Wire


@dataclass
class Scene:
    """A writer behind a wire, a reader with a cached row, and somebody without a cache."""

    world: World
    wire: Wire
    writer: Process
    reader: Process
    plain: Process

    def is_marked(self) -> bool:
        return bool(self.world.store.stats().marks)

    def truth(self) -> str | None:
        name: str | None = read_in(self.plain, name_of)
        return name

    def assert_nothing_is_stored(self) -> None:
        """Reads are true, and nobody keeps them: the outcome is not known yet."""
        for _ in range(2):
            assert read_in(self.reader, name_of) == self.truth()
            assert not is_hit(self.reader)

    def assert_the_truth_is_cached(self) -> None:
        assert read_in(self.reader, name_of) == self.truth()
        assert is_hit(self.reader)


@pytest.fixture(params=["postgresql", "mariadb"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    yield from make_scene(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def on_postgresql(postgresql_url: str) -> Iterator[Scene]:
    yield from make_scene(postgresql_url)


@pytest.fixture
def on_mariadb(mariadb_url: str) -> Iterator[Scene]:
    yield from make_scene(mariadb_url)


def make_scene(url: str) -> Iterator[Scene]:
    world = World(url)
    world.fill()
    with Wire(url) as wire:
        # One connection, so that an exhausted pool would be noticed.
        writer = world.process(engine=make_engine(wire.url, pool_size=1, max_overflow=0, pool_timeout=0))
        scene = Scene(world, wire, writer, world.process(), world.process(cached=False))
        for process in (scene.writer, scene.reader):
            assert read_in(process, name_of) == "a"
            assert is_hit(process)
        yield scene
        world.close()


def rename_and_lose_the_answer(scene: Scene, point: Point) -> None:
    scene.wire.arm(point)
    with pytest.raises(DBAPIError):
        rename(scene.writer, "b")
    scene.wire.wait_until_reached()


# -- the four points ------------------------------------------------------------------------------------------------


def test_a_commit_that_never_reached_the_server_stays_in_doubt_until_the_server_tells(scene: Scene) -> None:
    rename_and_lose_the_answer(scene, Point.BEFORE)
    assert scene.is_marked()
    assert scene.truth() == "a"
    scene.assert_nothing_is_stored()
    tend_until_settled(scene.writer)
    scene.assert_the_truth_is_cached()


def test_a_commit_whose_answer_was_lost_stays_in_doubt_until_the_server_tells(scene: Scene) -> None:
    rename_and_lose_the_answer(scene, Point.AFTER)
    assert scene.is_marked()
    assert scene.truth() == "b"
    scene.assert_nothing_is_stored()
    tend_until_settled(scene.writer)
    scene.assert_the_truth_is_cached()


def test_a_commit_that_lands_after_its_client_gave_up_is_seen(scene: Scene) -> None:
    rename_and_lose_the_answer(scene, Point.LATE)
    assert scene.truth() == "a"
    for _ in range(3):
        tend(scene.writer)
        scene.assert_nothing_is_stored()
    scene.wire.resume()
    wait_until(lambda: scene.truth() == "b", "the COMMIT does not land")
    scene.assert_nothing_is_stored()
    tend_until_settled(scene.writer)
    scene.assert_the_truth_is_cached()


def test_a_commit_is_seen_while_its_answer_is_still_on_the_wire(scene: Scene) -> None:
    scene.wire.arm(Point.STALL)
    commit = Background(lambda: rename(scene.writer, "b"))
    scene.wire.wait_until_reached()
    assert scene.truth() == "b"
    scene.assert_nothing_is_stored()
    assert commit.is_running
    scene.wire.resume()
    commit.join()
    assert commit.error is None
    assert not scene.is_marked()
    scene.assert_the_truth_is_cached()


def test_an_answer_that_was_cut_short_is_no_answer(scene: Scene) -> None:
    scene.wire.arm(Point.STALL)
    commit = Background(lambda: rename(scene.writer, "b"))
    scene.wire.wait_until_reached()
    scene.wire.cut()
    commit.join()
    assert isinstance(commit.error, DBAPIError)
    assert scene.is_marked()
    scene.assert_nothing_is_stored()
    tend_until_settled(scene.writer)
    scene.assert_the_truth_is_cached()


# -- who is asked, and how --------------------------------------------------------------------------------------------


def test_the_database_is_asked_though_the_applications_pool_is_exhausted(scene: Scene) -> None:
    rename_and_lose_the_answer(scene, Point.AFTER)
    with scene.writer.engine.connect():
        tend_until_settled(scene.writer)
    scene.assert_the_truth_is_cached()


def test_many_lost_commits_are_one_question(scene: Scene) -> None:
    for _ in range(2):
        rename_and_lose_the_answer(scene, Point.BEFORE)
    assert journal_of(scene.writer).held == 2
    tend_until_settled(scene.writer)
    scene.assert_the_truth_is_cached()


def test_a_session_of_postgresqls_that_idles_behind_a_lost_client_has_committed(on_postgresql: Scene) -> None:
    scene = on_postgresql
    scene.wire.arm(Point.STALL)
    commit = Background(lambda: rename(scene.writer, "b"))
    scene.wire.wait_until_reached()
    scene.wire.cut_client()
    commit.join()
    assert isinstance(commit.error, DBAPIError)
    tend_until_settled(scene.writer)
    scene.assert_the_truth_is_cached()


def test_a_session_of_mariadbs_that_sleeps_proves_nothing(on_mariadb: Scene) -> None:
    scene = on_mariadb
    scene.wire.arm(Point.STALL)
    commit = Background(lambda: rename(scene.writer, "b"))
    scene.wire.wait_until_reached()
    scene.wire.cut_client()
    commit.join()
    for _ in range(3):
        tend(scene.writer)
        scene.assert_nothing_is_stored()
    scene.wire.cut()
    tend_until_settled(scene.writer)
    scene.assert_the_truth_is_cached()


def test_an_idle_session_is_no_proof_that_a_statement_in_autocommit_is_over(on_postgresql: Scene) -> None:
    scene = on_postgresql
    writer = scene.world.process(engine=make_engine(scene.wire.url, isolation_level="AUTOCOMMIT"))
    with writer.engine.connect() as connection:
        scene.wire.arm(Point.LATE, b"UPDATE product")
        with pytest.raises(DBAPIError):
            connection.execute(update(Product).where(Product.id == 1).values(name="b"))
    for _ in range(3):
        tend(writer)
        scene.assert_nothing_is_stored()
    scene.wire.resume()
    wait_until(lambda: scene.truth() == "b", "the UPDATE does not land")
    scene.assert_nothing_is_stored()
    tend_until_settled(writer)
    scene.assert_the_truth_is_cached()
