"""The extension in real applications: both database extensions, several applications, binds, configuration, commands, fork."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy_lite import SQLAlchemy as Lite
from sqlalchemy import String, event, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from querycache import ConfigurationError, Event, NotAttachedError, Region, StoreUnavailable, adoption
from querycache.flask import QueryCache
from querycache.session import attachment_of


@dataclass
class Shop:
    """An application with two databases: products in one, log lines in the other."""

    app: Flask
    db: Any
    cache: QueryCache
    models: dict[str, type[Any]]
    selects: list[str] = field(default_factory=list)

    @property
    def Product(self) -> type[Any]:
        return self.models["Product"]

    @property
    def Log(self) -> type[Any]:
        return self.models["Log"]

    def fill(self) -> Shop:
        """Create the tables and two rows, and begin to count SELECTs."""
        with self.app.app_context():
            engines = {model.metadata: self.engine_of(model) for model in self.models.values()}
            for metadata, engine in engines.items():
                metadata.create_all(engine)
                event.listen(engine, "before_cursor_execute", self._note)
            self.write(self.Product(id=1, name="cup"), self.Log(id=1, name="began"))
        return self

    def engine_of(self, model: type[Any]) -> Any:
        return self.db.session.get_bind(mapper=model.__mapper__)

    def write(self, *rows: Any) -> None:
        with self.app.app_context():
            self.db.session.add_all(rows)
            self.db.session.commit()

    def rename(self, model: type[Any], key: int, name: str) -> None:
        with self.app.app_context():
            self.db.session.get(model, key).name = name
            self.db.session.commit()

    def name_of(self, model: type[Any], key: int = 1) -> str | None:
        """Read in a request of its own."""
        with self.app.app_context():
            row = self.db.session.get(model, key)
            return None if row is None else row.name

    def selects_of(self, work: Callable[[], Any]) -> int:
        before = len(self.selects)
        work()
        return len(self.selects) - before

    def run(self, *arguments: str) -> Result:
        return self.app.test_cli_runner().invoke(args=["querycache", *arguments])

    def _note(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            self.selects.append(statement)


def new_app(place: Path, name: str = "shop", **config: Any) -> Flask:
    app = Flask(name, root_path=str(place))
    default, log = f"sqlite:///{place}/{name}.db", f"sqlite:///{place}/{name}-log.db"
    app.config.update(
        SQLALCHEMY_DATABASE_URI=default,
        SQLALCHEMY_BINDS={"log": log},
        SQLALCHEMY_ENGINES={"default": default, "log": log},
        QUERYCACHE_URL=f"lmdb://{place}/cache",
    )
    app.config.update(config)
    return app


def flask_sqlalchemy_db() -> tuple[Any, dict[str, type[Any]]]:
    class Base(DeclarativeBase):
        pass

    db = SQLAlchemy(model_class=Base)

    class Product(db.Model):  # type: ignore[name-defined, misc]
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String(50))

    class Log(db.Model):  # type: ignore[name-defined, misc]
        __bind_key__ = "log"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String(50))

    return db, {"Product": Product, "Log": Log}


def lite_db() -> tuple[Any, dict[str, type[Any]]]:
    class Base(DeclarativeBase):
        pass

    class LogBase(DeclarativeBase):
        pass

    class Product(Base):
        __tablename__ = "product"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String(50))

    class Log(LogBase):
        __tablename__ = "log"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String(50))

    return Lite(session_options={"binds": {LogBase: "log"}}), {"Product": Product, "Log": Log}


MAKERS = {"flask-sqlalchemy": flask_sqlalchemy_db, "flask-sqlalchemy-lite": lite_db}


@pytest.fixture
def opened() -> Iterator[list[Shop]]:
    """Collect applications whose engines and stores are closed when the test ends."""
    shops: list[Shop] = []
    yield shops
    for shop in shops:
        with shop.app.app_context():
            for engine in shop.db.engines.values():
                engine.dispose()
        if "querycache" in shop.app.extensions:
            shop.app.extensions["querycache"].close()


@pytest.fixture(params=MAKERS)
def shop(request: pytest.FixtureRequest, tmp_path: Path, opened: list[Shop]) -> Shop:
    """A filled application, with each of the two database extensions."""
    db, models = MAKERS[request.param]()
    return start(opened, new_app(tmp_path), db, models).fill()


@pytest.fixture
def plain(tmp_path: Path, opened: list[Shop]) -> Callable[..., Shop]:
    """Make a filled application of Flask-SQLAlchemy with a configuration."""

    def make(**config: Any) -> Shop:
        db, models = flask_sqlalchemy_db()
        return start(opened, new_app(tmp_path, "shop", **config), db, models).fill()

    return make


def start(
    opened: list[Shop], app: Flask, db: Any, models: dict[str, type[Any]], cache: QueryCache | None = None
) -> Shop:
    db.init_app(app)
    if cache is None:
        cache = QueryCache(app, db, models=models.values())
    else:
        cache.init_app(app, db)
    opened.append(Shop(app, db, cache, models))
    return opened[-1]


# -- reads and writes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["Product", "Log"])
def test_a_second_request_costs_no_select_on_any_bind(shop: Shop, model: str) -> None:
    shop.name_of(shop.models[model])

    assert shop.selects_of(lambda: shop.name_of(shop.models[model])) == 0


@pytest.mark.parametrize("model", ["Product", "Log"])
def test_a_commit_is_seen_by_the_next_request_on_any_bind(shop: Shop, model: str) -> None:
    shop.name_of(shop.models[model])
    shop.rename(shop.models[model], 1, "bowl")

    assert shop.name_of(shop.models[model]) == "bowl"


def test_a_write_on_one_bind_leaves_the_other_cached(shop: Shop) -> None:
    shop.name_of(shop.Product)
    shop.rename(shop.Log, 1, "ended")

    assert shop.selects_of(lambda: shop.name_of(shop.Product)) == 0


def test_init_app_connects_to_nothing(tmp_path: Path, opened: list[Shop]) -> None:
    db, models = flask_sqlalchemy_db()
    start(opened, new_app(tmp_path), db, models)

    assert not (tmp_path / "shop.db").exists()


def test_a_commit_through_an_async_engine_is_seen(postgresql_url: str, tmp_path: Path, opened: list[Shop]) -> None:
    db, models = lite_db()
    engines = {"default": postgresql_url, "log": postgresql_url}
    config = {"SQLALCHEMY_ENGINES": engines, "SQLALCHEMY_ASYNC_ENGINES": {"default": postgresql_url}}
    shop = start(opened, new_app(tmp_path, "shop", **config), db, models).fill()
    shop.name_of(shop.Product)

    async def rename() -> None:
        engine = db.async_engine
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE product SET name = 'bowl'"))
        await engine.dispose()

    with shop.app.app_context():
        asyncio.run(rename())

    assert shop.name_of(shop.Product) == "bowl"


# -- several applications --------------------------------------------------------------------------------------------


def test_each_application_of_one_extension_object_has_its_own_cache(tmp_path: Path, opened: list[Shop]) -> None:
    db, models = flask_sqlalchemy_db()
    cache = QueryCache(db=db, models=models.values())
    one = start(opened, new_app(tmp_path, "one"), db, models, cache).fill()
    two = start(opened, new_app(tmp_path, "two"), db, models, cache).fill()
    one.name_of(one.Product)

    with one.app.app_context():
        assert cache.stats()["counts"]["miss"] == 1
    with two.app.app_context():
        assert "miss" not in cache.stats()["counts"]


def test_applications_that_share_a_database_and_memory_hear_each_other(tmp_path: Path, opened: list[Shop]) -> None:
    db, models = flask_sqlalchemy_db()
    cache = QueryCache(db=db, models=models.values())
    config = {"QUERYCACHE_URL": "memory://"}
    one = start(opened, new_app(tmp_path, "shop", **config), db, models, cache).fill()
    two = start(opened, new_app(tmp_path, "shop", **config), db, models, cache)
    two.name_of(two.Product)
    one.rename(one.Product, 1, "bowl")

    assert two.name_of(two.Product) == "bowl"


def test_with_several_applications_a_call_outside_of_a_context_is_an_error(tmp_path: Path, opened: list[Shop]) -> None:
    db, models = flask_sqlalchemy_db()
    cache = QueryCache(db=db)
    for name in ("one", "two"):
        start(opened, new_app(tmp_path, name), db, models, cache)

    with pytest.raises(NotAttachedError, match=r"app\.app_context\(\)"):
        cache.stats()


def test_with_one_application_no_context_is_needed(shop: Shop) -> None:
    happened: list[Event] = []
    shop.cache.subscribe(happened.append)
    shop.name_of(shop.Product)

    assert [one.kind for one in happened] == ["miss", "fill"]


def test_an_application_without_the_extension_is_an_error(shop: Shop, tmp_path: Path) -> None:
    with new_app(tmp_path, "other").app_context(), pytest.raises(NotAttachedError, match=r"'other'.*init_app\(app\)"):
        shop.cache.stats()


def test_invalidate_makes_the_next_read_a_select(shop: Shop) -> None:
    shop.name_of(shop.Product)
    shop.cache.invalidate(shop.Product)

    assert shop.selects_of(lambda: shop.name_of(shop.Product)) == 1


@pytest.mark.parametrize("model", ["Product", "Log"])
def test_explain_finds_the_bind_of_a_model(shop: Shop, model: str) -> None:
    with shop.app.app_context():
        explained = shop.cache.explain(select(shop.models[model]))

    assert [table.table for table in explained.tables] == [f"main.{model.lower()}"]


# -- configuration ---------------------------------------------------------------------------------------------------

BAD_SETTINGS = [
    ("QUERYCACHE_ENABLED", "False", "True or False"),
    ("QUERYCACHE_OLD_IMAGES", 1, "True or False"),
    ("QUERYCACHE_ON_MARK_FAILURE", "ignore", '"raise", "continue"'),
    ("QUERYCACHE_ON_SNAPSHOT_MOVED", True, '"raise", "continue"'),
    ("QUERYCACHE_TAG_COLUMNS", {"product": "name"}, '{"product": ["category_id", '),
    ("QUERYCACHE_VIEWS", {"active": "product"}, '{"active_product": ["product"]}'),
    ("QUERYCACHE_VIEWS", ["product"], '{"active_product": ["product"]}'),
    ("QUERYCACHE_FUNCTIONS", "slugify", '{"price_of": ["product"]}'),
    ("QUERYCACHE_TTL", 0, "at most 86400"),
    ("QUERYCACHE_TTL", 86401, "at most 86400"),
    ("QUERYCACHE_TTL", True, "at most 86400"),
    ("QUERYCACHE_TTL", "60", "at most 86400"),
    ("QUERYCACHE_URL", None, "the URL of a store"),
    ("QUERYCACHE_URL", "", "the URL of a store"),
]


@pytest.mark.parametrize(("key", "value", "remedy"), BAD_SETTINGS)
def test_a_bad_value_is_an_error_that_names_key_value_and_remedy(
    tmp_path: Path, key: str, value: object, remedy: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        start([], new_app(tmp_path, "shop", **{key: value}), *flask_sqlalchemy_db())

    assert all(part in str(raised.value) for part in (key, repr(value), remedy))


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("QUERYCACHE_URI", "Did you mean QUERYCACHE_URL?"),
        ("QUERYCACHE_MODELS", "CacheableMixin"),
        ("QUERYCACHE_RUNTIME_DIR", "environment"),
        ("QUERYCACHE_X", "Known are QUERYCACHE_ENABLED"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_it_and_the_remedy(tmp_path: Path, key: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        start([], new_app(tmp_path, "shop", **{key: "x"}), *flask_sqlalchemy_db())

    assert key in str(raised.value)
    assert remedy in str(raised.value)


def test_a_url_that_names_no_store_is_an_error_that_names_the_key_and_the_url(tmp_path: Path) -> None:
    app = new_app(tmp_path, QUERYCACHE_URL="redis://cache:secret@host?size=1GB")

    with pytest.raises(ConfigurationError, match=r"QUERYCACHE_URL: redis://.*host") as raised:
        start([], app, *flask_sqlalchemy_db())

    assert "secret" not in str(raised.value)


def test_a_store_that_cannot_be_opened_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    app = new_app(tmp_path, QUERYCACHE_URL=f"lmdb://{tmp_path}/file/cache")

    with pytest.raises(StoreUnavailable, match="QUERYCACHE_URL: lmdb://"):
        start([], app, *flask_sqlalchemy_db())


def test_init_app_before_the_database_is_an_error_that_names_the_order(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"call db\.init_app\(app\) first"):
        QueryCache(db=flask_sqlalchemy_db()[0]).init_app(new_app(tmp_path))


def test_another_database_than_the_applications_is_an_error(tmp_path: Path, opened: list[Shop]) -> None:
    shop = start(opened, new_app(tmp_path), *flask_sqlalchemy_db(), cache=QueryCache())
    del shop.app.extensions["querycache"]

    with pytest.raises(ConfigurationError, match="another db"):
        QueryCache(shop.app, flask_sqlalchemy_db()[0])


def test_a_db_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"neither Flask-SQLAlchemy's nor Flask-SQLAlchemy-Lite's"):
        QueryCache(new_app(tmp_path), "db")  # type: ignore[arg-type]


def test_a_second_init_app_is_an_error(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="'shop' has a QueryCache already"):
        shop.cache.init_app(shop.app)


def test_an_unknown_argument_is_an_error_before_there_is_an_application() -> None:
    with pytest.raises(TypeError, match="no argument 'url'"):
        QueryCache(url="memory://")  # type: ignore[call-arg]


def test_the_applications_keys_win_over_what_the_code_says(tmp_path: Path, opened: list[Shop]) -> None:
    db, models = flask_sqlalchemy_db()
    cache = QueryCache(db=db, store="memory://", ttl=50, models=models.values())
    shop = start(opened, new_app(tmp_path, QUERYCACHE_TTL=20), db, models, cache).fill()

    with shop.app.app_context():
        explained = cache.explain(select(models["Product"]))

    assert (explained.ttl, explained.store) == (20, f"lmdb://{tmp_path}/cache")


def test_what_the_code_says_holds_where_the_configuration_is_silent(tmp_path: Path, opened: list[Shop]) -> None:
    db, models = flask_sqlalchemy_db()
    app = new_app(tmp_path)
    del app.config["QUERYCACHE_URL"]
    shop = start(opened, app, db, models, QueryCache(store="memory://", models=models.values())).fill()

    assert [store["scope"] for store in shop.cache.stats()["stores"]] == ["threads"]


def test_a_region_that_names_the_same_url_shares_the_store(tmp_path: Path, opened: list[Shop]) -> None:
    cache = QueryCache(regions={"quick": Region("memory://", ttl=5)})
    shop = start(opened, new_app(tmp_path, QUERYCACHE_URL="memory://"), *flask_sqlalchemy_db(), cache=cache)

    assert len(shop.cache.stats()["stores"]) == 1


# -- off -------------------------------------------------------------------------------------------------------------


def test_a_disabled_cache_sends_every_read_to_the_database(plain: Callable[..., Shop]) -> None:
    shop = plain(QUERYCACHE_ENABLED=False)
    shop.name_of(shop.Product)

    assert shop.selects_of(lambda: shop.name_of(shop.Product)) == 1


def test_a_disabled_cache_listens_to_no_engine_and_opens_no_store(plain: Callable[..., Shop], tmp_path: Path) -> None:
    shop = plain(QUERYCACHE_ENABLED=False)

    assert shop.cache.current.engines == []
    assert not (tmp_path / "cache").exists()


def test_a_disabled_cache_keeps_models_from_attaching_its_engines(plain: Callable[..., Shop]) -> None:
    shop = plain(QUERYCACHE_ENABLED=False)
    adoption.declare(shop.Product, {"default": "memory://"})
    try:
        shop.name_of(shop.Product)
        with shop.app.app_context():
            assert [attachment_of(shop.engine_of(model)) for model in shop.models.values()] == [None, None]
    finally:
        del adoption._MODELS[shop.Product]


def test_a_disabled_cache_takes_every_call(plain: Callable[..., Shop]) -> None:
    shop = plain(QUERYCACHE_ENABLED=False)
    shop.cache.invalidate(shop.Product)
    shop.cache.invalidate_all()
    shop.cache.invalidate_named("default", "name")
    shop.cache.clear()

    assert shop.cache.explain(select(shop.Product)).reason == "QUERYCACHE_ENABLED is False"


# -- commands --------------------------------------------------------------------------------------------------------


def test_stats_shows_store_databases_models_and_promise(shop: Shop) -> None:
    shop.name_of(shop.Product)
    told = json.loads(shop.run("stats", "--json").output)

    assert told["stores"][0]["entries"] == 1
    assert len(told["databases"]) == 2
    assert [(one["tables"], one["surveys"] > 0) for one in told["catalogs"]] == [(1, True), (1, True)]
    # Every model of the process that declared itself is cacheable, the other tests' too.
    assert {"Log", "Product"} <= set(told["models"])
    assert "processes of one machine" in told["guarantee"]


def test_stats_can_be_read_by_a_person(shop: Shop) -> None:
    lines = shop.run("stats").output.splitlines()

    assert [line.split()[0] for line in lines if line][:4] == ["store", "entries", "size", "marks"]
    assert sum(line.startswith("catalog") for line in lines) == 2


def test_stats_of_a_disabled_cache_says_so(plain: Callable[..., Shop]) -> None:
    assert "QUERYCACHE_ENABLED is False" in plain(QUERYCACHE_ENABLED=False).run("stats").output


@pytest.mark.parametrize("model", ["Product", "Log"])
def test_explain_get_tells_whether_the_row_is_in_the_store(shop: Shop, model: str) -> None:
    before = json.loads(shop.run("explain", model, "--get", "1", "--json").output)
    shop.name_of(shop.models[model])
    after = json.loads(shop.run("explain", model, "--get", "1", "--json").output)

    assert (before["present"], after["present"]) == (False, True)


def test_explain_where_tells_how_a_list_is_narrowed(shop: Shop) -> None:
    told = json.loads(shop.run("explain", "Product", "--where", "id=1", "--json").output)

    assert told["tables"][0]["narrowed_by"] == "its primary key"


def test_explain_runs_no_statement(shop: Shop) -> None:
    shop.name_of(shop.Product)

    assert shop.selects_of(lambda: shop.run("explain", "Product", "--get", "1")) == 0


def test_explain_takes_the_path_of_a_function_that_gives_a_statement(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = type(sys)("shop_queries")
    queries.products = lambda: select(shop.Product)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop_queries", queries)

    assert shop.run("explain", "shop_queries:products").output.startswith("cached for 3600 s")


def test_invalidate_with_a_key_drops_that_row_and_no_other(shop: Shop) -> None:
    shop.write(shop.Product(id=2, name="jug"))
    for key in (1, 2):
        shop.name_of(shop.Product, key)

    assert shop.run("invalidate", "Product", "1").output == "Dropped what depends on Product 1.\n"
    assert shop.selects_of(lambda: shop.name_of(shop.Product, 2)) == 0
    assert shop.selects_of(lambda: shop.name_of(shop.Product, 1)) == 1


@pytest.mark.parametrize("arguments", [("invalidate", "Product"), ("invalidate", "--all"), ("clear", "--yes")])
def test_a_command_that_drops_makes_the_next_read_a_select(shop: Shop, arguments: tuple[str, ...]) -> None:
    shop.name_of(shop.Product)

    assert shop.run(*arguments).exit_code == 0
    assert shop.selects_of(lambda: shop.name_of(shop.Product)) == 1


def test_clear_asks_before_it_empties_a_store(shop: Shop) -> None:
    shop.name_of(shop.Product)

    assert shop.run("clear").exit_code == 1
    assert shop.selects_of(lambda: shop.name_of(shop.Product)) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("explain", "Produkt"), "there is no model 'Produkt'. Known are: "),
        (("explain", "nowhere:statement"), "nowhere:statement cannot be found"),
        (("explain", "json:dumps"), "json:dumps cannot be called without arguments"),
        (("explain", "json:decoder"), "json:decoder gives no select()"),
        (("explain", "Product", "--get", "x"), "'x' is not a value for product.id, which holds int"),
        (("explain", "Product", "--get", "1", "--where", "id=1"), "not both"),
        (("explain", "Product", "--where", "price=1"), "with a column of Product: id, name"),
        (("invalidate",), "give a MODEL, or --all"),
        (("invalidate", "Product", "--all"), "give a MODEL, or --all"),
        (("invalidate", "Product", "1,x"), "'1,x' is not a value for product.id"),
    ],
)
def test_a_wrong_call_ends_with_2_and_a_sentence(shop: Shop, arguments: tuple[str, ...], sentence: str) -> None:
    ended = shop.run(*arguments)

    assert ended.exit_code == 2
    assert sentence in ended.output


@pytest.mark.parametrize("arguments", [("invalidate", "Product"), ("clear", "--yes")])
def test_dropping_from_memory_that_no_server_shares_ends_with_1(
    plain: Callable[..., Shop], arguments: tuple[str, ...]
) -> None:
    ended = plain(QUERYCACHE_URL="memory://").run(*arguments)

    assert ended.exit_code == 1
    assert "lives in each process" in ended.output


def test_a_database_that_cannot_be_asked_ends_with_1(tmp_path: Path, opened: list[Shop]) -> None:
    nowhere = f"sqlite:///{tmp_path}/missing/shop.db"
    db, models = flask_sqlalchemy_db()
    shop = start(opened, new_app(tmp_path, SQLALCHEMY_DATABASE_URI=nowhere), db, models)
    ended = shop.run("invalidate", "Product")

    assert ended.exit_code == 1
    assert "the database could not be asked" in ended.output


# -- processes -------------------------------------------------------------------------------------------------------

FORKING = """
    import os
    from flask import Flask
    from flask_sqlalchemy import SQLAlchemy
    from sqlalchemy import event
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
    from querycache.flask import QueryCache

    class Base(DeclarativeBase):
        pass

    app = Flask("forking")
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite:///{place}/shop.db", QUERYCACHE_URL="lmdb://{place}/cache")
    db = SQLAlchemy(app, model_class=Base)

    class Product(db.Model):
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    cache = QueryCache(app, db, models=[Product])

    def name():
        with app.app_context():
            return db.session.get(Product, 1).name

    with app.app_context():
        db.create_all()
        db.session.add(Product(id=1, name="cup"))
        db.session.commit()
    assert name() == "cup"
    with app.app_context():
        db.engine.dispose()

    child = os.fork()
    if child == 0:
        code = 1
        try:
            before = cache.stats()["counts"].get("hit", 0)
            assert name() == "cup"
            assert cache.stats()["counts"]["hit"] == before + 1, "the child is not served what the parent stored"
            with app.app_context():
                db.session.get(Product, 1).name = "bowl"
                db.session.commit()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert name() == "bowl", "the parent does not see what the child committed"
"""


def test_a_forked_worker_shares_the_cache_with_its_parent(tmp_path: Path) -> None:
    script = textwrap.dedent(FORKING).replace("{place}", str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr
