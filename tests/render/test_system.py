"""The sentence that says what to install where Blender cannot be imported."""

from __future__ import annotations

from render import system


def test_a_missing_library_names_the_packages() -> None:
    advice = system.advice("libXrender.so.1: cannot open shared object file: No such file or directory")
    assert "libXrender.so.1" in advice and "sudo apt-get install" in advice and "libxrender1" in advice
    assert "\n" not in advice


def test_blender_imports_here() -> None:
    assert system.check_wheel() == 0
