"""Which database an engine's next connection would be on, by what its last ones said."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.dialects import postgresql

from querycache.coherence.binds import Bind
from querycache.databases import Profile
from querycache.destination import Destination

DIALECT: Any = postgresql.dialect()  # type: ignore[no-untyped-call]


def bind_of(identity: str) -> Bind:
    return Bind(identity, Profile(identity, default_schema="public"), DIALECT, {})


@pytest.fixture
def destination() -> Destination:
    return Destination(create_engine("postgresql+psycopg://nowhere.example/shop"), is_named=False)


def test_before_its_first_connection_an_engine_may_lead_anywhere(destination: Destination) -> None:
    assert destination.bind is None


def test_an_engine_leads_to_where_its_last_connection_was(destination: Destination) -> None:
    one, other = bind_of("one"), bind_of("other")
    assert destination.arrive(one) is None
    assert destination.bind is one
    assert destination.arrive(other) is one
    assert destination.bind is other


def test_an_engine_whose_connections_take_turns_leads_nowhere_for_sure(destination: Destination) -> None:
    one, other = bind_of("one"), bind_of("other")
    for bind in (one, other, one):
        destination.arrive(bind)
    assert destination.leads_to_several
    assert destination.bind is None
    assert "use one engine for each" in destination.why_not


def test_a_database_that_another_engine_saw_end_is_no_destination(destination: Destination) -> None:
    bind = bind_of("in memory")
    destination.arrive(bind)
    bind.is_gone = True
    assert destination.bind is None


def test_a_database_that_is_left_is_no_destination_until_somebody_arrives_there(destination: Destination) -> None:
    bind = bind_of("in memory")
    destination.arrive(bind)
    destination.leave(bind)
    assert destination.bind is None
    destination.arrive(bind)
    assert destination.bind is bind
