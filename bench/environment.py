"""On which machine, and of which versions, was it measured?"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

_PACKAGES: Final = ("SQLAlchemy", "psycopg", "redis", "hiredis", "lmdb", "msgspec", "Flask", "gunicorn")


def machine() -> dict[str, Any]:
    """Say what it was measured on."""
    return {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()}


def versions() -> dict[str, str]:
    """Say what was measured."""
    return {"python": platform.python_version(), **dict(filter(None, map(_version_of, _PACKAGES)))}


def _version_of(package: str) -> tuple[str, str] | None:
    try:
        return package.lower(), version(package)
    except PackageNotFoundError:
        return None
