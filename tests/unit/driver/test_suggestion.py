# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes outside of the declared resources, as the driver reads and shows it, and the resources that it suggests."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from rich.console import Console

from evenkeel.ansible import answers
from evenkeel.ansible.event import Event
from evenkeel.ansible.events import Record, feed
from evenkeel.ansible.options import Options
from evenkeel.changes import decide
from evenkeel.commands.registry import playbooks
from evenkeel.outcome import ChangeResult, Exit, HostResult, Outside, RunResult, State
from evenkeel.show.advice import after_change
from evenkeel.show.suggestion import merged
from evenkeel.show.summary import alike, detail

PLAYBOOKS = playbooks()

INV = Options(inventory=("inv",))
HOSTILE = "/tmp/\x1b[2J[bold]x\n\u202e"


def seen(*paths: tuple[str, str], count: int = 0, complete: bool = True) -> Outside:
    told = [{"path": path, "what": what} for path, what in paths]
    return {"paths": told, "count": count or len(paths), "complete": complete}  # type: ignore[typeddict-item]


def settled(**told: Any) -> decide.Settled:
    record = Record()
    event: Event = {
        "event": "runner_on_ok",
        "event_data": {"host": "web1", "task_action": "evenkeel.fault_tolerance.ft_settle", "res": told},
    }
    feed(record, event)
    found = decide.settled(record, "web1")
    assert found is not None
    return found


def test_what_a_host_tells_arrives_at_its_result() -> None:
    outside = {"paths": [{"path": "/usr/bin/su", "what": "mode"}], "count": 1, "complete": True}
    assert settled(outcome="confirmed", outside=outside).outside == outside
    assert settled(outcome="confirmed").outside is None
    assert settled(outcome="confirmed", outside=None).outside is None
    host = HostResult("a", 1, State.CONFIRMED, outside=settled(outcome="confirmed", outside=outside).outside)
    document = ChangeResult("site.yml", Exit.DONE, "", [["a"]], [host], [], 1.0).to_dict()
    assert json.loads(json.dumps(document))["hosts"][0]["outside"] == outside


@pytest.mark.parametrize(
    "outside", [3, [1], {"paths": "x"}, {"paths": [3]}, {"count": -1}, {"count": "x"}, {"complete": 1}]
)
def test_a_bad_answer_puts_the_host_in_doubt(outside: Any) -> None:
    with pytest.raises(answers.BadAnswer):
        answers.read({"outcome": "confirmed", "outside": outside})


def test_a_host_that_was_rolled_back_says_what_stays_changed() -> None:
    host = HostResult("a", 1, State.ROLLED_BACK, "failed in 'Check'", outside=seen(("/usr/bin/su", "mode")))
    back = "what is protected is as before; 1 path outside of it stays changed: /usr/bin/su (mode)"
    expected = f"failed in 'Check'; {back}"
    assert detail(host) == expected
    many = seen(*((f"/etc/{number}", "new") for number in range(7)), count=40)
    found = detail(HostResult("a", 1, State.ROLLED_BACK, "x", outside=many))
    assert "40 paths outside of it stay changed: /etc/0 (new), " in found and found.endswith("/etc/4 (new) and 35 more")
    part = detail(HostResult("a", 1, State.ROLLED_BACK, "x", outside=seen(complete=False)))
    assert part == "x; what is protected is as before; outside of it not all places could be looked at"


def test_what_the_host_has_said_itself_is_not_said_twice() -> None:
    back = "what is protected is as before; 1 path outside of it stays changed: /usr/bin/su (mode)"
    why = f"rolled back to x: y; {back}"
    assert detail(HostResult("a", 1, State.ROLLED_BACK, why, outside=seen(("/usr/bin/su", "mode")))) == why


def test_a_confirmed_host_says_what_it_keeps_beside() -> None:
    host = HostResult("a", 1, State.CONFIRMED, changed=True, outside=seen(("/usr/bin/su", "mode")))
    assert detail(host) == "changed; also changed, and not protected: /usr/bin/su (mode)"
    assert detail(HostResult("a", 1, State.CONFIRMED, changed=True, outside=seen())) == "changed"


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert detail(HostResult("a", 1, State.ROLLED_BACK, "x")) == "x"
    assert detail(HostResult("a", 1, State.ROLLED_BACK, "x", warnings=["b goes on"])) == "x; warning: b goes on"


def test_names_of_paths_cannot_write_to_the_terminal() -> None:
    found = detail(HostResult("a", 1, State.CONFIRMED, outside=seen((HOSTILE, HOSTILE), ("/" + "n" * 9000, "new"))))
    assert found.isprintable() and len(found) < 1500


def test_hosts_with_another_story_beside_do_not_share_a_line() -> None:
    hosts = [HostResult(f"a{number}", 1, State.CONFIRMED, outside=seen(("/x", "new"))) for number in range(20)]
    assert [len(one) for one in alike(hosts)] == [20]
    hosts[3].outside = seen(("/y", "new"))
    assert len(alike(hosts)) > 1


