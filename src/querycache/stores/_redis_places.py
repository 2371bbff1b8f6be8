"""Which server is to be asked: the only one, the one that a Sentinel names, or each node of a Cluster for its own slots?

Promises: who asks several nodes waits once, for the slowest; a server that failed, or says that it is not the one any more, is
looked for anew at the next call. Never does: try again what may have been done, but for what a server surely did not do
(a script that it does not know, a slot that is another's).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

from querycache.errors import StoreUnavailable
from querycache.stores._redis_calls import SLOTS, Answer, Call, Layout, Witness
from querycache.stores._redis_scripts import Command, packed
from querycache.stores._redis_server import AnyPool, Server
from querycache.stores._redis_url import Address, Target
from querycache.stores._redis_wires import Refusal, Reply, Unreachable

Lane: TypeAlias = Literal["reads", "marks"]

Outcome: TypeAlias = Refusal | list[Reply]
"""What is answered to the commands of one call, or the refusal of one of them."""

ROUNDS: Final = 4
"""How often a call may be sent on: a node that moved, a node that does not know the script, and both again."""

MOVED_ON: Final = ("READONLY", "MOVED", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "NOREPLICAS", "TRYAGAIN")
"""Refusals after which another server may be the right one."""

_ASKING: Final = packed("ASKING")
_SLOTS: Final = packed("CLUSTER", "SLOTS")


class Place(ABC):
    """Where the scripts of one store are run."""

    def __init__(self, target: Target, layout: Layout) -> None:
        self.target = target
        self.layout = layout
        self.witness = Witness()

    def run(self, calls: Sequence[Call], lane: Lane) -> list[Answer]:
        """Run scripts; return their answers in order. Raises ``StoreUnavailable`` where one was not run."""
        try:
            outcomes = self._outcomes(calls, lane)
        except Unreachable:
            self.forget()
            raise
        answers = []
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, Refusal):
                if outcome.code in MOVED_ON:
                    self.forget()
                raise outcome
            answers.append(self.witness.answer(call, outcome))
        return answers

    def ask_each(self, command: Command) -> list[Reply]:
        """Send a command to every server that holds data; raise where one does not answer it."""
        replies = [server.reads.exchange([command])[0] for server in self.servers()]
        for reply in replies:
            if isinstance(reply, Refusal):
                raise reply
        return replies

    @abstractmethod
    def servers(self) -> Sequence[Server]:
        """Return the servers that hold data."""

    @abstractmethod
    def _outcomes(self, calls: Sequence[Call], lane: Lane) -> list[Outcome]:
        """Run scripts where they belong; refusals stand in their places."""

    @abstractmethod
    def forget(self) -> None:
        """Look for the right servers at the next call."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections; a later call opens new ones."""

    def _commands(self, call: Call, *, whole: bool = False) -> list[Command]:
        return [*call.reading, self.witness.command(self.layout, call, whole=whole)]


class Single(Place):
    """One server."""

    def __init__(self, target: Target, layout: Layout) -> None:
        super().__init__(target, layout)
        self._server: Server | None = Server(target.addresses[0], target)

    def servers(self) -> Sequence[Server]:
        return [self._found()]

    def _found(self) -> Server:
        assert self._server is not None
        return self._server

    def _outcomes(self, calls: Sequence[Call], lane: Lane) -> list[Outcome]:
        pool = _pool_of(self._found(), lane)
        outcomes = self._exchange(pool, calls)
        unknown = [at for at, outcome in enumerate(outcomes) if is_unknown_script(outcome)]
        if unknown:
            again = self._exchange(pool, [calls[at] for at in unknown], whole=True)
            for at, outcome in zip(unknown, again, strict=True):
                outcomes[at] = outcome
        return outcomes

    def _exchange(self, pool: AnyPool, calls: Sequence[Call], *, whole: bool = False) -> list[Outcome]:
        spoken = [self._commands(call, whole=whole) for call in calls]
        if len(spoken) == 1:
            return [_outcome_of(pool.exchange(spoken[0]))]
        replies = iter(pool.exchange([command for commands in spoken for command in commands]))
        return [_outcome_of([next(replies) for _ in commands]) for commands in spoken]

    def forget(self) -> None:
        """Make new connections: the server's name may lead to another by now."""
        self.close()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


