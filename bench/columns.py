"""What does it buy, and cost, that tags know columns?

Three tables. The first: the part of reads that are answered without a query, of a mixed workload (lists of entities, gets,
counts, lists of keys, some columns of rows, EXISTS), while one transaction in ten changes one row: eight of ten count a
view (``views = views + 1``), the others rename, move, add or (un)publish an article. "columns": as the library does it; "rows":
with tags of rows alone, by a patch of this bench. The second: a hit, columns / rows. The third: a transaction that changes
one row, columns / rows. Both take turns in one process, round after round; what is compared is this process's CPU time, in
which SQLite's is contained and a server's is not.

    python bench/columns.py [--rounds 200] [--reads 6000] [--against sqlite,postgresql,mariadb]
        [--json bench/results/columns.json]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import Engine, ForeignKey, String, exists, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from querycache import QueryCache
from querycache.coherence import facts
from querycache.statements import dependencies
from querycache.statements import tags as naming

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from environment import machine, versions
from writes import _databases, _engine_of, _print, _result

STORES = ("memory", "lmdb")
SECTIONS = 20
ARTICLES = 600
WRITE_PART = 0.1
VIEWS_PART = 0.8


class Base(DeclarativeBase):
    """The benchmark's own tables."""


class Section(Base):
    """A parent of articles."""

    __tablename__ = "bench_section"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(50))


class Article(Base):
    """A row of ten columns, one of which changes all the time."""

    __tablename__ = "bench_article"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    section_id: Mapped[int] = mapped_column(ForeignKey("bench_section.id"), index=True)
    author_id: Mapped[int] = mapped_column(index=True)
    slug: Mapped[str] = mapped_column(String(50), unique=True)
    title: Mapped[str] = mapped_column(String(100))
    body: Mapped[str] = mapped_column(String(200))
    published: Mapped[bool]
    position: Mapped[int]
    price: Mapped[float]
    views: Mapped[int] = mapped_column(default=0)


Read = Callable[[Session, random.Random], object]


def _section(chance: random.Random) -> int:
    return chance.randint(1, SECTIONS)


def _article(chance: random.Random) -> int:
    return chance.randint(1, ARTICLES)


def _list(session: Session, chance: random.Random) -> object:
    return session.scalars(
        select(Article).where(Article.section_id == _section(chance)).order_by(Article.position)
    ).all()


def _get(session: Session, chance: random.Random) -> object:
    return session.get(Article, _article(chance))


def _count(session: Session, chance: random.Random) -> object:
    return session.scalar(select(func.count()).where(Article.section_id == _section(chance), Article.published))


def _count_all(session: Session, chance: random.Random) -> object:
    return session.scalar(select(func.count()).select_from(Article))


def _keys(session: Session, chance: random.Random) -> object:
    listed = select(Article.id).where(Article.section_id == _section(chance)).order_by(Article.position).limit(20)
    return session.scalars(listed).all()


def _title(session: Session, chance: random.Random) -> object:
    return session.execute(select(Article.title, Article.slug).where(Article.id == _article(chance))).one_or_none()


def _exists(session: Session, chance: random.Random) -> object:
    written = exists().where(Article.author_id == chance.randint(1, 50), Article.section_id == Section.id)
    return session.scalars(select(Section.name).where(written)).all()


READS: dict[str, Read] = {
    "lists of entities": _list,
    "gets": _get,
    "counts": _count,
    "count of all": _count_all,
    "lists of keys": _keys,
    "some columns of a row": _title,
    "parents with EXISTS": _exists,
}


def _new(number: int) -> Article:
    return Article(
        id=number,
        section_id=number % SECTIONS + 1,
        author_id=number % 50 + 1,
        slug=f"article-{number}",
        title=f"article {number}",
        body="x" * 60,
        published=number % 5 > 0,
        position=number,
        price=1.5,
    )


def _view(session: Session, number: int) -> None:
    session.execute(update(Article).where(Article.id == number).values(views=Article.views + 1))


def _write(session: Session, chance: random.Random, turn: int) -> None:
    """Change one row: mostly its number of views."""
    number = _article(chance)
    if chance.random() < VIEWS_PART:
        if turn % 2:
            _view(session, number)
        else:
            session.get_one(Article, number).views += 1
        return
    how = turn % 4
    if how == 0:
        session.get_one(Article, number).title = f"renamed {turn}"
    elif how == 1:
        session.get_one(Article, number).section_id = _section(chance)
    elif how == 2:
        session.add(_new(ARTICLES * 1000 + turn))
    else:
        session.get_one(Article, number).published ^= True


Change = Callable[[Session, int], object]
CHANGES: dict[str, Change] = {
    "count a view (Core)": lambda session, turn: _view(session, turn % ARTICLES + 1),
    "update 1 column (flush)": lambda session, turn: setattr(
        session.get_one(Article, turn % ARTICLES + 1), "views", turn
    ),
    "insert 1 row": lambda session, turn: session.add(_new(ARTICLES + 1 + turn)),
    "delete 1 row": lambda session, turn: session.delete(session.get_one(Article, ARTICLES + 1 + turn)),
}


