"""What is made of the answers of servers that are not at hand: replicas, Galera clusters, groups, MySQL itself."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine

from querycache.databases import Profile, profile_of


class Server:
    """A driver connection to a server with these variables; it answers the profile's questions and no others."""

    def __init__(self, version: str, **said: str | None) -> None:
        self.version = version
        self.said = said

    def cursor(self) -> Server:
        return self

    def execute(self, sql: str) -> None:
        self.asked = sql

    def fetchall(self) -> list[tuple[Any, ...]]:
        if self.asked == "SELECT VERSION()":
            return [(self.version,)]
        assert ("information_schema." in self.asked) is ("MariaDB" in self.version)
        return list(self.said.items())

    def close(self) -> None:
        pass


ALONE: dict[str, str | None] = {
    "hostname": "db",
    "port": "3306",
    "datadir": "/var/lib/mysql/",
    "default_schema": None,
    "now": "1000",
    "uptime": "400",
}


def profile(version: str = "10.11.2-MariaDB", **said: str) -> Profile:
    server: Any = Server(version, **{"tx_isolation": "REPEATABLE-READ", "server_uid": "abc=", **ALONE, **said})
    return profile_of(create_engine("mysql+pymysql://").dialect, server)


def test_the_start_time_is_the_incarnation_also_under_a_clock_that_was_set_back() -> None:
    assert profile().incarnation == "600"
    assert profile(now="17.5", uptime=str((17 - 600) % 2**64)).incarnation == "600"


def test_mysql_is_known_by_its_uuid() -> None:
    one = {"server_uid": "", "transaction_isolation": "READ-COMMITTED"}
    first = profile("8.4.3", server_uuid="a-b", **one)
    assert first.identity is not None
    assert first.identity != profile("8.4.3", server_uuid="a-c", **one).identity
    assert first.isolation == "READ COMMITTED"


def test_two_servers_with_one_server_uid_are_told_apart_by_their_place() -> None:
    assert profile().identity != profile(hostname="other").identity
    assert profile().identity != profile(datadir="/srv/mysql/").identity


def test_a_server_without_a_name_of_its_own_has_no_identity() -> None:
    said = profile(server_uid="")
    assert said.identity is None
    assert "name the bind" in said.why_not


@pytest.mark.parametrize("variable", ["read_only", "super_read_only", "slave_running", "replica_running"])
def test_a_server_that_takes_no_writes_or_follows_another_is_a_replica(variable: str) -> None:
    assert profile(**{variable: "ON"}).is_replica
    assert profile(**{variable: "ON"}).incarnation == ""
    assert not profile(**{variable: "OFF"}).is_replica


def test_all_nodes_of_a_galera_cluster_are_one_database() -> None:
    cluster = {"wsrep_on": "ON", "wsrep_cluster_state_uuid": "c-1", "wsrep_sync_wait": "1"}
    one, other = profile(**cluster), profile(hostname="other", server_uid="xyz=", **cluster)
    assert one.identity == other.identity == "galera:c-1"
    assert one.incarnation == ""


def test_a_galera_node_that_is_not_in_a_cluster_has_no_identity() -> None:
    assert profile(wsrep_on="ON").identity is None


@pytest.mark.parametrize(("sync_wait", "is_replica"), [("0", True), ("1", False), ("6", True), ("7", False)])
def test_a_galera_node_is_a_replica_unless_its_reads_wait(sync_wait: str, is_replica: bool) -> None:
    said = profile(wsrep_on="ON", wsrep_cluster_state_uuid="c-1", wsrep_sync_wait=sync_wait)
    assert said.is_replica is is_replica


@pytest.mark.parametrize(
    ("single_primary", "consistency", "is_replica"),
    [("OFF", "EVENTUAL", True), ("OFF", "BEFORE", False), ("OFF", "AFTER", True), ("ON", "EVENTUAL", False)],
)
def test_a_member_of_a_group_with_many_primaries_is_a_replica_unless_its_reads_wait(
    single_primary: str, consistency: str, is_replica: bool
) -> None:
    said = profile(
        "8.4.3",
        group_replication_group_name="g-1",
        group_replication_single_primary_mode=single_primary,
        group_replication_consistency=consistency,
    )
    assert said.identity == "mysql-group:g-1"
    assert said.is_replica is is_replica
