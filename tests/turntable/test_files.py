"""Files are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from turntable import files
from turntable.errors import DiskFullError, UserError


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_bytes(b"half of the n")
        assert path.read_bytes() == b"old"
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    code = f"""
import os, signal
from pathlib import Path
from turntable.files import atomic_path
with atomic_path(Path({str(path)!r})) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert not path.exists()
    assert list(tmp_path.glob("*.bin")) == []  # globs for finished files do not see the leftover
    assert len(list(tmp_path.iterdir())) == 1
    files.write_bytes(path, b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_has_its_own_error_that_names_the_file(tmp_path: Path, code: int) -> None:
    path = tmp_path / "x"
    with pytest.raises(DiskFullError, match="free some space") as caught, files.disk_errors(path):
        raise OSError(code, os.strerror(code))
    assert str(path) in str(caught.value) and caught.value.errno == code


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), files.disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_a_real_limit_on_file_size_leaves_nothing_behind(tmp_path: Path) -> None:
    """The kernel refuses, not a mock: a limit on file size acts as a full disk does."""
    code = f"""
import resource, signal
from pathlib import Path
from turntable.errors import DiskFullError
from turntable.files import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    write_bytes(Path({str(tmp_path / "big")!r}), bytes(5000))
except DiskFullError:
    print("full")
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout == "full\n", out.stderr
    assert list(tmp_path.iterdir()) == []


def test_json_round_trip_and_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"name": "Stühle", "numbers": [1, 2.5, None]}
    files.write_json(path, value)
    assert files.read_json(path) == value
    assert "Stühle" in path.read_text() and path.read_text().endswith("\n")
    with pytest.raises(UserError, match="no such file"):
        files.read_json(tmp_path / "absent.json")
    for content in (b"{", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not valid JSON"):
            files.read_json(path)


def test_sha256_is_that_of_coreutils(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 1000)
    out = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert files.sha256(path) == out.stdout.split()[0]


def test_paths_that_lead_out_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    assert files.inside(tmp_path / "in", "a/b.txt") == tmp_path / "in" / "a" / "b.txt"
    for outside in ("../x", "/etc/passwd", "a/../../x", "link/x"):
        with pytest.raises(UserError, match="refused"):
            files.inside(tmp_path / "in", outside)


def test_json_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    """Non-ASCII content survives a C locale, as in a bare container."""
    code = f"""
from pathlib import Path
from turntable.files import read_json, write_json
write_json(Path({str(tmp_path / "a.json")!r}), {{"name": "St\\u00fchle"}})
assert read_json(Path({str(tmp_path / "a.json")!r})) == {{"name": "St\\u00fchle"}}
"""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert out.returncode == 0, out.stderr
    assert json.loads((tmp_path / "a.json").read_bytes().decode()) == {"name": "Stühle"}
