"""How does a process hear which stamps change on a Redis server, and how does it know that it misses none?

By ``CLIENT TRACKING ON BCAST`` for the keys of stamps, on a connection that asks, redirected to one that listens: both speak
the old protocol, as every server and every redis-py does. The server sends what changed before it answers anything later, on
each connection in order. So a *beat* shows that nothing is missing: first the store's own clock script on the connection that
asks, which is refused where a mark would be and names the server's life; once it is answered a PING on the connection that
listens. When that is answered, all has been heard that happened before the beat began.

Promises: any irregularity (a connection closed, an answer late or not understood, a refusal, another life) ends the session,
and what was vouched for with it; a new one is begun until the feed is closed. Never does: go on after a gap.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, Final

from querycache.errors import StoreUnavailable
from querycache.events import logger
from querycache.stores._redis_asking import telling_the_time
from querycache.stores._redis_calls import Layout
from querycache.stores._redis_places import Place, is_unknown_script
from querycache.stores._redis_scripts import packed
from querycache.stores._redis_server import Line
from querycache.stores._redis_wires import Refusal, Reply
from querycache.stores._vouched import Vouched

CHANNEL: Final = b"__redis__:invalidate"
BEATS: Final = 5
"""How often a feed shows that it is whole within the time for which that counts."""

POLL_S: Final = 0.05
"""How long a thread listens before it looks whether somebody wants a beat, or the end."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0

_PING: Final = packed("PING")


class _OutlivedError(StoreUnavailable):
    """Answers came of a later life than that of the server that is listened to: there may be another server now."""


@dataclass(slots=True)
class _Lines:
    """The two connections of one session, its number, and when its next beat is due."""

    listener: Line
    asker: Line
    session: int = 0
    due: float = 0.0

    def close(self) -> None:
        self.listener.close()
        self.asker.close()


@dataclass(slots=True)
class _Wishes:
    """How many beats were asked for, and how many of these are over; ``changed`` guards and tells."""

    asked: int = 0
    answered: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)


class Feed:
    """Hears for one process what changes. A thread of its own runs from the first ``wake`` to ``close``."""

    def __init__(self, place: Place, layout: Layout, vouched: Vouched) -> None:
        self._place = place
        self._layout = layout
        self._vouched = vouched
        self._is_closed = False
        self.reset()
        _FEEDS.add(self)

    def reset(self) -> None:
        """Begin anew, without a thread and with locks that nobody holds."""
        self._vouched.reset()
        self._wishes = _Wishes()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._is_deaf = False

    def wake(self) -> None:
        """Have a thread listen, if none does."""
        if self._thread is None and not self._is_closed:
            with self._starting:
                if self._thread is None:
                    thread = threading.Thread(
                        target=_run, args=(weakref.ref(self), self._ended), name="querycache-feed", daemon=True
                    )
                    thread.start()
                    self._thread = thread

    def close(self) -> None:
        """Listen no more."""
        self._is_closed = True
        self._ended.set()
        self._vouched.interrupt()
        if self._thread is not None:
            self._thread.join(20 * POLL_S)

    def settle(self, timeout_s: float) -> bool:
        """Wait until all has been heard that happened before this call; False where that takes too long."""
        self.wake()
        wishes = self._wishes
        with wishes.changed:
            wishes.asked += 1
            mine = wishes.asked
            return wishes.changed.wait_for(lambda: wishes.answered >= mine, timeout_s)

    def connect(self) -> _Lines:
        """Begin a session."""
        server = self._place.servers()[0]
        with ExitStack() as stack:
            lines = _Lines(stack.enter_context(closing(server.line())), stack.enter_context(closing(server.line())))
            (number,) = lines.listener.ask(packed("CLIENT", "ID"))
            lines.listener.ask(packed("SUBSCRIBE", CHANNEL))
            prefix = self._layout.stamps(0)
            lines.asker.ask(packed("CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", "PREFIX", prefix))
            lines.session = self._vouched.begin(self._floor_at(lines.asker))
            self._beat(lines)
            stack.pop_all()
        if self._is_deaf:
            self._is_deaf = False
            logger.warning("%s: the near cache hears of changes again", server.url)
        return lines

    def turn(self, lines: _Lines) -> None:
        """Hear what there is, and beat where it is time or somebody waits. Raises ``StoreUnavailable`` at the end of it."""
        if lines.session != self._vouched.session:
            raise _OutlivedError
        until_due = lines.due - self._vouched.clock()
        if until_due > 0 and lines.listener.waits(min(until_due, POLL_S)):
            self._hear(lines.listener.read())
        if self._vouched.clock() >= lines.due or self._wishes.asked > self._wishes.answered:
            self._beat(lines)

    def interrupted(self, reason: StoreUnavailable) -> None:
        """Note that a session is over, or could not begin."""
        self._vouched.interrupt()
        if not self._is_deaf and not isinstance(reason, _OutlivedError):
            self._is_deaf = True
            told = str(reason).rstrip(".")
            logger.warning("%s. Until the near cache hears of changes again, each read asks the server", told)

    def _beat(self, lines: _Lines) -> None:
        wishes = self._wishes
        asked, began = wishes.asked, self._vouched.clock()
        floor_us = self._floor_at(lines.asker)
        lines.listener.send(_PING)
        while not _is_pong(message := lines.listener.read()):
            self._hear(message)
        if not self._vouched.beat(lines.session, began, floor_us):
            raise _OutlivedError
        lines.due = began + self._vouched.lag_s / BEATS
        if asked > wishes.answered:
            with wishes.changed:
                wishes.answered = asked
                wishes.changed.notify_all()

    def _floor_at(self, asker: Line) -> int:
        """Ask for the server's clock by the script of the store; return since when its stamps count."""
        call = telling_the_time(self._layout)
        witness = self._place.witness
        try:
            replies = asker.ask(witness.command(self._layout, call))
        except Refusal as refusal:
            if not is_unknown_script(refusal):
                raise
            replies = asker.ask(witness.command(self._layout, call, whole=True))
        return witness.answer(call, replies).floor_us

    def _hear(self, message: Reply) -> None:
        if not isinstance(message, list) or message[:2] != [b"message", CHANNEL] or len(message) != 3:
            raise StoreUnavailable(f"the feed said what is not understood: {str(message)[:80]}")
        keys: Any = message[2]
        if keys is None:  # everything was flushed
            self._vouched.forget_all()
        elif isinstance(keys, list):
            self._vouched.hear(keys)
        else:
            raise StoreUnavailable("the feed named no keys")


def _is_pong(message: Reply) -> bool:
    return isinstance(message, list) and message[:1] == [b"pong"]


def _run(reference: weakref.ref[Feed], ended: threading.Event) -> None:
    """Listen until a feed is closed or forgotten."""
    pause_s = FIRST_PAUSE_S
    lines: _Lines | None = None
    while not ended.is_set():
        feed = reference()
        if feed is None:
            break
        try:
            if lines is None:
                lines = feed.connect()
                pause_s = FIRST_PAUSE_S
            feed.turn(lines)
        except StoreUnavailable as reason:
            feed.interrupted(reason)
            if lines is not None:
                lines.close()
                lines = None
            del feed
            ended.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        except BaseException:
            feed.interrupted(StoreUnavailable("the feed broke down"))
            raise
        else:
            del feed
    if lines is not None:
        lines.close()


_FEEDS: weakref.WeakSet[Feed] = weakref.WeakSet()


def _forget_in_child() -> None:
    for feed in list(_FEEDS):
        feed.reset()


os.register_at_fork(after_in_child=_forget_in_child)
