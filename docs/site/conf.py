# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx builds the reference site out of what .ci/docs has gathered. Whatever it warns of is an error there."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

project = "Evenkeel"
author = "The Evenkeel Authors"
copyright = "2026 The Evenkeel Authors"

extensions = ["myst_parser", "sphinx_antsibull_ext", "sphinxcontrib.mermaid"]
# What the pages on GitHub show as a diagram is one here, too.
myst_fence_as_directive = ["mermaid"]
# Links to headings, such as store-format.md#manifests, lead to the anchors that GitHub makes.
myst_heading_anchors = 4

nitpicky = True
# The documentation of Ansible itself is not looked up, so that the site is built without a network.
nitpick_ignore_regex = [(r"std:ref", r"ansible_collections\.ansible\.builtin\..*|ansible_configuration_settings.*")]

html_theme = "furo"
html_title = "Evenkeel"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "ansible"
highlight_language = "text"


def _fit(app: Any, page: str, source: list[str]) -> None:
    """Make what was written for other readers a page of this site."""
    path = PurePath(page)
    if path.parts[0] == "roles":  # In the repository the variables of a role are in a file; here they are a page.
        there = f"[its reference](../../reference/{path.parts[1]}_role.rst)"
        source[0] = source[0].replace("[meta/argument_specs.yml](meta/argument_specs.yml)", there)
    if path.parts[0] == "reference":  # The theme has a table of contents; the names are too long for it.
        text = re.sub(r"^\.\. contents::\n(   .*\n)+", "", source[0], flags=re.MULTILINE)
        text = re.sub(r"^evenkeel\.fault_tolerance\.(?=\w+ \w+ --)", "", text, flags=re.MULTILINE)
        source[0] = text.replace("Evenkeel.Fault_Tolerance\n", "Modules, filters, roles\n")


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", _fit)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
