"""What is refused when settings are read, and what the refusal says."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError

from common.errors import SettingsError
from common.settings_file import Settings, differences, parse_settings, read_settings


class Leaf(Settings):
    depth: int = Field(ge=1, le=9)
    note: float | None = None


class Tree(Settings):
    name: str
    leaves: tuple[Leaf, ...] = ()
    crown: Leaf | None = None


def test_reads_toml(tmp_path: Path) -> None:
    path = tmp_path / "tree.toml"
    path.write_text('name = "oak"\n[[leaves]]\ndepth = 3\n', encoding="utf-8")
    assert read_settings(Tree, path) == Tree(name="oak", leaves=(Leaf(depth=3),))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"name: missing"),
        ({"name": "a", "colour": 7}, r"colour = 7: unknown key; allowed here: crown, leaves, name"),
        (
            {"name": "a", "leaves": [{"depth": 1}, {"depth": 2, "dept": 3}]},
            r"leaves\.1\.dept = 3: unknown key; allowed here: depth, note",
        ),
        (
            {"name": "a", "crown": {"depth": 1, "size": 2}},
            r"crown\.size = 2: unknown key; allowed here: depth, note",
        ),
        ({"name": "a", "crown": {"depth": 10}}, r"crown\.depth = 10: .*less than or equal to 9"),
        ({"name": "a", "crown": {"depth": 0}}, r"crown\.depth = 0: .*greater than or equal to 1"),
        ({"name": "a", "crown": {"depth": "x"}}, r"crown\.depth = 'x': .*valid integer"),
        (
            {"name": "a", "crown": {"depth": 1, "note": float("nan")}},
            r"crown\.note = nan: .*finite",
        ),
        (
            {"name": "a", "crown": {"depth": 1, "note": float("inf")}},
            r"crown\.note = inf: .*finite",
        ),
        ([], r"\(whole file\)"),
    ],
)
def test_a_refusal_names_key_value_and_what_is_allowed(values: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(Tree, values, "tree.toml")


def test_every_problem_is_told_at_once() -> None:
    values: dict[str, Any] = {"crown": {"depth": 0}, "extra": 1}
    with pytest.raises(SettingsError, match=r"(?s)^tree\.toml: 3 problem.*name.*crown.*extra"):
        parse_settings(Tree, values, "tree.toml")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Leaf(depth=1).depth = 2  # type: ignore[misc]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"expected a settings file at .*none\.toml"):
        read_settings(Tree, tmp_path / "none.toml")


@pytest.mark.parametrize("data", [b"name = ", b"name = 'a'\nname = 'b'", b"\xff\xfe", b"\x00"])
def test_what_is_not_toml_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tree.toml"
    path.write_bytes(data)
    with pytest.raises(SettingsError, match=r"tree\.toml is not TOML"):
        read_settings(Tree, path)


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_settings(Tree, tmp_path)


def test_settings_that_differ_are_told_with_both_values() -> None:
    oak = Tree(name="oak", leaves=(Leaf(depth=1), Leaf(depth=2)))
    other = Tree(name="oak", leaves=(Leaf(depth=1), Leaf(depth=3)), crown=Leaf(depth=4))
    assert differences(oak, oak) == ""
    assert differences(oak, other) == (
        "crown.depth (None there, 4 here), leaves[1].depth (2 there, 3 here)"
    )
    wide = Tree(name="ash", leaves=tuple(Leaf(depth=depth) for depth in range(1, 9)))
    assert differences(oak, wide).endswith("leaves[6].depth (None there, 7 here), and 2 more")
