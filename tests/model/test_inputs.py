"""Which pictures a command line names, and what their results are called."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from model.inputs import names, sources
from turntable.errors import UserError


def test_a_folder_gives_its_pictures_in_order_and_names_what_is_none(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, others = sources([tmp_path])
    assert [(source.name, source.picture) for source in found] == [
        ("a", tmp_path / "a.JPG"),
        ("b", tmp_path / "b.png"),
    ]
    assert others == [tmp_path / "notes.txt"]


def test_a_picture_named_twice_is_taken_once(tmp_path):
    (tmp_path / "a.png").touch()
    assert len(sources([tmp_path, tmp_path / "a.png", tmp_path])[0]) == 1


def test_what_is_named_on_its_own_is_taken_whatever_it_is(tmp_path):
    assert [source.name for source in sources([tmp_path / "gone.xyz"])[0]] == ["gone"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    with pytest.raises(UserError, match=r"without pictures.*subfolders are not"):
        sources([tmp_path])


@pytest.mark.parametrize(
    "pictures",
    [
        ["x/a.png", "y/a.png"],
        ["x/a.png", "x/a.jpg", "y/a.png"],
        ["x/a.png", "x/A.png", "b.png"],
        ["x/y/a.png", "x_y/a.png", "x/y_a.png"],
        ["a.png", "a-png.png", "b/a.png"],
    ],
)
def test_names_differ_and_do_not_depend_on_the_order(pictures):
    paths = [Path("/data") / picture for picture in pictures]
    expected = dict(zip(paths, names(paths), strict=True))
    # Folders of one name would be one folder on a disk that knows no capitals.
    assert len({name.casefold() for name in expected.values()}) == len(pictures)
    for order in itertools.permutations(paths):
        assert dict(zip(order, names(order), strict=True)) == expected
    assert all("/" not in name and name not in (".", "..") for name in expected.values())


@pytest.mark.parametrize("picture", ["..png", "...png", ".hidden", "captures.png", "Captures.jpg"])
def test_no_name_leads_elsewhere(picture):
    (name,) = names([Path("/data") / picture])
    assert name.strip(".") and not name.startswith(".") and name.casefold() != "captures"


def test_a_name_that_no_other_has_stays_short():
    assert names([Path("/data/x/a.png"), Path("/data/y/a.png"), Path("/data/y/b.png")])[2] == "b"
