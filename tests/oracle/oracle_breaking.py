"""How is a rule taken out of the library while it runs?

The functions of its module get the code that they have without the rule, and their own back afterwards: whoever imported
them runs the broken ones. No copy of the library, no new process.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from broken_rules import Rule


@contextmanager
def taken_out(rule: Rule) -> Iterator[None]:
    """Run the library without a rule. Raises ``ValueError`` where no function is another without it."""
    module = importlib.import_module(f"querycache.{rule.module.removesuffix('.py').replace('/', '.')}")
    path = Path(str(module.__file__))
    broken = types.ModuleType(module.__name__)
    broken.__file__ = module.__file__
    code = compile(rule.broken(path.read_text(encoding="utf-8")), str(path), "exec")
    exec(code, broken.__dict__)
    theirs = _functions_of(broken, module.__name__)
    pairs = [
        (mine, theirs[name].__code__)
        for name, mine in _functions_of(module, module.__name__).items()
        if name in theirs and _differ(mine.__code__, theirs[name].__code__)
    ]
    if not pairs:
        raise ValueError(f"{rule.name!r}: the functions of {rule.module} are the same without it")
    whole = [(function, function.__code__) for function, _ in pairs]
    for function, code in pairs:
        function.__code__ = code
    try:
        yield
    finally:
        for function, code in whole:
            function.__code__ = code


def _differ(one: types.CodeType, other: types.CodeType) -> bool:
    return one.replace(co_firstlineno=1, co_linetable=b"") != other.replace(co_firstlineno=1, co_linetable=b"")


def _functions_of(module: types.ModuleType, name: str) -> dict[str, types.FunctionType]:
    """Return the functions that a module defines, those of its classes too, by their qualified names."""
    found: dict[str, types.FunctionType] = {}
    for value in vars(module).values():
        holders: list[Any] = [value]
        if isinstance(value, type) and value.__module__ == name:
            holders = list(vars(value).values())
        for one in holders:
            function = _function_in(one)
            if function is not None and function.__module__ == name:
                found[function.__qualname__] = function
    return found


def _function_in(value: Any) -> types.FunctionType | None:
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)
    value = getattr(value, "__wrapped__", value)
    return value if isinstance(value, types.FunctionType) else None