def test_after_a_change_the_command_that_suggests_resources_is_shown() -> None:
    hosts = [
        HostResult("a", 1, State.ROLLED_BACK, "x", outside=seen(("/x", "new"))),
        HostResult("b", 1, State.ROLLED_BACK, "x", outside=seen()),
        HostResult("c", 1, State.ROLLED_BACK, "x"),
    ]
    lines = after_change(ChangeResult("site.yml", Exit.FAILED, "", [["a"]], hosts, [], 1.0), INV)
    assert any(one.strip() == "evenkeel suggest -i inv --limit a" for one in lines)
    lines = after_change(ChangeResult("site.yml", Exit.FAILED, "", [["a"]], hosts[1:], [], 1.0), INV)
    assert not any("suggest" in one for one in lines)


def printed(**rows: dict[str, Any]) -> str:
    stream = io.StringIO()
    result = RunResult("suggest", Exit.DONE, "", rows, [], 1.0)
    PLAYBOOKS["suggest"].show(result, INV, Console(file=stream, width=60))
    return stream.getvalue()


def test_suggestions_of_several_hosts_are_one_document_that_can_be_pasted() -> None:
    one = [{"files": {"paths": ["/etc/ssh", "/usr/bin/su"]}}, {"users": {}}]
    two = [{"files": {"paths": ["/etc/ssh/moduli", "/etc/" + "long" * 40]}}, {"services": {"names": ["ssh.service"]}}]
    told = {"state": "ok", "outside": seen(("/x", "new"))}
    text = printed(web1={**told, "suggested": one}, web2={**told, "suggested": two})
    assert yaml.safe_load(text) == {
        "evenkeel_resources": [
            {"files": {"paths": sorted(["/etc/ssh", "/usr/bin/su", "/etc/" + "long" * 40])}},
            {"users": {}},
            {"services": {"names": ["ssh.service"]}},
        ]
    }
    assert "# web1, web2: add these to the declared resources" in text


def test_hosts_that_have_nothing_to_suggest_say_why() -> None:
    text = printed(
        a={"state": "ok", "outside": None, "suggested": []},
        b={"state": "ok", "outside": seen(), "suggested": []},
        c={"state": "ok", "outside": seen(("/x", "new"), count=300), "suggested": [{"files": {"paths": ["/x"]}}]},
        d={"state": "unreachable", "msg": "no route"},
    )
    assert "# a: the changes outside of the declared resources are not known" in text
    assert "# b: the last change changed no other programs and configuration" in text
    assert "# c: add these to the declared resources" in text and "not all changes are known" in text
    assert "no route" in text


@pytest.mark.parametrize(
    "odd", [3, "x", [3], [{"files": 3}], [{"files": {"paths": "text"}}], [{"files": {"paths": [{}]}}]]
)
def test_an_odd_suggestion_of_a_host_breaks_nothing(odd: Any) -> None:
    text = printed(a={"state": "ok", "outside": None, "suggested": odd if isinstance(odd, list) else []})
    assert yaml.safe_load(text) is None or "evenkeel_resources" in yaml.safe_load(text)


def test_hostile_names_stay_within_their_line() -> None:
    told = {"state": "ok", "outside": seen((HOSTILE, "new")), "suggested": [{"files": {"paths": [HOSTILE, "a: b #c"]}}]}
    found = yaml.safe_load(printed(a=told))
    assert found == {"evenkeel_resources": [{"files": {"paths": sorted([HOSTILE, "a: b #c"])}}]}
    assert merged([[{"files": {"paths": ["/a", "/a/b", "/ab"]}}]]) == [{"files": {"paths": ["/a", "/ab"]}}]


@pytest.mark.parametrize(
    "name",
    [
        "/opt/app/x{{ lookup('pipe', 'touch made') }}",
        "/opt/{% for a in [1] %}{{ a }}{% endfor %}",
        "/a{# it's #}",
        "{{ 1\n}}",
        "/caf\xe9{{ 1 }}",
        "#jinja2:variable_start_string:'<<',variable_end_string:'>>'\n<< lookup('pipe', 'touch made') >>",
    ],
)
def test_a_name_that_looks_like_a_template_stays_a_name_when_it_is_pasted(name: str, tmp_path: Path) -> None:
    text = printed(a={"state": "ok", "outside": seen((name, "new")), "suggested": [{"files": {"paths": [name, "/b"]}}]})
    (tmp_path / "vars.yml").write_text(text)
    loader = DataLoader()
    variables = loader.load_from_file(str(tmp_path / "vars.yml"), trusted_as_template=True)
    templar = Templar(loader=loader, variables=variables)
    assert templar.template(variables["evenkeel_resources"]) == [{"files": {"paths": sorted([name, "/b"])}}]
