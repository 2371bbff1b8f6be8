"""What is known of the variables that an application set on one connection for purposes of its own?

PostgreSQL's ``app.tenant``, MariaDB's ``@tenant``: they name no table and set no isolation level, but policies and functions
may ask for them. What the current transaction set is what the application says its rows vary by. What an earlier one left
behind, or a savepoint took back, is not known. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Variables:
    """The variables of one driver connection, for as long as it lives.

    ``here``: set in this transaction. ``left``: set for good by an earlier one. ``are_undone``: a rollback to a savepoint may
    have given any of them another value.
    """

    here: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    are_undone: bool = False
    _for_good: set[str] = field(default_factory=set)

    @property
    def are_known(self) -> bool:
        """Whether each variable that has a value was given it in this transaction."""
        return not self.are_undone and self.left <= self.here

    def note(self, name: str, *, for_good: bool) -> None:
        """Hear that a variable was set, until the transaction's end or for good."""
        self.here.add(name)
        if for_good:
            self._for_good.add(name)

    def take_back(self) -> None:
        """Hear of a rollback to a savepoint."""
        self.are_undone = self.are_undone or bool(self.here)

    def end(self) -> None:
        """Hear that the transaction is over."""
        if self.here:
            self.left |= self._for_good
            self.here.clear()
            self._for_good.clear()
        self.are_undone = False
