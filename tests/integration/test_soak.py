"""Four gunicorn workers, killed one after the other, never answer with less than was known before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).resolve().parent.parent / "soak" / "soak.py"


def test_no_answer_falls_behind_while_workers_are_killed() -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), "--seconds", "8"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 violations" in done.stdout
