"""The panel of `datasets.browse`'s page: every control in one place, and the list of objects that its search narrows down."""

from __future__ import annotations

from typing import Any

import numpy as np

from datasets import page_text
from datasets.objects import Objects
from turntable.errors import UserError

LISTED = 200
"""So many objects are offered at a time; the search finds the others."""
EVERY_CLASS = "every class"
NOTHING = "nothing found"
NO_PICTURE = np.full((1, 2, 3), 255, np.uint8)


class Controls:
    """viser's handles of the panel's parts."""

    def __init__(self, gui: Any, size: int) -> None:
        """`size`: side of the pictures at first, pixels."""
        gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        gui.set_panel_label("Turntable")
        gui.main_panel.dock_right()
        with gui.add_folder("Object"):
            self.search = gui.add_text("search", "", hint="parts of a uid, a class or a name")
            self.of_class = gui.add_dropdown("class", [EVERY_CLASS])
            self.chosen = gui.add_dropdown("object", [NOTHING])
            self.step = gui.add_button_group("", ["previous", "next"])
            self.status = gui.add_html("")
            self.record = gui.add_html("")
        with gui.add_folder("View"):
            self.view = gui.add_slider("view", 0, 1, 1, 0)
            self.walk = gui.add_button_group("", ["look through", "stand back"])
            self.beside = gui.add_image(NO_PICTURE, label="picture; matte with the surface over it")
            self.figures = gui.add_html("")
        with gui.add_folder("Scene"):
            self.style = gui.add_dropdown("cameras", ["on white", "cut out", "matte", "outlines", "none"])
            self.size = gui.add_dropdown("pixels", [str(size)])
            self.count = gui.add_slider("how many", 1, 2, 1, 2)
            self.frustum = gui.add_slider("frustum", 0.05, 1.5, 0.05, 0.6, hint="depth of a frustum, object units")
            self.colours = gui.add_dropdown("surface", ["pictures", "normals", "none"])
            self.point_size = gui.add_slider("point size", 0.002, 0.05, 0.002, 0.012, hint="object units")
            self.depth = gui.add_checkbox("depth of the view", False)
            self.bounds = gui.add_checkbox("axes, unit sphere, box", True)

    def show_counts(self, views: int) -> None:
        """Fits the sliders to an object with so many views. They need two ends, also of an object with one view."""
        self.view.max, self.count.max = max(views - 1, 1), max(views, 2)
        self.view.disabled = self.count.disabled = views == 1
        self.view.value = min(self.view.value, views - 1)
        self.count.value = views


class Catalogue:
    """What objects there are, under which names, and which of them a search finds."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._classes: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self.matches = list(range(len(objects)))
        """Numbers of the objects found."""

    def read(self) -> list[str]:
        """Reads every record, which may take minutes; returns the classes. Until then objects are known by their uids."""
        for index in range(len(self._objects)):
            try:
                record = self._objects.record(index)
            except UserError:
                continue  # said when it is looked at
            self._names[index] = str(record.get("name") or "")
            self._classes[index] = str(record.get("lvis_class") or record.get("class") or "")
        return sorted({name for name in self._classes.values() if name})

    def label(self, index: int) -> str:
        """One object in a line; no two have the same."""
        return f"{self._objects.uids[index]} {self._classes.get(index, '')}".strip()

    def find(self, words: str, of_class: str) -> None:
        """Narrows `matches` down to the objects of a class in which all of the words occur."""
        self.matches = [
            index
            for index in range(len(self._objects))
            if of_class in (EVERY_CLASS, self._classes.get(index))
            and all(
                word in f"{self.label(index)} {self._names.get(index, '')}".lower() for word in words.lower().split()
            )
        ]

    def offered(self, index: int) -> dict[str, int]:
        """Label -> number of the matches around object `index`."""
        first = max(min(self._place(index) - LISTED // 2, len(self.matches) - LISTED), 0)
        return {self.label(i): i for i in self.matches[first : first + LISTED]}

    def account(self, index: int) -> str:
        """Where among the matches object `index` is, as HTML."""
        if not self.matches:
            return page_text.small("no object")
        narrowed = len(self.matches) < len(self._objects)
        note = f"{self._place(index) + 1} of {len(self.matches)}"
        return page_text.small(note + (f" found, {len(self._objects)} in all" if narrowed else ""))

    def beside(self, index: int, step: int) -> int:
        """The match `step` places after object `index`, round and round."""
        return self.matches[(self._place(index) + step) % len(self.matches)]

    def _place(self, index: int) -> int:
        return self.matches.index(index) if index in self.matches else 0
