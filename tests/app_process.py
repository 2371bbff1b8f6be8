"""How does a test have real processes of an application do things, one step at a time, and stop in the middle?

``AppProcess`` starts ``app_process_child`` and speaks with it in lines. Nothing is timed: each call waits for its answer,
and a process that gives none within ``PATIENCE_S`` is an error.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
CHILD = Path(__file__).with_name("app_process_child.py")


class AppProcess:
    """A process of an application. ``library``: a folder with another ``querycache`` than the one that is tested."""

    def __init__(self, library: Path | None = None) -> None:
        paths = [str(library)] if library is not None else []
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
        self._child = subprocess.Popen(
            [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert self._child.stdout is not None
        self._unread = b""
        self._lines = selectors.DefaultSelector()
        self._lines.register(self._child.stdout, selectors.EVENT_READ)

    def ask(self, do: str, **arguments: Any) -> Any:
        """Have something done; return what came of it. Raises ``RuntimeError`` with the process's own error."""
        self._say({"do": do, **arguments})
        return self._answer()

    def start(self, models: Path, url: str, store: Path, **options: Any) -> None:
        """Start the application: the models of a file, a database, a store's directory, options of ``QueryCache``."""
        self.ask("start", models=str(models), url=url, store=str(store), **options)

    def write(self, how: str, **values: Any) -> None:
        """Change something, and commit."""
        self.ask("write", how=how, **values)

    def read(self, *names: str) -> dict[str, Any]:
        """Read through the cache, and check that it is what the database says to this process's own models."""
        found: dict[str, Any] = self.ask("read", names=names)
        for name in names:
            assert found[name]["cached"] == found[name]["truth"], name
        return found

    def hits(self, *names: str) -> list[str]:
        """Read, as ``read`` does; return the names of the reads that cost no SELECT."""
        return [name for name, told in self.read(*names).items() if not told["selects"]]

    @contextmanager
    def stopped(self, point: str, how: str, **values: Any) -> Iterator[None]:
        """Change something, and stop at a point of it ("after mark", "before release") for as long as the block runs."""
        self._go_to(point, how, values)
        yield
        self._say({"do": "go"})
        self._answer()

    def kill_at(self, point: str, how: str, **values: Any) -> None:
        """Change something, and kill the process at a point of it."""
        self._go_to(point, how, values)
        self.kill()

    def kill(self) -> None:
        """Kill the process where it stands."""
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()

    def leave(self) -> None:
        """Have the process end by ``os._exit``: no exit handler runs."""
        self._say({"do": "leave"})
        self._child.wait(PATIENCE_S)

    def end(self) -> None:
        """Have the process exit as one does that is done, and wait for that."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        if not self._child.stdin.closed:
            self._child.stdin.close()
        try:
            self._child.wait(PATIENCE_S)
        finally:
            self._child.kill()
            self._child.wait()
            self._lines.close()
            self._child.stdout.close()

    def say(self, do: str, **arguments: Any) -> None:
        """Have something done, and don't wait for it: the process is not heard of again."""
        self._say({"do": do, **arguments})

    def _go_to(self, point: str, how: str, values: dict[str, Any]) -> None:
        self.ask("stop_at", point=point)
        self._say({"do": "write", "how": how, **values})
        told = self._line()
        assert told == {"at": point}, f"it never came {point}: {told}"

    def _say(self, what: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(what).encode() + b"\n")
        self._child.stdin.flush()

    def _answer(self) -> Any:
        told = self._line()
        if "error" in told:
            raise RuntimeError(told["error"])
        return told["done"]

    def _line(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        while b"\n" not in self._unread:
            if not self._lines.select(PATIENCE_S):
                raise AssertionError(f"the process gave no answer in {PATIENCE_S:.0f} s")
            read = os.read(self._child.stdout.fileno(), 65_536)
            if not read:
                raise AssertionError("the process ended instead of answering; what it said stands on stderr")
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told
