"""django-cacheops or django-cachalot, in an environment of their own: a cached query set against Django's without a cache.

    python django_program.py cacheops|cachalot HOST PORT USER DATABASE REDIS_PORT

Knows nothing of SQLAlchemy. The rows are those of the benchmark's tables.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from typing import Any

import django
from django.conf import settings

IN_A_ROW = 3  # as in rounds.py

PEER, HOST, PORT, USER, DATABASE, REDIS_PORT = sys.argv[1:]
REDIS = f"redis://127.0.0.1:{REDIS_PORT}/{2 if PEER == 'cacheops' else 3}"
POSTGRESQL = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": HOST,
    "PORT": PORT,
    "USER": USER,
    "NAME": DATABASE,
    "CONN_MAX_AGE": None,
}

settings.configure(
    INSTALLED_APPS=[PEER],
    DATABASES={"default": POSTGRESQL, "plain": POSTGRESQL},
    CACHES={"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS}},
    CACHALOT_DATABASES=["default"],
    CACHALOT_UNCACHABLE_TABLES=frozenset({"django_migrations"}),
    CACHEOPS_REDIS=REDIS,
    CACHEOPS={"cacheops.cached": {"ops": "all", "timeout": 3600}},
    USE_TZ=True,
)
django.setup()

from django.db import connections, models  # noqa: E402 - Django has to be set up first
from django.test.utils import CaptureQueriesContext  # noqa: E402


class _Row(models.Model):
    id = models.IntegerField(primary_key=True)
    category_id = models.IntegerField()
    name = models.TextField()
    description = models.TextField()
    price = models.FloatField()
    stock = models.IntegerField()
    active = models.BooleanField()
    position = models.IntegerField()

    class Meta:
        abstract = True


class Cached(_Row):
    """The rows as the peer sees them."""

    class Meta:
        app_label = PEER  # an application that is installed
        db_table = "bench_product"
        managed = False


class Plain(_Row):
    """The same rows, of which the peer knows nothing."""

    class Meta:
        app_label = PEER  # an application that is installed
        db_table = "bench_product"
        managed = False


if PEER == "cacheops":
    from cacheops import install_cacheops

    install_cacheops()

READS: dict[str, Any] = {
    "get": lambda rows: rows.get(pk=1),
    **{
        f"select-{count}": lambda rows, count=count: list(rows.filter(id__lte=count).order_by("id"))
        for count in (1, 10, 100, 1000)
    },
    "count": lambda rows: rows.count(),
}


def _rows(cached: bool) -> Any:
    if PEER == "cacheops":
        return Cached.objects.all() if cached else Plain.objects.all()
    return Cached.objects.using("default" if cached else "plain")


def _answer(order: dict[str, Any]) -> Any:
    if order["do"] == "cases":
        return [case for case in READS if _is_served(case)]
    if order["do"] == "stale":
        return {change: _is_stale(change, value) for value, change in enumerate(("flush", "bulk"), 101)}
    times: dict[str, list[float]] = {"cached": [], "uncached": []}
    turns, dice = [("cached", True), ("uncached", False)], random.Random(5)
    for number in range(-5, order["rounds"]):
        dice.shuffle(turns)
        for name, cached in turns:
            took = statistics.median(_timed(order["case"], cached) for _ in range(IN_A_ROW))
            if number >= 0:
                times[name].append(took)
    return times


def _timed(case: str, cached: bool) -> float:
    start = time.perf_counter()
    READS[case](_rows(cached))
    return time.perf_counter() - start


def _is_served(case: str) -> bool:
    """Tell whether a second read of a case sends no statement."""
    READS[case](_rows(True))
    with CaptureQueriesContext(connections["default"]) as sent:
        READS[case](_rows(True))
    return not sent.captured_queries


def _is_stale(change: str, value: int) -> bool:
    def shown() -> list[int]:
        rows = _rows(True)
        return [READS["get"](rows).stock, READS["select-10"](rows)[0].stock]

    shown()
    if change == "flush":
        row = Cached.objects.get(pk=1)
        row.stock = value
        row.save()
    else:
        Cached.objects.filter(pk=1).update(stock=value)
    return any(stock != value for stock in shown())


for line in sys.stdin:
    print(json.dumps(_answer(json.loads(line))), flush=True)
