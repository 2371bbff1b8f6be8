"""What may a user rely on, with these stores and settings?

The three promises in plain sentences, with their bounds in seconds. Promises: what is said holds for exactly the store and
the settings given. Never does: ask a database. (A store may ask its server how it is set.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from querycache._types import MARK_TTL_S
from querycache.coherence.journal import MAX_DOUBT_S, ROUNDS
from querycache.stores.base import Store

_REACH: Final = {
    "threads": "the threads of one process",
    "machine": "the processes of one machine",
    "fleet": "the hosts of a fleet",
}
_SEEN: Final = (
    "Acknowledged is seen: a read never returns less than what had been committed when it began.",
    "Visible is seen: nor less than what the database already showed then, also when a writer is killed.",
)
_SEEN_LATE: Final = (
    "Acknowledged is seen: a read never returns less than what had been committed {0:g} s before it began, nor less than "
    "what had been committed through the same QueryCache when it began.",
    "Visible is seen: nor less than what the database already showed {0:g} s before, also when a writer is killed.",
)
_WAITS: Final = (
    f"What a killed writer was about to change stays uncached for {MARK_TTL_S:.0f} s, what a commit of unknown outcome "
    f"changed until the database says that it is over, or for {MAX_DOUBT_S:.0f} s."
)
_RETRY_S: Final = MARK_TTL_S / ROUNDS


def promise_of(store: Store, *, must_mark: bool, ttl_s: float) -> str:
    """Say what holds for one store: a line on how far it reaches, then one for each promise and its bound.

    ``must_mark``: a commit that cannot be marked fails. ``ttl_s``: how long any entry of it lives at most.
    """
    lines = [f"{store.url}: coherent across {_REACH[store.scope]}. {store.guarantee}"]
    if not store.keeps_marks:
        lines.append("The following holds as long as no mark or stamp is lost:")
    seen = tuple(text.format(store.lag_s) for text in _SEEN_LATE) if store.lag_s else _SEEN
    lines += seen if must_mark else _seen_but_for(seen, ttl_s)
    lines.append(_WAITS)
    if store.keeps_marks:
        lines.append(f"Should a mark be lost and its writer die before the release: stale for {ttl_s:g} s at most.")
    else:
        lines.append(f"Where one is lost: stale for {ttl_s:g} s at most.")
    return "\n  ".join(lines)


def _seen_but_for(seen: Iterable[str], ttl_s: float) -> Iterable[str]:
    yield 'With on_mark_failure="continue" both hold for commits that the store could be told of:'
    yield from seen
    yield (
        "A commit that could not be marked is seen by others when its release lands: before the commit returns; where "
        f"that fails too, with the first try that succeeds, every {_RETRY_S:g} s and at exit; where the process is "
        f"killed first, after {ttl_s:g} s at most."
    )


def promise_of_graces(of_models: Mapping[str, float], of_statements_s: float) -> str:
    """Say how much older reads may be than the lines above allow, where that was asked for; nothing where it was not."""
    told = [f"{model}: {grace_s:g} s" for model, grace_s in sorted(of_models.items()) if grace_s]
    if of_statements_s:
        told.append(f"statements that ask for it: what they ask for, up to {of_statements_s:g} s until now")
    if not told:
        return ""
    return (
        "Older by a grace that was asked for, while another read of the same process asks the database, and never older "
        f"than what was committed through this QueryCache: {', '.join(told)}."
    )


def promise_of_names(names: Iterable[str]) -> str:
    """Say what holds for databases that are known by a ``name=`` that a user gave; nothing where there are none."""
    given = ", ".join(repr(name) for name in sorted(set(names)))
    return (
        f"Known by the name that attach() was given: {given}. Processes that attach such a database under another "
        "name, or none, do not hear each other; two databases under one name share entries."
        if given
        else ""
    )
