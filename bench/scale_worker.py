"""One of many processes that are served from the same store: so many seconds of gets for each order, a line each.

python scale_worker.py DATABASE_URL STORE_URL
"""

from __future__ import annotations

import json
import logging
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from caches import attached
from rows import Product
from sqlalchemy.orm import Session

ROWS = 100


def main(database_url: str, store_url: str) -> None:
    """Answer each order with the number of hits."""
    logging.getLogger("querycache").setLevel(logging.ERROR)
    dice = random.Random()
    with attached(database_url, store_url) as there:
        for line in sys.stdin:
            until, before = time.monotonic() + json.loads(line)["seconds"], there.count("hit")
            while time.monotonic() < until:
                with Session(there.engine) as session:
                    session.get(Product, dice.randint(1, ROWS))
            print(there.count("hit") - before, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
