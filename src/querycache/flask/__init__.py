"""How does a Flask application switch the cache on?

``QueryCache(app, db)`` or ``init_app``, configured by ``QUERYCACHE_*`` keys, with the commands of ``flask querycache``.
Works with Flask-SQLAlchemy and with Flask-SQLAlchemy-Lite, whichever is installed.
"""

try:
    import flask as _flask  # noqa: F401
except ImportError as missing:
    raise ImportError("querycache.flask needs Flask: pip install 'querycache[flask]'") from missing

from querycache.flask.extension import FlaskDatabase, QueryCache
from querycache.flask.settings import CacheSettings

__all__ = ["CacheSettings", "FlaskDatabase", "QueryCache"]
