"""The table of rules that ``make rules`` takes out, one by one, is true of the library and its tests as they are."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from broken_rules import Rule, read_rules

ROOT = Path(__file__).parents[2]
RULES = read_rules()


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of a file's tests, and those of the suite that a store's tests inherit."""
    files = [ROOT / path, *(ROOT / "src" / "querycache" / "testing").glob("*.py")]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return frozenset(
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def test_each_rule_has_a_name_of_its_own() -> None:
    names = [(rule.area, rule.name) for rule in RULES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.area}: {rule.name}")
def test_a_rule_stands_where_the_table_says(rule: Rule) -> None:
    source = (ROOT / "src" / "querycache" / rule.module).read_text(encoding="utf-8")
    broken = rule.broken(source)
    assert broken != source
    if rule.module.endswith(".py"):
        ast.parse(broken)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.area}: {rule.name}")
def test_a_rule_names_tests_that_exist(rule: Rule) -> None:
    assert rule.tests
    for test in rule.tests:
        path, _, name = test.partition("::")
        assert name.rpartition("::")[2].split("[")[0] in names_in(path)
