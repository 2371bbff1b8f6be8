"""How do peers of another framework get an environment of their own? Made at first use, beside the benchmark, and kept."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rounds import BenchError

FOLDER: Final = Path(__file__).resolve().parent.parent / ".environments"
DJANGO: Final = (
    "Django>=5.2,<6",
    "django-cacheops>=7.2",
    "django-cachalot>=2.9",
    "psycopg[binary]>=3.2.2",
    "redis>=5.1",
)


def python_of(name: str, packages: Sequence[str]) -> Path:
    """Return the Python of an environment with these packages, made where there is none.

    Raises ``BenchError`` where they cannot be installed.
    """
    folder = FOLDER / f"{name}-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:8]}"
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.exists():
        return python
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchError(f"{name}: its environment cannot be made:\n{done.stderr.strip()}")
    stamp.touch()
    return python
