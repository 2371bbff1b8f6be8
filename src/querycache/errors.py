"""What can go wrong, as one tree.

::

    QueryCacheError
    ├── ConfigurationError        a URL, a setting or a model that cannot be used as given
    ├── StoreError                the store did not do what a verb asked
    │   └── StoreUnavailable      ... because it cannot be reached, opened or written
    ├── SnapshotMovedError        what was served before the snapshot is not what the snapshot shows
    └── NotAttachedError          an engine or a model that no QueryCache knows

A read never raises a ``StoreError``: it goes to the database instead. A commit does where ``on_mark_failure`` is "raise".
"""

from __future__ import annotations


class QueryCacheError(Exception):
    """The root of every error that this library raises on its own account."""


class ConfigurationError(QueryCacheError):
    """A URL, setting or model cannot be used as given; the message names it and the remedy."""


class NotAttachedError(QueryCacheError):
    """No ``QueryCache`` is attached to the engine, or serves the model, that a call needs."""


class StoreError(QueryCacheError):
    """A store did not do what one of its verbs asked."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, opened or written now; a later call may succeed."""
