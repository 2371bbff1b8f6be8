"""Does a reader ever see less than what was acknowledged before it began, while workers are killed?

Starts gunicorn with four workers on PostgreSQL and ``lmdb://``, lets readers and writers at it through HTTP, and kills a
worker with SIGKILL every second. Every answer is checked:

- no row has a version below the one that was acknowledged before the request was sent (promise 1);
- no row has a version below the one that any answer showed before the request was sent (promise 2).

    python tests/soak/soak.py [--seconds 60] [--workers 4] [--readers 6] [--writers 2] [--items 60] [--json FILE]

The last line gives reads, writes, kills, hit rate and violations; exit code 1 where there is a violation, or where nothing
was tested (no hit, no write, no kill).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from soak_app import BUCKETS, Base, Item  # noqa: E402

from own_servers import free_port  # noqa: E402 - the tests' own modules
from servers import POSTGRESQL, database, server  # noqa: E402

WAYS = ("flush", "core", "text")


@dataclass
class Tally:
    """What happened, and the floors below which no later answer may fall."""

    reads: int = 0
    hits: int = 0
    writes: int = 0
    kills: int = 0
    refused: int = 0
    violations: list[str] = field(default_factory=list)


class History:
    """Per item, the highest version acknowledged or seen so far."""

    def __init__(self, items: int) -> None:
        self._floor = dict.fromkeys(range(items), 0)
        self._lock = threading.Lock()

    def floors(self) -> dict[int, int]:
        """Return a picture of all floors, to be taken before a request is sent."""
        with self._lock:
            return dict(self._floor)

    def raise_to(self, key: int, version: int) -> None:
        """Note a version that somebody was told of."""
        with self._lock:
            self._floor[key] = max(self._floor[key], version)


class Client:
    """One keep-alive connection that is made again when its worker was killed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str) -> tuple[object, bool] | None:
        """Return the answer and whether it was a hit; None where the worker died or refused."""
        try:
            connection = self._connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            self._connection = connection
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                return None
            return json.loads(body), response.headers.get("X-Hit") == "1"
        except (OSError, http.client.HTTPException):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return None


def main() -> int:
    """Run, print, return the exit code."""
    options = _options()
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder, server(POSTGRESQL) as at, database(at, "soak") as url:
        text_url = url.render_as_string(hide_password=False)
        _make_items(text_url, options.items)
        with _gunicorn(text_url, f"lmdb://{folder}/store", options.workers) as (port, master):
            _hammer(options, port, master, tally)
    rate = tally.hits / tally.reads if tally.reads else 0.0
    for violation in tally.violations[:20]:
        print(violation)
    if options.json:
        Path(options.json).write_text(json.dumps(asdict(tally), indent=2))
    print(
        f"{tally.reads} reads, {tally.writes} writes, {tally.kills} kills, {tally.refused} requests lost with their worker, "
        f"hit rate {rate:.1%}, {len(tally.violations)} violations"
    )
    tested = tally.hits > 0 and tally.writes > 0 and tally.kills > 0
    if not tested:
        print("nothing was tested: there was no hit, no write or no kill")
    return 0 if tested and not tally.violations else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default 60)")
    parser.add_argument("--workers", type=int, default=4, help="gunicorn workers (default 4)")
    parser.add_argument("--readers", type=int, default=6, help="reading threads (default 6)")
    parser.add_argument("--writers", type=int, default=2, help="writing threads (default 2)")
    parser.add_argument("--items", type=int, default=60, help="rows (default 60)")
    parser.add_argument(
        "--pause", type=float, default=0.05, help="seconds between two writes of a writer (default 0.05)"
    )
    parser.add_argument("--json", help="write the tally to a file")
    return parser.parse_args()


def _make_items(url: str, items: int) -> None:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Item(id=key, bucket=key % BUCKETS, version=0) for key in range(items))
        session.commit()
    engine.dispose()


@contextmanager
def _gunicorn(url: str, store: str, workers: int) -> Iterator[tuple[int, int]]:
    port = free_port()
    arguments = ["-m", "gunicorn", "--workers", str(workers), "--threads", "2", "--bind", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [sys.executable, *arguments, "--log-level", "critical", "--chdir", str(HERE), "soak_app:create_app()"],
        env={**os.environ, "SOAK_DATABASE": url, "SOAK_STORE": store},
        start_new_session=True,
    )
    try:
        _wait_for(port, process)
        yield port, process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while Client(port).ask("GET", "/item/0") is None:
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit("gunicorn did not come up")
        time.sleep(0.1)


def _hammer(options: argparse.Namespace, port: int, master: int, tally: Tally) -> None:
    history, lock, stop = History(options.items), threading.Lock(), threading.Event()
    jobs = [
        *(lambda: _read(port, options.items, history, tally, lock, stop) for _ in range(options.readers)),
        *(
            lambda: _write(port, options.items, options.pause, history, tally, lock, stop)
            for _ in range(options.writers)
        ),
    ]
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    until = time.monotonic() + options.seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(1.0, left))
        if left > 1:
            _kill_one(master, tally)
        print(f"\r{max(left - 1, 0):.0f} s left, {tally.reads} reads ".ljust(50), end="", file=sys.stderr, flush=True)
    stop.set()
    for thread in threads:
        thread.join(15)
    print("\r".ljust(52), end="\r", file=sys.stderr)


def _kill_one(master: int, tally: Tally) -> None:
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    if children:
        with suppress(ProcessLookupError):
            os.kill(int(random.choice(children)), signal.SIGKILL)
            tally.kills += 1


def _read(port: int, items: int, history: History, tally: Tally, lock: threading.Lock, stop: threading.Event) -> None:
    client = Client(port)
    while not stop.is_set():
        path = f"/item/{random.randrange(items)}" if random.random() < 0.7 else f"/bucket/{random.randrange(BUCKETS)}"
        floors = history.floors()
        answer = client.ask("GET", path)
        with lock:
            if answer is None:
                tally.refused += 1
                continue
            rows, hit = answer
            tally.reads += 1
            tally.hits += hit
            assert isinstance(rows, list)
            if path.startswith("/item") and len(rows) != 1:
                tally.violations.append(f"{path}: {len(rows)} rows")
            for key, version in rows:
                if version < floors[key]:
                    tally.violations.append(
                        f"{path}: item {key} at version {version}, known before: {floors[key]}, hit={hit}"
                    )
        for key, version in rows:
            history.raise_to(key, version)


def _write(
    port: int, items: int, pause: float, history: History, tally: Tally, lock: threading.Lock, stop: threading.Event
) -> None:
    client = Client(port)
    while not stop.wait(pause):
        key = random.randrange(items)
        answer = client.ask("POST", f"/bump/{key}/{random.choice(WAYS)}")
        with lock:
            if answer is None:
                tally.refused += 1
                continue
            tally.writes += 1
        version = answer[0]
        assert isinstance(version, int)
        history.raise_to(key, version)


if __name__ == "__main__":
    sys.exit(main())
