"""The public names are listed in order, documented, and told of in the README."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import querycache

README = Path(__file__).parents[2] / "README.md"


def test_public_names_are_sorted() -> None:
    assert list(querycache.__all__) == sorted(querycache.__all__)


def test_public_names_exist() -> None:
    assert [name for name in querycache.__all__ if not hasattr(querycache, name)] == []


def test_everything_public_is_listed() -> None:
    names = {name for name, value in vars(querycache).items() if not inspect.ismodule(value)}
    public = {name for name in names if not name.startswith("_")} - {"annotations"}

    assert sorted(public - set(querycache.__all__)) == []


def test_every_public_class_and_function_has_a_docstring_of_its_own() -> None:
    assert [name for name in querycache.__all__ if not is_documented(name)] == []


def is_documented(name: str) -> bool:
    value = getattr(querycache, name)
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return True  # a value has the docstring of its type, which says nothing of it
    text = (value.__doc__ or "").strip()
    # Where a dataclass has none, Python writes its signature there.
    return bool(text) and not text.startswith(f"{name}(")


def test_every_public_name_is_mentioned_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")

    assert [name for name in querycache.__all__ if not re.search(rf"\b{re.escape(name)}\b", text)] == []
