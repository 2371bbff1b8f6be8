"""How do the hosts of a fleet share a cache, on a Redis or Valkey server, behind Sentinels, or on a Cluster?

Each verb is one round trip: a script, or on a Cluster one for each part of the keys, sent to all nodes at once. A look-up is
refused wherever a mark would be. Data of another life of the server (a restart, a promotion, data put back) are never
trusted: ``lua/life.lua``.

Promises: what the contract says, among all processes that reach the same primary; no verb takes longer than its limit; a store
that does not answer costs the application a bounded time, is spared, and is found again. Never does: read from a replica;
try a read twice; show a password.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from querycache._types import Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.events import logger
from querycache.stores._breaker import Breaker
from querycache.stores._copies import Copies, Copy, Entry
from querycache.stores._redis_asking import NOTHING, Asking, Found, Question, telling_the_time
from querycache.stores._redis_calls import (
    Answer,
    Call,
    Layout,
    clearing,
    counting_marks,
    filling,
    head_of,
    marking,
    releasing,
    stamp_at,
    told_of_marks,
)
from querycache.stores._redis_places import MOVED_ON, Lane, Place, place_of
from querycache.stores._redis_scripts import packed
from querycache.stores._redis_url import Target, target_of
from querycache.stores._redis_wires import Refusal, Unreachable
from querycache.stores.base import Scope, Store, StoreStats

__all__ = ["RedisStore", "open_redis"]

TOLD_FOR_S: Final = 1.0
"""How long what a server said of its settings is taken to hold."""

_HOPELESS: Final = ("ERR", "MOVED", "NOAUTH", "NOPERM", "READONLY", "WRONGPASS")
"""Refusals that no waiting ends: an error when the store is opened."""

_NOBODYS: Final = b""
_COPY: Final = Copies(0).new(_NOBODYS, Entry(b"?", b"", (), 0, 0.0))

_REACH: Final = "All processes that use the same {what} and namespace hear each other."
_FAILOVER: Final = (
    "A failover loses the marks that the new primary had not received, and whoever still reaches the old primary is served by "
    "it until it is stopped, demoted or has no replica left: set min-replicas-to-write 1 and min-replicas-max-lag."
)
_WHAT: Final = {"single": "server, database", "sentinel": "service, database", "cluster": "Cluster"}


@dataclass(frozen=True, slots=True)
class _Told:
    """What the servers say of their settings, and when."""

    evicts_all: str
    at: float


class RedisStore(Store):
    """Entries shared by the hosts of a fleet. Opened though nobody answers: reads then go to the database."""

    scope: ClassVar[Scope] = "fleet"
    commits_need_marks: ClassVar[bool] = False

    def __init__(self, target: Target) -> None:
        """Make a store of what a URL says; connects at its first verb, or by ``greet``."""
        is_cluster = target.topology == "cluster"
        self.target = target
        self._layout = Layout.over_a_cluster(target.namespace) if is_cluster else Layout(target.namespace)
        self._place = place_of(target, self._layout)
        self._breaker = Breaker()
        self._is_troubled = False
        self._clock: Stamp = 0
        self._relied: dict[Writer, dict[Guard, int]] = {}
        self._told = _Told("", float("-inf"))
        # One script sees everything at one moment; those of several parts do not.
        self.sees_one_moment = not is_cluster  # type: ignore[misc]  # the topology decides, not the class

    @property
    def url(self) -> str:
        return self.target.url

    @property
    def layout(self) -> Layout:
        """How its keys are named."""
        return self._layout

    @property
    def place(self) -> Place:
        """Where its scripts are run."""
        return self._place

    @property
    def is_resting(self) -> bool:
        return self._breaker.is_open

    @property
    def guarantee(self) -> str:  # type: ignore[override]  # the server decides, not the class
        """Whom coherence reaches. Asks the server for its settings where that was not done just now."""
        lines = [_REACH.format(what=_WHAT[self.target.topology])]
        if self.target.topology != "single":
            lines.append(_FAILOVER)
        policy = self._ask_settings().evicts_all
        if policy:
            lines.append(f"Its maxmemory-policy is {policy}, which evicts marks too: set volatile-ttl or volatile-lru.")
        return " ".join(lines)

    @property
    def keeps_marks(self) -> bool:  # type: ignore[override]  # the server decides, not the class
        """Whether a mark stays until its release: not through a failover, nor under a policy that evicts all keys."""
        return self.target.topology == "single" and not self._ask_settings().evicts_all

    def greet(self) -> None:
        """Make sure that the store can be used as given.

        Raises ``ConfigurationError`` for what no waiting ends: a wrong password, a replica, a missing right. A server that
        does not answer is logged, once, and looked for at later calls.
        """
        try:
            self._run([telling_the_time(self._layout)], "reads")
            if self.target.near is not None:  # it needs a right more
                self._run(Asking(self._layout, [(_NOBODYS, TagSet())], {_NOBODYS: _COPY}).calls, "reads")
        except Refusal as error:
            if error.code in _HOPELESS:
                raise ConfigurationError(str(error)) from error
        except StoreUnavailable as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ConfigurationError(f"{error}. Name the authority's certificate: ?ssl_ca_certs=/path.") from error

    def clock(self) -> Stamp:
        (answer,) = self._ask([telling_the_time(self._layout)])
        self._clock = max(self._clock, stamp_at(answer.now_us))
        return self._clock

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        return self.look(((key, tags),))[0].lookup

    def lookup_many(self, questions: Iterable[Question]) -> list[Lookup]:
        return [one.lookup for one in self.look(list(questions))]

    def look(self, questions: Sequence[Question], held: Mapping[bytes, Copy] = NOTHING) -> list[Found]:
        """Answer questions. An entry that the caller holds is not sent again if it is still the one that is here."""
        if not questions:
            return []
        asking = Asking(self._layout, questions, held)
        if self.sees_one_moment:
            return asking.found(self._ask(asking.calls))
        began = time.monotonic()
        found = asking.found(self._ask(asking.calls))
        return self._sure_of_the_order(questions, found, time.monotonic() - began)

    def _sure_of_the_order(self, questions: Sequence[Question], found: list[Found], took_s: float) -> list[Found]:
        """Look again at the stamps of entries that may have been filled after their stamps were looked at.

        A snapshot is served an entry because its stamps are older than the snapshot, and current. That says something of its
        rows only if they were there first: one that was filled after its tag had been looked at may have been read after a
        commit that the look missed, under a lease from before it. Nodes answer at moments of their own; but an entry that is
        older than the whole exchange was there before each of them.
        """
        young = [at for at, one in enumerate(found) if one.lookup.payload is not None and one.age_us <= took_s * 1e6]
        if not young:
            return found
        asking = Asking(self._layout, [(None, questions[at][1]) for at in young])
        for at, again in zip(young, asking.found(self._ask(asking.calls)), strict=True):
            if again.lookup.lease != found[at].lookup.lease or not again.lookup.storable:
                found[at] = again
        return found

    def fill(self, key: bytes, payload: bytes, lease: Lease, ttl_s: float) -> bool:
        return self.fill_many([(key, payload, lease, ttl_s)]) == 1

    def fill_many(self, entries: Iterable[tuple[bytes, bytes, Lease, float]]) -> int:
        return len(self.keep(list(entries)))

    def keep(self, entries: Sequence[tuple[bytes, bytes, Lease, float]]) -> list[bytes]:
        """Store entries; return the head of each."""
        answers = self._ask([filling(self._layout, *entry) for entry in entries]) if entries else []
        return [head_of(answer, lease, ttl_s) for answer, (_, _, lease, ttl_s) in zip(answers, entries, strict=True)]

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        return self._mark(tags, None, writer, ttl_s)[0]

    def mark_and_look(
        self, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
    ) -> tuple[tuple[Tag, ...], Stamp | None]:
        return self._mark(tags, guard, writer, ttl_s)

    def _mark(
        self, tags: TagSet, watched: Guard | None, writer: Writer, ttl_s: float
    ) -> tuple[tuple[Tag, ...], Stamp | None]:
        planned = marking(self._layout, tags, writer, ttl_s, watched)
        marked: dict[Tag, None] = dict.fromkeys(tags.tags)
        relied: dict[Guard, int] = {}
        seen: Stamp | None = None
        for (_, guards), answer in zip(planned, self._tell([call for call, _ in planned]), strict=True):
            were, stamp = told_of_marks(guards, answer)
            seen = stamp if seen is None else seen
            for guard, is_marked in zip(guards, were, strict=True):
                if is_marked:
                    marked[guard[0]] = None
                else:
                    relied[guard] = answer.floor_us
        if relied:
            self._relied[writer] = relied | self._relied.get(writer, {})
        return tuple(marked), seen

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        # After a wait in vain one does not wait as long again: what is not acknowledged is owed, and tried later.
        lane: Lane = "reads" if self._breaker.is_open else "marks"
        self._tell(releasing(self._layout, tags, writer, self._relied.get(writer, {})), lane)
        self._relied.pop(writer, None)

    def clear(self) -> None:
        self._tell(clearing(self._layout))

    def stats(self) -> StoreStats:
        """Count what can be counted without looking at every key; nothing where the server does not answer."""
        try:
            marks = sum(int(answer.rest) for answer in self._ask(counting_marks(self._layout)))
        except StoreUnavailable:
            return StoreStats(None, None, None, 0, None)
        return StoreStats(None, None, None, 0, marks)

    def close(self) -> None:
        """Close the connections. A verb called later opens new ones: a release that is still owed must land."""
        self._place.close()

    def _ask(self, calls: Sequence[Call]) -> list[Answer]:
        """Run scripts of a read, unless the store is spared."""
        if not self._breaker.lets_through():
            raise StoreUnavailable(f"{self.url} did not answer lately, and is asked again in a moment")
        return self._run(calls, "reads")

    def _tell(self, calls: Sequence[Call], lane: Lane = "marks") -> list[Answer]:
        """Run scripts of a commit: tried whatever happened before, and once more on a new connection or server.

        To do it twice is harmless: a mark is renewed, a release of what is released is a touch.
        """
        if not calls:
            return []
        try:
            return self._run(calls, lane)
        except Unreachable as error:
            if error.is_late:
                raise
        except Refusal as error:
            if error.code not in MOVED_ON:
                raise
        return self._run(calls, lane)

    def _run(self, calls: Sequence[Call], lane: Lane) -> list[Answer]:
        try:
            answers = self._place.run(calls, lane)
        except Unreachable as error:
            self._breaker.note_failure()
            self._note_trouble(error)
            raise
        except Refusal as error:
            self._breaker.note_success()  # it answers
            self._note_trouble(error)
            raise
        self._breaker.note_success()
        if self._is_troubled:
            self._is_troubled = False
            logger.warning("%s can be used again", self.url)
        return answers

    def _note_trouble(self, error: StoreUnavailable) -> None:
        if not self._is_troubled:
            self._is_troubled = True
            logger.warning("%s. Reads go to the database until it can be used", str(error).rstrip("."))

    def _ask_settings(self) -> _Told:
        if time.monotonic() - self._told.at > TOLD_FOR_S:
            try:
                told = self._place.ask_each(packed("INFO", "memory"))
            except StoreUnavailable:
                return self._told
            self._told = _Told(next(filter(None, map(_evicts_all, told)), ""), time.monotonic())
        return self._told


def _evicts_all(about: bytes) -> str:
    """Return the policy of a server that may evict any key; "" where it evicts none, or only those that expire."""
    told = dict(line.split(":", 1) for line in about.decode().splitlines() if ":" in line)
    policy = told.get("maxmemory_policy", "")
    return policy if policy.startswith("allkeys") and told.get("maxmemory", "0") != "0" else ""


def open_redis(url: str) -> RedisStore:
    """Open the store that a URL names.

    Raises ``ConfigurationError`` for a URL or a server that cannot be used as given; not for one that does not answer now.
    """
    store = RedisStore(target_of(url))
    try:
        store.greet()
    except ConfigurationError:
        store.close()
        raise
    return store
