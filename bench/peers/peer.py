"""What does the benchmark ask of a peer that runs in its own process?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rows import Product
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

Change = Callable[[int], None]
"""Sets the stock of the first product."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Reads by case, with the opening and closing of a Session; how its users change a row; what it shows of it after that.

    ``shows`` gives the stock of the first product as a cached get, or a cached list, has it.
    """

    reads: Mapping[str, Callable[[], object]]
    changes: Mapping[str, Change]
    shows: Mapping[str, Callable[[], int]]
    ratio_to: tuple[str, ...] = field(default=("postgresql",))

    def timed(self, case: str) -> float:
        """Time one read."""
        read = self.reads[case]
        start = time.perf_counter()
        read()
        return time.perf_counter() - start

    def stale_after(self, change: str, value: int) -> bool:
        """Tell whether it shows less than a change that is over."""
        for show in self.shows.values():
            show()
        self.changes[change](value)
        return any(show() != value for show in self.shows.values())


def changes_through(engine: Engine) -> dict[str, Change]:
    """Return how users of SQLAlchemy change a row: by an attribute, or by an UPDATE."""

    def flush(value: int) -> None:
        with Session(engine) as session:
            session.get_one(Product, 1, populate_existing=True).stock = value
            session.commit()

    def bulk(value: int) -> None:
        with Session(engine) as session:
            session.execute(update(Product).where(Product.id == 1).values(stock=value))
            session.commit()

    return {"flush": flush, "bulk": bulk}
