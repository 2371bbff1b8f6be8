"""The pages of the auction site: one Flask application for each worker, set by AUCTION_* variables.

Each answer tells the client what it shows the state of (``X-Seen``), and what its worker has asked so far (``X-Asked``:
process, statements, reads, hits).
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, make_response, render_template, request

from auction.variants import Site, site_of


def create_app() -> Flask:
    """Make the application of one worker."""
    app = Flask(__name__)
    site = site_of(os.environ["AUCTION_VARIANT"], os.environ["AUCTION_DATABASE"], os.environ["AUCTION_STORE"])

    def answer(body: str, seen: dict[str, int]) -> Response:
        response = make_response(body)
        response.headers["X-Seen"] = " ".join(f"{name}={number}" for name, number in seen.items())
        response.headers["X-Asked"] = " ".join(map(str, (os.getpid(), *site.counted())))
        return response

    def page(template: str, name: str, *args: Any) -> Response:
        shown = site.read(name, *args)
        return answer(render_template(template, **shown), shown["seen"])

    _add_pages(app, page)
    _add_forms(app, site, answer)
    return app


def _add_pages(app: Flask, page: Any) -> None:
    @app.get("/")
    def home() -> Response:
        found: Response = page("home.html", "home")
        return found

    @app.get("/browse/<int:category_id>")
    def browse(category_id: int) -> Response:
        found: Response = page("items.html", "browse", category_id, request.args.get("page", 0, type=int))
        return found

    @app.get("/search")
    def search() -> Response:
        found: Response = page("items.html", "search", request.args["word"])
        return found

    @app.get("/item/<int:item_id>")
    def item(item_id: int) -> Response:
        found: Response = page("item.html", "item", item_id)
        return found

    @app.get("/user/<int:user_id>")
    def user(user_id: int) -> Response:
        found: Response = page("user.html", "user", user_id)
        return found


def _add_forms(app: Flask, site: Site, answer: Any) -> None:
    def done(name: str, *args: Any) -> Response:
        found: Response = answer(render_template("done.html", what=name), site.write(name, *args))
        return found

    @app.post("/bid")
    def bid() -> Response:
        return done("bid", request.form.get("item", type=int), request.form.get("user", type=int))

    @app.post("/sell")
    def sell() -> Response:
        form = request.form
        return done("sell", form.get("category", type=int), form.get("user", type=int), form["name"])

    @app.post("/comment")
    def comment() -> Response:
        form = request.form
        about, author = form.get("about", type=int), form.get("user", type=int)
        return done("comment", about, author, form.get("rating", type=int))
