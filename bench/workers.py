"""How is a program of the benchmark's own run beside it, and ended?

Promises: none of them survives the run, however that ends (but for ``kill -9``).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from rounds import BenchError

HERE: Final = Path(__file__).resolve().parent
START_S: Final = 60.0
END_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Talker:
    """A program that answers each line with a line, both JSON."""

    process: subprocess.Popen[str]

    def send(self, order: Any) -> None:
        """Order something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchError(f"{self.process.args!r} ended without an answer, with code {self.process.wait()}")
        return json.loads(line)

    def ask(self, order: Any) -> Any:
        """Order something, and wait for the answer."""
        self.send(order)
        return self.answer()


@contextmanager
def talker(script: Path, *arguments: str, python: str = sys.executable) -> Iterator[Talker]:
    """Run a program that answers line by line; it ends with its input."""
    process = subprocess.Popen(
        [python, str(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches us alone
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))},
    )
    try:
        yield Talker(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        _end(process)


@contextmanager
def gunicorn(app: str, workers: int, settings: Mapping[str, str], log: Path) -> Iterator[int]:
    """Serve a Flask application with so many processes; yield its port."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=256)) as listening:
        port: int = listening.getsockname()[1]
        command = [
            *(sys.executable, "-m", "gunicorn", "--bind", f"fd://{listening.fileno()}", "--workers", str(workers)),
            *("--log-level", "warning", "--graceful-timeout", "2", "--chdir", str(HERE), app),
        ]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, **settings},
                pass_fds=[listening.fileno()],
                start_new_session=True,
                stdout=output,
                stderr=output,
            )
    try:
        _wait_for(port, process, log)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        _end(process)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + START_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=START_S) as line:
                line.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
                if line.recv(64).split(b" ")[1:2] == [b"200"]:
                    return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > give_up_at:
            tail: IO[str] | str = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise BenchError(f"the application does not start:\n{tail}")
        time.sleep(0.1)


def _end(process: subprocess.Popen[Any]) -> None:
    try:
        process.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
