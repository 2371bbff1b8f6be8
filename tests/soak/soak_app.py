"""The application that the soak test hammers: items with a version that only grows, read through the cache."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, jsonify
from sqlalchemy import Engine, create_engine, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from querycache import Event, QueryCache

BUCKETS = 8


class Base(DeclarativeBase):
    """The soak test's own tables."""


class Item(Base):
    """A row whose version grows with each write, and which moves from bucket to bucket."""

    __tablename__ = "soak_item"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    bucket: Mapped[int] = mapped_column(index=True)
    version: Mapped[int]


def create_app() -> Flask:
    """Make the application of one worker, from SOAK_DATABASE and SOAK_STORE."""
    app = Flask(__name__)
    engine = create_engine(os.environ["SOAK_DATABASE"], pool_size=4)
    cache = QueryCache(os.environ["SOAK_STORE"], models=[Item])
    cache.attach(engine)
    _add_routes(app, engine, cache)
    return app


def _add_routes(app: Flask, engine: Engine, cache: QueryCache) -> None:
    def read(statement: Any) -> Response:
        counts = {"hit": 0, "miss": 0}

        def count(event: Event) -> None:
            if event.kind in counts:
                counts[event.kind] += 1

        unsubscribe = cache.subscribe(count)
        try:
            with Session(engine) as session:
                rows = [(item.id, item.version) for item in session.scalars(statement)]
        finally:
            unsubscribe()
        response = jsonify(rows)
        response.headers["X-Hit"] = str(int(counts["hit"] > 0 and counts["miss"] == 0))
        return response

    @app.get("/item/<int:key>")
    def item(key: int) -> Response:
        return read(select(Item).where(Item.id == key))

    @app.get("/bucket/<int:bucket>")
    def bucket(bucket: int) -> Response:
        return read(select(Item).where(Item.bucket == bucket).order_by(Item.id))

    @app.post("/bump/<int:key>/<way>")
    def bump(key: int, way: str) -> Response:
        with Session(engine) as session:
            found = session.get_one(Item, key, with_for_update=True, populate_existing=True)
            version, bucket = found.version + 1, (found.bucket + version_step(found.version)) % BUCKETS
            if way == "flush":
                found.version, found.bucket = version, bucket
            elif way == "core":
                session.execute(update(Item).where(Item.id == key).values(version=version, bucket=bucket))
            else:
                session.execute(
                    text("UPDATE soak_item SET version = :version, bucket = :bucket WHERE id = :id"),
                    {"version": version, "bucket": bucket, "id": key},
                )
            session.commit()
        return jsonify(version)


def version_step(version: int) -> int:
    """Move to another bucket with every third version."""
    return 1 if version % 3 == 0 else 0