class Sentinel(Single):
    """The primary of a service, as one of its Sentinels names it."""

    def __init__(self, target: Target, layout: Layout) -> None:
        super().__init__(target, layout)
        self._server = None
        self._question = packed("SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.service)
        self._sentinels = [Server(address, target, is_sentinel=True) for address in target.addresses]

    def _found(self) -> Server:
        server = self._server
        if server is None:
            server = self._server = Server(self._address(), self.target)
        return server

    def _address(self) -> Address:
        reasons = []
        for sentinel in self._sentinels:
            try:
                (told,) = sentinel.reads.exchange([self._question])
            except StoreUnavailable as error:
                reasons.append(str(error))
                continue
            if isinstance(told, Refusal):
                reasons.append(str(told))
            elif told:
                return told[0].decode(), int(told[1])
            else:
                reasons.append(f"{sentinel.url} knows no service {self.target.service!r}")
        raise Unreachable(f"{self.target.url}: no Sentinel names the primary: {'; '.join(reasons)}")

    def forget(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def close(self) -> None:
        super().close()
        for sentinel in self._sentinels:
            sentinel.close()


class Cluster(Place):
    """The nodes of a Cluster, each for its own slots."""

    def __init__(self, target: Target, layout: Layout) -> None:
        super().__init__(target, layout)
        self._servers: dict[Address, Server] = {}
        self._owners: dict[int, Address] = {}
        self._is_stale = True

    def servers(self) -> Sequence[Server]:
        self._look_around()
        return [self._server(address) for address in dict.fromkeys(self._owners.values())]

    def _server(self, address: Address) -> Server:
        server = self._servers.get(address)
        if server is None:
            server = self._servers.setdefault(address, Server(address, self.target))
        return server

    def _look_around(self) -> None:
        """Ask any node which slots are whose."""
        if not self._is_stale:
            return
        reasons = []
        for address in dict.fromkeys((*self._owners.values(), *self.target.addresses)):
            try:
                (told,) = self._server(address).reads.exchange([_SLOTS])
            except StoreUnavailable as error:
                reasons.append(str(error))
                continue
            if isinstance(told, Refusal):
                raise told
            self._owners = dict(_owners_in(told, address[0], self.layout))
            self._is_stale = False
            return
        raise Unreachable(f"{self.target.url}: no node answers: {'; '.join(reasons)}")

    def _outcomes(self, calls: Sequence[Call], lane: Lane) -> list[Outcome]:
        self._look_around()
        outcomes: list[Outcome] = [[]] * len(calls)
        targets: dict[int, Address] = {}
        whole: set[int] = set()
        asking: set[int] = set()
        waiting: Sequence[int] = range(len(calls))
        for _ in range(ROUNDS):
            self._round(calls, waiting, targets, whole, asking, outcomes, lane)
            asking.clear()
            again = []
            for at in waiting:
                outcome = outcomes[at]
                if not isinstance(outcome, Refusal) or outcome.code not in ("NOSCRIPT", "MOVED", "ASK"):
                    continue
                again.append(at)
                if outcome.code == "NOSCRIPT":
                    whole.add(at)
                    continue
                targets[at] = _address_in(outcome.said, self._address_of(calls[at], targets.get(at)))
                if outcome.code == "ASK":
                    asking.add(at)
                else:
                    self._is_stale = True
            if not again:
                break
            waiting = again
        return outcomes

    def _address_of(self, call: Call, known: Address | None) -> Address:
        address = known or self._owners.get(self.layout.slot(call.part))
        if address is None:
            self.forget()
            raise Unreachable(f"{self.target.url}: no node has the slot {self.layout.slot(call.part)}")
        return address

    def _round(
        self,
        calls: Sequence[Call],
        waiting: Iterable[int],
        targets: dict[int, Address],
        whole: set[int],
        asking: set[int],
        outcomes: list[Outcome],
        lane: Lane,
    ) -> None:
        """Send each node what is its own, then read what each answers: one waits for the slowest only."""
        groups: dict[Address, list[int]] = {}
        for at in waiting:
            groups.setdefault(self._address_of(calls[at], targets.get(at)), []).append(at)
        sent: list[tuple[AnyPool, Any, list[int | None]]] = []
        try:
            for address, positions in groups.items():
                pool = _pool_of(self._server(address), lane)
                commands: list[Command] = []
                answered: list[int | None] = []
                for at in positions:
                    for command in self._commands(calls[at], whole=at in whole):
                        if at in asking:
                            commands.append(_ASKING)
                            answered.append(None)
                        commands.append(command)
                        answered.append(at)
                sent.append((pool, pool.send(commands), answered))
            while sent:
                pool, connection, answered = sent.pop()
                replies: dict[int, list[Reply]] = {}
                for position, reply in zip(answered, pool.collect(connection, len(answered)), strict=True):
                    if position is not None:
                        replies.setdefault(position, []).append(reply)
                for position, its_own in replies.items():
                    outcomes[position] = _outcome_of(its_own)
        finally:
            for pool, connection, _ in sent:
                pool.abandon(connection)

    def forget(self) -> None:
        self._is_stale = True

    def close(self) -> None:
        for server in list(self._servers.values()):
            server.close()


def place_of(target: Target, layout: Layout) -> Place:
    """Return where a target's scripts are run. Nothing is connected yet."""
    kinds: dict[str, type[Place]] = {"single": Single, "sentinel": Sentinel, "cluster": Cluster}
    return kinds[target.topology](target, layout)


def _outcome_of(replies: list[Reply]) -> Outcome:
    """Return what was answered to the commands of one call; the first refusal where there is one."""
    for reply in replies:
        if isinstance(reply, Refusal):
            return reply
    return replies


def is_unknown_script(reply: Reply) -> bool:
    """Tell whether a server did not run a script because it does not know it yet."""
    return isinstance(reply, Refusal) and reply.code == "NOSCRIPT"


def _pool_of(server: Server, lane: Lane) -> AnyPool:
    return server.reads if lane == "reads" else server.marks


def _owners_in(told: Reply, asked_host: str, layout: Layout) -> Iterable[tuple[int, Address]]:
    """Yield whose each part's slot is, from what CLUSTER SLOTS says. A node without an address is the one that was asked."""
    owners: list[Address | None] = [None] * SLOTS
    for first, last, primary, *_ in told:
        host = primary[0].decode() if primary[0] else asked_host
        owners[int(first) : int(last) + 1] = [(host, int(primary[1]))] * (int(last) - int(first) + 1)
    for part in range(len(layout.parts)):
        slot = layout.slot(part)
        owner = owners[slot]
        if owner is not None:
            yield slot, owner


def _address_in(said: str, of_the_speaker: Address) -> Address:
    """Read the address at the end of a redirection: "3999 10.0.0.1:6381"."""
    host, _, port = said.rpartition(" ")[2].rpartition(":")
    return host.strip("[]") or of_the_speaker[0], int(port)
