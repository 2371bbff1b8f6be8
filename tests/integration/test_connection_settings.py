"""Do connections that are set differently, and so are answered differently, keep to entries of their own?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import DateTime, Engine, String, create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from querycache import QueryCache
from querycache.databases import profile_of
from querycache.stores.memory import MemoryStore


class Base(DeclarativeBase):
    pass


class Moment(Base):
    __tablename__ = "moment"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    name: Mapped[str] = mapped_column(String(50))


NOON = "INSERT INTO moment VALUES (1, '2026-01-01 12:00:00+00:00', 'Noon')"
NAMED = {"+00:00": "UTC", "+05:00": "Etc/GMT-5"}


@pytest.fixture(params=["postgresql", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    return table_on(str(request.getfixturevalue(f"{request.param}_url")))


def table_on(url: str) -> str:
    engine = create_engine(url, poolclass=NullPool)
    is_mariadb = engine.dialect.name in ("mysql", "mariadb")
    at = "TIMESTAMP NULL" if is_mariadb else "timestamp with time zone"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE moment (id integer PRIMARY KEY, at {at}, name varchar(50))")
        if is_mariadb:
            connection.exec_driver_sql("SET time_zone = '+00:00'")
        connection.exec_driver_sql(NOON.replace("+00:00", "") if is_mariadb else NOON)
    return url


class Zones:
    """Engines over one store whose connections are set to a zone, by listeners that SQLAlchemy does not look into."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cache = QueryCache(MemoryStore(), models=[Moment])
        self.sent: list[str] = []

    def engine(self, zone: str | Callable[[], str]) -> Engine:
        engine = create_engine(self.url, poolclass=NullPool)

        @event.listens_for(engine, "connect")
        def set_zone(raw: Any, record: Any) -> None:
            wanted = zone if isinstance(zone, str) else zone()
            is_postgresql = engine.dialect.name == "postgresql"
            raw.cursor().execute(f"SET TIME ZONE '{NAMED[wanted]}'" if is_postgresql else f"SET time_zone = '{wanted}'")
            raw.commit()

        event.listen(engine, "before_cursor_execute", self._note)
        self.cache.attach(engine)
        return engine

    def _note(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.sent.append(statement)


@pytest.fixture
def zones(url: str) -> Iterator[Zones]:
    zones = Zones(url)
    yield zones
    zones.cache.close()


def hour_in(engine: Engine) -> tuple[int, str]:
    with Session(engine) as session:
        at = session.scalars(select(Moment.at).where(Moment.id == 1)).one()
        assert at is not None
        return at.hour, str(at)


def test_engines_of_different_time_zones_do_not_share_entries(zones: Zones) -> None:
    utc, east = zones.engine("+00:00"), zones.engine("+05:00")
    first = hour_in(utc)
    zones.sent.clear()
    second = hour_in(east)
    assert zones.sent
    assert first != second
    assert (hour_in(utc), hour_in(east)) == (first, second)


def test_engines_of_one_time_zone_share_entries(zones: Zones) -> None:
    one, other = zones.engine("+05:00"), zones.engine("+05:00")
    seen = hour_in(one)
    with other.connect():
        pass
    zones.sent.clear()
    assert hour_in(other) == seen
    assert zones.sent == []


def test_a_write_of_one_time_zone_is_seen_in_another(zones: Zones) -> None:
    def name(session: Session) -> str:
        return session.scalars(select(Moment.name).where(Moment.id == 1)).one()

    utc, east = zones.engine("+00:00"), zones.engine("+05:00")
    with Session(utc) as session:
        assert name(session) == "Noon"
    with Session(east) as session:
        session.get_one(Moment, 1).name = "Five"
        session.commit()
    with Session(utc) as session:
        assert name(session) == "Five"


def test_what_a_connection_set_in_another_way_answered_is_not_kept_for_the_rest(zones: Zones) -> None:
    zone = ["+00:00"]
    changing = zones.engine(lambda: zone[0])
    with changing.connect():
        pass
    zone[0] = "+05:00"
    hour_in(changing)
    assert hour_in(zones.engine("+00:00"))[0] == 12


def test_ddl_on_one_connection_makes_the_catalog_be_read_again_for_those_set_otherwise(postgresql_url: str) -> None:
    zones = Zones(table_on(postgresql_url))
    utc, east = zones.engine("+00:00"), zones.engine("+05:00")

    def of_noon(session: Session) -> list[int]:
        return list(session.scalars(select(Moment.id).where(Moment.name == "noon")))

    for engine in (utc, east):
        with Session(engine) as session:
            assert of_noon(session) == []
    folding = "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    with utc.begin() as connection:
        connection.exec_driver_sql("DELETE FROM moment")
        connection.exec_driver_sql(folding)
        connection.exec_driver_sql("ALTER TABLE moment ALTER name TYPE varchar(50) COLLATE folding")
    with Session(east) as session:
        assert of_noon(session) == []
    with Session(east) as session:
        session.add(Moment(id=2, name="NOON"))
        session.commit()
    with Session(east) as session:
        assert of_noon(session) == [2]
    zones.cache.close()


@pytest.mark.parametrize(
    "setting",
    [
        "SET DateStyle = 'SQL, DMY'",
        "SET IntervalStyle = 'iso_8601'",
        "SET extra_float_digits = 0",
        "SET bytea_output = 'escape'",
        "SET client_encoding = 'LATIN1'",
        "SET search_path = pg_catalog",
        "SET lc_monetary = 'POSIX'",
        "SET ROLE pg_monitor",
    ],
)
def test_each_setting_of_postgresql_that_changes_results_shows(postgresql_url: str, setting: str) -> None:
    assert settings_after(postgresql_url, setting) != settings_after(postgresql_url, "SELECT 1")


@pytest.mark.parametrize(
    "setting",
    [
        "SET sql_mode = 'ANSI_QUOTES'",
        "SET collation_connection = 'utf8mb4_bin'",
        "SET character_set_results = 'latin1'",
        "SET group_concat_max_len = 5",
        "SET sql_select_limit = 1",
    ],
)
def test_each_setting_of_mariadb_that_changes_results_shows(mariadb_url: str, setting: str) -> None:
    assert settings_after(mariadb_url, setting) != settings_after(mariadb_url, "SELECT 1")


def test_a_pragma_of_sqlite_that_changes_results_shows(sqlite_url: str) -> None:
    assert settings_after(sqlite_url, "SELECT 1") == ""
    assert settings_after(sqlite_url, "PRAGMA case_sensitive_like = ON") != ""


def settings_after(url: str, setting: str) -> str:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        cursor = raw.cursor()
        cursor.execute(setting)
        cursor.close()
        return profile_of(engine.dialect, raw).settings
