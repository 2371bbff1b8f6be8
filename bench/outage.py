"""What do reads and commits wait for while a Redis server is gone, stands still, or cannot be connected to?

``python bench/outage.py --seconds 10 --threads 4``: an application of some threads on SQLite, with the default limits, through
one outage of each kind, and for as long after it as it takes until reads are hits again. Prints milliseconds.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from coherence_world import Category, Process, Product, World, is_hit, make_engine, name_of, read_in, rename
from querycache import QueryCache
from redis_servers import RedisServer, own_redis
from troubled_proxy import TroubledProxy, troubled_proxy

Outage = Callable[[RedisServer, TroubledProxy], None]

BEGIN: dict[str, Outage] = {
    "killed": lambda server, proxy: server.kill(),
    "stopped": lambda server, proxy: server.stop(),
    "silent": lambda server, proxy: setattr(proxy, "what", "swallow"),
}
END: dict[str, Outage] = {
    "killed": lambda server, proxy: server.start(),
    "stopped": lambda server, proxy: server.go_on(),
    "silent": lambda server, proxy: setattr(proxy, "what", "pass"),
}


@contextmanager
def application(url: str, store: str) -> Iterator[Process]:
    """Start a process of the application with its tables filled."""
    world = World(url)
    world.fill()
    engine = make_engine(url)
    cache = QueryCache(store, models=[Category, Product])
    cache.attach(engine)
    world.processes.append(Process(engine, cache))
    yield world.processes[0]
    world.close()


NAMES = map(str, itertools.count())


def read(process: Process) -> None:
    """Read a name, from the cache where it can be."""
    read_in(process, name_of)


def write(process: Process) -> None:
    """Change a name, and commit."""
    rename(process, next(NAMES))


def timed(process: Process, threads: int, seconds: float, work: Callable[[Process], object]) -> list[float]:
    """Return how many milliseconds each piece of work took, by several threads."""
    took: list[float] = []
    end = time.monotonic() + seconds

    def run() -> None:
        while time.monotonic() < end:
            began = time.perf_counter()
            work(process)
            took.append((time.perf_counter() - began) * 1000)
            time.sleep(0.005)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sorted(took)


def told(took: list[float]) -> str:
    """Say the median, the 99th percentile, the longest, and how many waited for a limit."""
    waited = sum(one > 100 for one in took)
    middle, late = took[len(took) // 2], took[len(took) * 99 // 100]
    return f"p50 {middle:7.2f}  p99 {late:8.2f}  max {took[-1]:8.2f}  over 100 ms: {waited} of {len(took)}"


def main() -> None:
    """Go through each outage and print what it cost."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--threads", type=int, default=4)
    given = options.parse_args()
    for name in BEGIN:
        with (
            tempfile.TemporaryDirectory() as folder,
            own_redis() as server,
            troubled_proxy(server.port) as proxy,
            application(f"sqlite:///{folder}/database", f"redis://127.0.0.1:{proxy.port}") as process,
        ):
            read(process)
            print(f"{name}\n  reads before    {told(timed(process, given.threads, given.seconds / 4, read))}")
            BEGIN[name](server, proxy)
            print(f"  reads during    {told(timed(process, given.threads, given.seconds, read))}")
            print(f"  commits during  {told(timed(process, 1, given.seconds, write))}")
            print(f"  reads, owing    {told(timed(process, given.threads, given.seconds / 2, read))}")
            END[name](server, proxy)
            began = time.monotonic()
            while not is_hit(process):
                time.sleep(0.01)
            print(f"  hits again      {time.monotonic() - began:.1f} s after the server is back", flush=True)


if __name__ == "__main__":
    main()
