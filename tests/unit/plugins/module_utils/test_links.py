# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The set of links of a unit is read, and made again, exactly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import links


@pytest.fixture(autouse=True)
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("kept", "run", "lib", "rc3.d"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(links, "KEPT", str(tmp_path / "kept"))
    monkeypatch.setattr(links, "RUNTIME", str(tmp_path / "run"))
    monkeypatch.setattr(links, "_SHIPPED", (str(tmp_path / "lib"),))
    monkeypatch.setattr(links, "_LEVELS", [str(tmp_path / "rc3.d")])
    return tmp_path


def link(etc: Path, path: str, to: str) -> str:
    (etc / path).parent.mkdir(exist_ok=True)
    os.symlink(to, etc / path)
    return str(etc / path)


def test_all_places_where_a_unit_is_enabled_belong_to_it(etc: Path) -> None:
    file = "/lib/systemd/system/web.service"
    expected = {
        link(etc, "kept/multi-user.target.wants/web.service", file): file,
        link(etc, "kept/a.service.requires/web.service", file): file,
        link(etc, "kept/b.target.upholds/web.service", file): file,
        link(etc, "kept/httpd.service", file): file,
        # By a name that only a link gives, one of a package among these.
        link(etc, "kept/c.target.wants/httpd.service", file): file,
        link(etc, "run/d.target.wants/www.service", file): file,
        # What it pulls in itself.
        link(etc, "kept/web.service.wants/other.service", "/o"): "/o",
        link(etc, "run/web.service", "/dev/null"): "/dev/null",
        link(etc, "rc3.d/S01web", "../init.d/web"): "../init.d/web",
    }
    link(etc, "lib/www.service", "web.service")
    (etc / "kept/e.target.wants").mkdir()
    (etc / "kept/e.target.wants/web.service").touch()
    expected[str(etc / "kept/e.target.wants/web.service")] = ""
    link(etc, "kept/multi-user.target.wants/other.service", "/o")
    link(etc, "kept/multi-user.target.wants/evenkeel-boot.service", file)
    link(etc, "kept/other.target.wants/webs.service", "/lib/systemd/system/webs.service")
    link(etc, "kept/web.service", "/opt/web.service")  # The unit file itself, which is kept with the files.
    link(etc, "rc3.d/S01web-other", "../init.d/web-other")
    (etc / "kept/wants").mkdir()
    assert links.of("web.service") == expected


def test_an_alias_of_a_template_is_one_of_its_instance(etc: Path) -> None:
    path = link(etc, "kept/al@.service", "/lib/systemd/system/ek@.service")
    wants = link(etc, "kept/multi-user.target.wants/al@one.service", "/lib/systemd/system/ek@.service")
    link(etc, "kept/multi-user.target.wants/ek@two.service", "/lib/systemd/system/ek@.service")
    assert links.names("ek@one.service") == {"ek@one.service", "ek@.service", "al@.service", "al@one.service"}
    assert sorted(links.of("ek@one.service")) == sorted([path, wants])


def test_a_link_is_made_again_wherever_it_led(etc: Path) -> None:
    path = str(etc / "kept/multi-user.target.wants/web.service")
    for to in ("/lib/web.service", "/lib/web.service", "/other", "", "/lib/web.service"):
        links.make(path, to)
        assert (os.readlink(path) if to else os.path.getsize(path)) == (to or 0)
    assert os.stat(os.path.dirname(path)).st_mode & 0o7777 == 0o755
    assert os.listdir(os.path.dirname(path)) == ["web.service"]


def test_a_link_goes_with_a_directory_that_held_nothing_else(etc: Path) -> None:
    one = link(etc, "kept/a.wants/web.service", "/x")
    two = link(etc, "kept/a.wants/other.service", "/x")
    links.remove(one)
    links.remove(one)
    assert os.listdir(etc / "kept/a.wants") == ["other.service"]
    links.remove(two)
    assert not (etc / "kept/a.wants").exists() and (etc / "kept").exists()
    links.remove(two)


def test_nothing_is_followed_and_no_content_is_lost(etc: Path) -> None:
    (etc / "elsewhere").mkdir()
    link(etc, "elsewhere/web.service", "/x")
    link(etc, "kept/a.wants", str(etc / "elsewhere"))
    path = str(etc / "kept/a.wants/web.service")
    for call in (lambda: links.make(path, "/y"), lambda: links.remove(path)):
        with pytest.raises(EvenkeelError, match="a.wants"):
            call()
    assert os.readlink(etc / "elsewhere/web.service") == "/x"
    (etc / "kept/b.wants").mkdir()
    (etc / "kept/b.wants/web.service").write_text("content")
    for call in (lambda: links.make(str(etc / "kept/b.wants/web.service"), "/y"),):
        with pytest.raises(EvenkeelError, match="is no link any more, and has a content"):
            call()
    assert (etc / "kept/b.wants/web.service").read_text() == "content"
