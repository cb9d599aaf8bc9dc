# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draw the rooms of the library before and after a rebuild: `python docs/rooms.py BEFORE AFTER`.

BEFORE and AFTER are trees of this repository, such as worktrees of two commits. The picture is docs/rooms.svg; the
table of docs/design.md is printed. Needs requirements/plots.txt.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from plots import plt, save

FLOORS = ["_calls", "_flows", "_deadman", "_way_back", "_resources", "_health", "_services", "_files", "_store"]
FLOORS += ["_results", "_host"]
DOORS, SHELF = "top level: doors", "top level: shelf"
UP, DOWN = "tab:red", "0.6"


class Library:
    """The files of plugins/module_utils of one tree, and what each imports.

    A room is a folder. Of the files beside the rooms, those that a room imports are the shelf, the others are doors.
    """

    def __init__(self, tree: Path) -> None:
        folder = tree / "plugins/module_utils"
        paths = {".".join(path.relative_to(folder).with_suffix("").parts): path for path in folder.rglob("*.py")}
        self.paths = {name: path for name, path in paths.items() if path.name != "__init__.py"}
        self.imports = {name: self._imports(name, path) for name, path in self.paths.items()}
        self.shelf = {
            other for one, others in self.imports.items() if "." in one for other in others if "." not in other
        }
        self.files, self.lines = Counter[str](), Counter[str]()
        for name, path in self.paths.items():
            self.files[self.room(name)] += 1
            self.lines[self.room(name)] += len(path.read_text().splitlines())
        pairs = [(self.room(one), self.room(other)) for one, others in self.imports.items() for other in others]
        self.arrows = Counter(pair for pair in pairs if pair[0] != pair[1])

    def _imports(self, name: str, path: Path) -> set[str]:
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [*name.split(".")[: -node.level], *(node.module or "").split(".")]
                module = ".".join(filter(None, base))
                found |= {module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names)}
        return found & self.paths.keys()

    def room(self, module: str) -> str:
        if "." in module:
            return module.partition(".")[0]
        return SHELF if module in self.shelf else DOORS

    @property
    def both_ways(self) -> list[tuple[str, str]]:
        """Pairs of rooms of which each imports from the other."""
        return sorted((one, other) for one, other in self.arrows if one < other and (other, one) in self.arrows)

    @property
    def circles(self) -> int:
        """Circles of files, counted by removing one import of each that is found."""
        graph = {name: set(others) for name, others in self.imports.items()}
        for count in range(len(graph)):
            try:
                TopologicalSorter(graph).prepare()
            except CycleError as error:
                # The circle is given from each file to the one that imports it.
                graph[error.args[1][1]].discard(error.args[1][0])
            else:
                return count
        raise AssertionError("a circle does not end")


def drawn(axes: Any, library: Library, title: str) -> None:
    """A bar for each room, as long as its lines; an arc for each direction of imports, as thick as their number."""
    rooms = [one for one in (SHELF, *reversed(FLOORS), DOORS) if one in library.files]
    for height, name in enumerate(rooms):
        axes.barh(height, library.lines[name] / 1000, color="tab:blue", alpha=0.25)
        axes.text(0.1, height, f"{name}: {library.files[name]} files, {library.lines[name]:,} lines", va="center")
    for (one, other), count in library.arrows.items():
        a, b = rooms.index(one), rooms.index(other)
        both = (one, other) in library.both_ways or (other, one) in library.both_ways
        axes.annotate(
            "",
            xy=(11.6, b),
            xytext=(11.6, a),
            arrowprops={
                "arrowstyle": "->",
                "color": UP if both else DOWN,
                "alpha": 0.9 if both else 0.5,
                "linewidth": 0.4 + count / 40,
                "connectionstyle": f"arc3,rad={0.5 if a > b else -0.5}",
            },
        )
    axes.set(title=title, xlim=(0, 14.5), ylim=(-0.6, 11.6), xlabel="thousand lines", yticks=[], xticks=[0, 5, 10])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def main() -> None:
    libraries = {title: Library(Path(tree)) for title, tree in zip(("before", "after"), sys.argv[1:3], strict=True)}
    figure, both = plt.subplots(1, 2, figsize=(9, 5), sharey=True)
    for axes, (title, library) in zip(both, libraries.items(), strict=True):
        drawn(axes, library, title)
    save("rooms", figure, Path(__file__).parent)
    for title, library in libraries.items():
        rooms = [name for name in library.files if name not in (DOORS, SHELF)]
        biggest = max(rooms, key=lambda name: library.lines[name])
        print(f"{title}: {len(rooms)} rooms, {library.files[SHELF]} files on the shelf, {library.files[DOORS]} doors")
        print(f"  {sum(library.arrows.values())} imports between rooms, both ways: {library.both_ways}")
        print(f"  circles of files: {library.circles}")
        print(f"  biggest room: {biggest}, {library.files[biggest]} files, {library.lines[biggest]} lines")
        longest = max(library.paths.values(), key=lambda path: len(path.read_text().splitlines()))
        print(f"  longest file: {longest.name}, {len(longest.read_text().splitlines())} lines")


if __name__ == "__main__":
    main()