_OURS = (dependencies._suffixes, facts.TableFacts._told, naming.members_tag)
_ROWS_ALONE = (lambda *arguments: (b"",), lambda facts, row: [], lambda rows: rows)
WAYS = {"columns": _OURS, "rows": _ROWS_ALONE}


@contextmanager
def tags_of(label: str) -> Iterator[None]:
    """Make and read tags as the library does, or those of rows alone; both by a patch, which has a price of its own."""
    suffixes, told, members = WAYS[label]
    with (
        mock.patch.object(dependencies, "_suffixes", suffixes),
        mock.patch.object(facts.TableFacts, "_told", told),
        mock.patch.object(naming, "members_tag", members),
    ):
        yield


def main() -> int:
    """Run, print, write; return the exit code."""
    options = _options()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for against, url in _databases(Path(folder), options.against.split(",")):
            results.extend(_hit_rates(against, url, options.reads))
            for store in STORES:
                print(f"{against}, {store}".ljust(40), end="\r", file=sys.stderr, flush=True)
                results.extend(_costs(against, url, store, folder, options.rounds))
    _print(results)
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "versions": versions(), "results": results}, indent=2) + "\n")
    print(f"\nwritten to {path}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="hits and transactions of each kind (default 200)")
    parser.add_argument("--reads", type=int, default=6000, help="reads of the mix (default 6000)")
    parser.add_argument("--against", default="sqlite,postgresql,mariadb", help="the databases (default all three)")
    parser.add_argument("--json", default="bench/results/columns.json", help="where to write the results")
    return parser.parse_args()


def _fill(engine: Engine) -> None:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Section(id=number, name=f"section {number}") for number in range(1, SECTIONS + 1))
        session.flush()
        session.add_all(_new(number) for number in range(1, ARTICLES + 1))
        session.commit()


def _hit_rates(against: str, url: str, reads: int) -> list[dict[str, Any]]:
    """Return the part of reads that were hits, by kind and in all, once everything was read."""
    results = []
    for label in WAYS:
        engine = _engine_of(url)
        _fill(engine)
        with tags_of(label), QueryCache("memory://", models=[Section, Article]) as cache:
            cache.attach(engine)
            chance = random.Random(7)
            _read_and_write(engine, cache, chance, reads)
            hits = _read_and_write(engine, cache, chance, reads)
        engine.dispose()
        for name, (number, found) in {**hits, "all": tuple(map(sum, zip(*hits.values(), strict=True)))}.items():
            results.append(_result("hit rate", f"{name}, {label}", "memory", against, [found / number]))
    return results


def _read_and_write(engine: Engine, cache: QueryCache, chance: random.Random, reads: int) -> dict[str, tuple[int, int]]:
    names, hits = list(READS), dict.fromkeys(READS, (0, 0))
    for turn in range(reads):
        if chance.random() < WRITE_PART:
            with Session(engine) as session:
                _write(session, chance, turn + chance.randint(1, 10**6) * reads)
                session.commit()
        name = chance.choice(names)
        before = cache.stats()["counts"].get("hit", 0)
        with Session(engine) as session:
            READS[name](session, chance)
        found = cache.stats()["counts"].get("hit", 0) - before
        hits[name] = (hits[name][0] + 1, hits[name][1] + found)
    return hits


def _costs(against: str, url: str, store: str, folder: str, rounds: int) -> list[dict[str, Any]]:
    """Compare hits and transactions, columns / rows; each way has an engine and a cache, which do not hear each other."""
    seconds: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for label in WAYS:
            place = "memory://" if store == "memory" else f"lmdb://{folder}/{against}-{label}"
            engines[label] = _engine_of(url)
            stack.callback(engines[label].dispose)
            stack.enter_context(cache := QueryCache(place, models=[Section, Article]))
            if label == "columns":
                _fill(engines[label])
            cache.attach(engines[label])
        for turn in range(rounds + 5):
            for label in list(WAYS)[:: 1 if turn % 2 else -1]:
                with tags_of(label):
                    for name, act in _acts(turn * 2 + list(WAYS).index(label)):
                        took = _time(engines[label], act)
                        if turn >= 5:
                            seconds.setdefault((name, label), []).append(took)
    results = []
    for name in dict.fromkeys(name for name, _ in seconds if not name.startswith("unmeasured")):
        group, _, case = name.partition(": ")
        pairs = zip(seconds[name, "columns"], seconds[name, "rows"], strict=True)
        results.append(_result(group, case, store, against, [one / other for one, other in pairs]))
    return results


def _acts(turn: int) -> Iterator[tuple[str, Callable[[Session], object]]]:
    """Yield each read, twice, as the first may miss; then each change, which commits."""
    for name, read in READS.items():
        yield f"unmeasured: {name}", lambda session, read=read: read(session, random.Random(3))
        yield f"hit: {name}", lambda session, read=read: read(session, random.Random(3))
    for name, change in CHANGES.items():
        yield f"write: {name}", lambda session, change=change: (change(session, turn), session.commit())


def _time(engine: Engine, act: Callable[[Session], object]) -> float:
    start = time.process_time()
    with Session(engine) as session:
        act(session)
    return time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
