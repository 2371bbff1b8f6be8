"""ARCHITECTURE.md draws the package as it is, in the layers that are enforced."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "querycache"
WORDS = (
    *("entry", "tag", "stamp", "lease", "mark", "release", "touch", "guard"),
    *("fill", "hit", "miss", "bypass", "pin", "bind", "survey", "profile"),
)
TREE_LINE = re.compile(r"^(?P<indent>[│ ]*)[├└]── (?P<name>\S+)(?P<gap> *)(?P<purpose>.*)$")


def section(title: str) -> str:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"ARCHITECTURE.md has no section {title!r}"
    return found[1]


def block(title: str) -> list[str]:
    found = re.search(r"^```\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL)
    assert found is not None, f"the section {title!r} of ARCHITECTURE.md draws nothing"
    return found[1].splitlines()


def drawn() -> list[tuple[str, str]]:
    """Return (path, purpose) of each line of the drawing."""
    lines: list[tuple[str, str]] = []
    folder = ""
    for line in block("The house")[1:]:
        found = TREE_LINE.match(line)
        assert found is not None, f"not a line of a tree: {line!r}"
        name = found["name"]
        folder = folder if found["indent"] else ""
        lines.append((folder + name, found["purpose"]))
        if name.endswith("/"):
            folder = name
    return lines


def present() -> set[str]:
    """Return the modules of the package; a folder stands for its ``__init__.py``."""
    paths = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    return {f"{path.parent}/" if path.name == "__init__.py" and path.parent.name else str(path) for path in paths}


def layers(contract: dict[str, object]) -> list[str]:
    named = contract["layers"]
    assert isinstance(named, list)
    return [re.sub(r"[()]", "", layer) for layer in named]


def the_layers_contract() -> dict[str, object]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[dict[str, object]] = configuration["tool"]["importlinter"]["contracts"]
    return next(contract for contract in contracts if contract["type"] == "layers")


def test_every_module_is_drawn() -> None:
    assert sorted(present() - {path for path, _ in drawn()}) == []


def test_everything_drawn_is_a_module() -> None:
    assert sorted({path for path, _ in drawn()} - present()) == []


def test_nothing_is_drawn_twice() -> None:
    paths = [path for path, _ in drawn()]

    assert sorted(paths) == sorted(set(paths))


def test_every_line_of_the_drawing_says_what_the_module_is_for() -> None:
    assert [path for path, purpose in drawn() if not purpose] == []


def test_the_layers_told_are_the_layers_enforced() -> None:
    assert block("Layers") == layers(the_layers_contract())


def test_the_layers_contract_leaves_no_module_out() -> None:
    assert the_layers_contract()["exhaustive"] is True


def test_every_drawn_room_stands_in_a_layer() -> None:
    rooms = {path.split("/")[0].removesuffix(".py") for path, _ in drawn()} - {"__init__"}
    named = {name.strip() for layer in block("Layers") for name in layer.split("|")}

    assert rooms == named


@pytest.mark.parametrize("word", WORDS)
def test_the_words_of_the_house_are_explained(word: str) -> None:
    assert re.search(rf"^\| {word} \| \S", section("Words"), re.MULTILINE)
