"""The seed's application, modernised: users, their views, an update, listings by number of views, init_db.

Nothing here knows of the cache but the two lines that make it and the mixin in ``models.py``; ``watching.py`` only shows
what it does.
"""

from __future__ import annotations

from flask import Flask, abort, flash, redirect, render_template, url_for
from models import User, db, init_db
from sqlalchemy import func, select
from watching import dropped_by_this_request, watch
from werkzeug.wrappers import Response

from querycache.flask import QueryCache

PER_PAGE = 25

cache = QueryCache(db=db)


def create_app() -> Flask:
    """Make the application; gunicorn's workers call this. Configured by ``FLASK_*`` variables of the environment."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    app.secret_key = app.secret_key or "only for messages between two pages of an example"
    db.init_app(app)
    cache.init_app(app)
    watch(app, db, cache)
    add_pages(app)
    return app


def add_pages(app: Flask) -> None:
    """Add the pages."""
    app.add_url_rule("/", view_func=all_users)
    app.add_url_rule("/<int:user_id>/", view_func=view_user)
    app.add_url_rule("/views/<int:views>/", view_func=users_with_views)
    app.add_url_rule("/update/<int:user_id>/", view_func=update_user, methods=["POST"])
    app.add_url_rule("/init_db/", view_func=begin_anew, methods=["POST"])


def all_users() -> str:
    # Any read through the session is served from the cache ...
    users = db.session.scalars(select(User).order_by(User.id).limit(PER_PAGE)).all()
    return render_template("users.html", title="Users", users=users, summary=users_by_views(), views=None)


def users_with_views(views: int) -> str:
    # ... and the seed's way caches the list of keys and each row on its own: a changed row costs one row.
    users = list(User.cache.filter(order_by="username", limit=PER_PAGE, views=views))
    title = f"Users with {views} view{'' if views == 1 else 's'}"
    return render_template("users.html", title=title, users=users, summary=users_by_views(), views=views)


def view_user(user_id: int) -> str:
    user = User.cache.get(user_id) or abort(404)
    return render_template("user.html", title=user.username, user=user)


def update_user(user_id: int) -> Response:
    user = User.cache.get(user_id) or abort(404)
    user.views += 1
    db.session.commit()
    flash(
        f"Counted a view of {user.username}. Ended in the cache: {', '.join(dropped_by_this_request()) or 'nothing'}."
    )
    return redirect(url_for("view_user", user_id=user_id), code=303)


def begin_anew() -> Response:
    init_db()
    flash("The database was filled anew. Ended in the cache: everything about users.")
    return redirect(url_for("all_users"), code=303)


def users_by_views() -> list[tuple[int, int]]:
    """Count the users by number of views: a plain statement, cached like any other of a cacheable model."""
    statement = select(User.views, func.count()).group_by(User.views).order_by(User.views)
    return [(views, users) for views, users in db.session.execute(statement)]
