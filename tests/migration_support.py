"""Alembic migrations for tests: scripts in a folder, run by this process or, as a program, by another one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine

from querycache import QueryCache

_ENVIRONMENT = """
from alembic import context

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
_REVISION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = {revision!r}, {down!r}


def upgrade():
{body}
"""


def write_scripts(folder: Path, upgrades: Sequence[str]) -> None:
    """Write an environment with one revision, named "1" and so on, for each body of an ``upgrade`` function."""
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(_ENVIRONMENT)
    for number, body in enumerate(upgrades, 1):
        indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
        down = str(number - 1) if number > 1 else None
        script = _REVISION.format(revision=str(number), down=down, body=indented)
        (folder / "versions" / f"{number}.py").write_text(script)


def upgrade(folder: Path, engine: Engine, revision: str = "head") -> None:
    """Bring a database up to a revision, as ``alembic upgrade`` does."""
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    config.attributes["engine"] = engine
    command.upgrade(config, revision)


def upgrade_elsewhere(folder: Path, url: str, store_url: str) -> None:
    """Do so in another process that shares the store."""
    subprocess.run([sys.executable, __file__, str(folder), url, store_url], check=True, timeout=120)


if __name__ == "__main__":
    engine = create_engine(sys.argv[2])
    with QueryCache(sys.argv[3]) as cache:
        cache.attach(engine)
        upgrade(Path(sys.argv[1]), engine)
    engine.dispose()
