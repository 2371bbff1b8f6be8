"""Show what the cache does: the example application, two gunicorn workers, real HTTP. Ends with 0 when all of it held."""

from __future__ import annotations

import re
import sys
from statistics import median

from models import USERS
from workers import Answer, Line, directory, end_on_sigterm, lines, workers

USER, OTHER_USER, ELSEWHERE = 700, 800, "/views/5/"
ROUNDS = 20
MEASURED = 60


class DemoFailed(Exception):
    """Something that the demo promises did not hold."""


def main() -> int:
    """Run the demo; return the exit code."""
    end_on_sigterm()
    try:
        with directory() as place:
            print(f"The example application: {USERS:,} users in SQLite, two gunicorn workers, A and B.")
            with workers(place, cached=False) as port, lines(port) as (a, b):
                warm_up(a, b)
                slow = show_without_cache(a, b)
            with workers(place, cached=True) as port, lines(port) as (a, b):
                warm_up(a, b)
                show_reads(a, b)
                show_write(a, b)
                fresh = count_fresh_reads(a, b)
                quick = measure(a, b)
    except DemoFailed as failure:
        print(f"\nThe demo failed: {failure}", file=sys.stderr)
        return 1
    except (OSError, KeyError) as error:
        print(f"\nThe demo failed: the workers did not answer as they should ({error!r})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    print_summary(fresh, slow, quick)
    return 0


def warm_up(a: Line, b: Line) -> None:
    """Have both workers load templates and compile statements, which is not what the demo shows."""
    a.ask("POST", "/init_db/")
    for line in (a, b):
        for method, path in (("GET", "/"), ("GET", "/1/"), ("GET", "/views/0/"), ("POST", "/update/1/")):
            line.ask(method, path)


def show_without_cache(a: Line, b: Line) -> float:
    print_head("1. The cache is off (QUERYCACHE_ENABLED = False)")
    ask(a, "A", "GET", "/", "every page asks the database ...")
    again = ask(b, "B", "GET", "/", "... every time")
    expect(again.selects > 0, "without the cache a page should cost SELECTs")
    return measure(a, b)


def show_reads(a: Line, b: Line) -> None:
    print_head("2. The cache is on: the same code, one setting")
    ask(a, "A", "POST", "/init_db/", "fills the database anew: nothing is cached now")
    for path, what in (("/", "the page"), (f"/{USER}/", "one user"), (ELSEWHERE, "users with 5 views")):
        first = ask(a, "A", "GET", path, f"{what}: not cached yet, stored on the way")
        again = ask(b, "B", "GET", path, "the other worker is served what A stored")
        expect(first.selects > 0, f"the first GET {path} should ask the database")
        expect(again.selects == 0, f"the second GET {path} should cost no SELECT, it cost {again.selects}")
        expect(again.body_without_bar == first.body_without_bar, f"both workers should show the same at {path}")
    ask(a, "A", "GET", f"/{OTHER_USER}/", "another user")


def show_write(a: Line, b: Line) -> None:
    print_head("3. A write through A, and what B shows next")
    before = views_in(a.ask("GET", f"/{USER}/"))
    written = ask(a, "A", "POST", f"/update/{USER}/", f"user {USER} has {before + 1} views now")
    ended = written.told("Invalidated").split("; ")
    expect(f"user {USER}" in ended, f"the update should end what was cached of user {USER}")
    for what in ended:
        print(f"{'ended:' if what == ended[0] else '':>16} {what:<34}because {reasons(before).get(what, 'it changed')}")
    seen = ask(b, "B", "GET", f"/{USER}/", "B shows them at once")
    expect(views_in(seen) == before + 1, f"B shows {views_in(seen)} views after A committed {before + 1}")
    other = ask(b, "B", "GET", f"/{OTHER_USER}/", "not touched by that write: still from the cache")
    expect(other.selects == 0, f"the write to user {USER} should not end user {OTHER_USER}")
    elsewhere = ask(b, "B", "GET", ELSEWHERE, "the list stays, only the counts above it are read again")
    expect(elsewhere.selects == 1, f"one SELECT, for the counts, was expected at {ELSEWHERE}, not {elsewhere.selects}")


def reasons(before: int) -> dict[str, str]:
    """Say why the update of a user with so many views ends what it ends."""
    return {
        f"user {USER}": "its row was changed",
        f"lists by views={before}": "it was in them",
        f"lists by views={before + 1}": "it is in them now",
        "lists of all of user": "any change of any user may show in them",
    }


def count_fresh_reads(a: Line, b: Line) -> int:
    """Write through one worker and read through the other at once, in turns; return how often."""
    expected = views_in(a.ask("GET", f"/{USER}/"))
    for turn in range(ROUNDS):
        writer, reader = (a, b) if turn % 2 else (b, a)
        written, expected = writer.ask("POST", f"/update/{USER}/"), expected + 1
        seen = reader.ask("GET", f"/{USER}/")
        expect(written.worker != seen.worker, "writer and reader should be two workers")
        expect(views_in(seen) == expected, f"a stale read: {views_in(seen)} views after {expected} were committed")
    return ROUNDS


def measure(a: Line, b: Line) -> float:
    """Return the median time of the first page, in milliseconds inside of the workers."""
    for line in (a, b):
        line.ask("GET", "/")
    return median((a, b)[turn % 2].ask("GET", "/").time_ms for turn in range(MEASURED))


def ask(line: Line, name: str, method: str, path: str, why: str) -> Answer:
    """Send a request, and print what it did."""
    answer = line.ask(method, path)
    expect(answer.status in (200, 303), f"{method} {path} was answered with status {answer.status}")
    outcome = answer.told("Outcome")
    request = f"{method} {path}"
    print(f"  {request:<20}{name:<8}{outcome:<14}{answer.selects:>7}{answer.time_ms:>7.1f}   {why}", flush=True)
    return answer


def views_in(page: Answer) -> int:
    found = re.search(r'<dd class="views">(\d+)</dd>', page.body)
    if found is None:
        raise DemoFailed(f"a user's page shows no views (status {page.status})")
    return int(found[1])


def print_head(title: str) -> None:
    print(f"\n{title}\n  {'request':<20}{'worker':<8}{'outcome':<14}{'SELECTs':>7}{'ms':>7}   what it means")


def expect(held: bool, promise: str) -> None:
    if not held:
        raise DemoFailed(promise)


def print_summary(fresh: int, slow: float, quick: float) -> None:
    print(
        f"""
What you have seen
  - A page that was read once costs no SELECT any more, whichever worker answers: {slow:.1f} ms became {quick:.1f} ms.
  - A write ended exactly what it touched, in both workers; the rest stayed.
  - {fresh} times written through one worker and read at once through the other: {fresh} fresh, 0 stale.
  - The application's code says none of this: a mixin on the model and QueryCache(db=db) are all it has.

To click through it yourself: make serve"""
    )


if __name__ == "__main__":
    sys.exit(main())
