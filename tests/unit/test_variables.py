"""The variables that an application sets on a connection: known are those that the transaction itself set."""

from __future__ import annotations

from querycache.coherence.variables import Variables


def known(variables: Variables) -> bool:
    # A call, lest mypy take what was asserted once for what holds from then on.
    return variables.are_known


def test_nothing_set_is_known() -> None:
    assert Variables().are_known


def test_what_this_transaction_set_is_known() -> None:
    variables = Variables()
    variables.note("app.tenant", for_good=True)
    variables.note("app.user", for_good=False)
    assert known(variables)


def test_what_was_set_until_the_end_of_the_transaction_is_gone_with_it() -> None:
    variables = Variables()
    variables.note("app.tenant", for_good=False)
    variables.end()
    assert known(variables)


def test_what_was_set_for_good_is_not_known_in_the_next_transaction_until_it_is_set_there() -> None:
    variables = Variables()
    variables.note("app.tenant", for_good=True)
    variables.end()
    assert not known(variables)
    variables.note("app.user", for_good=False)
    assert not known(variables)
    variables.note("app.tenant", for_good=False)
    assert known(variables)
    variables.end()
    assert not known(variables)


def test_a_rollback_to_a_savepoint_may_have_taken_back_what_was_set() -> None:
    variables = Variables()
    variables.take_back()
    assert known(variables)
    variables.note("app.tenant", for_good=False)
    variables.take_back()
    assert not known(variables)
    variables.end()
    assert known(variables)
