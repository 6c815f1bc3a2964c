"""Categories from a file: each class once, and what is wrong with a file is said."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from datasets.categories import FURNITURE, read_categories
from turntable.errors import UserError


def test_the_furniture_file_names_the_five_classes() -> None:
    furniture = read_categories(FURNITURE)
    assert set(furniture.members) == {"table", "chair", "bookshelf", "bed", "sofa"}
    assert furniture.of({"lvis_class": "loveseat"}) == "sofa"
    assert furniture.of({"lvis_class": "teapot"}) is None and furniture.of({}) is None


def test_the_furniture_file_agrees_with_the_splits(shared: Path) -> None:
    """Every model of the furniture splits is of the category that they give it."""
    folder = shared / "objaverse"
    expected = json.loads((folder / "splits/furniture-classes.json").read_bytes())
    with gzip.open(folder / "lvis-annotations.json.gz") as handle:
        annotated = {uid: name for name, uids in json.load(handle).items() for uid in uids}
    furniture = read_categories(FURNITURE)
    assert {uid: furniture.of({"lvis_class": annotated[uid]}) for uid in expected} == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name = ", "not a TOML file"),
        ('name = "x"', r"\[categories\]"),
        ('name = "x"\n[categories]\na = "chair"', "a must be a list"),
        ('name = "x"\n[categories]\na = ["chair"]\nb = ["chair"]', "chair is in a and in b"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "x.toml").write_text(content)
    with pytest.raises(UserError, match=says):
        read_categories(tmp_path / "x.toml")
    with pytest.raises(UserError, match="no such file"):
        read_categories(tmp_path / "none.toml")
