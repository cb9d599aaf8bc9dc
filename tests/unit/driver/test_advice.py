# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is advised is what helps: every host, its own checkpoint, and a command line that means it."""

from __future__ import annotations

import io
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evenkeel.ansible import options
from evenkeel.ansible.options import Options
from evenkeel.changes import resume
from evenkeel.cli import parser
from evenkeel.commands.rollback import read_checkpoints
from evenkeel.outcome import ChangeResult, Exit, HostResult, State, UsageError, not_as_before, protected
from evenkeel.show import advice
from evenkeel.show.summary import print_change

ID = "a1b2c3d4" * 8


def confirmed(number: int) -> list[HostResult]:
    return [HostResult(f"web{n}", 1, State.CONFIRMED, checkpoint=f"{n:04}{ID[4:]}") for n in range(1, number + 1)]


def failed(hosts: list[HostResult]) -> ChangeResult:
    hosts = [*hosts, HostResult("bad", 2, State.ROLLED_BACK, "x")]
    return ChangeResult("site.yml", Exit.PARTLY, "bad: x", [], hosts, [], 1.0)


def command(lines: list[str], after: str) -> list[str]:
    """The words of the command below the line that has ``after`` in it, as a shell would split it."""
    at = next(number for number, one in enumerate(lines) if after in one)
    return shlex.split(lines[at + 1])


def parsed(words: list[str]) -> Any:
    """The command line is one of ours: it parses, and means what it says."""
    assert words[0] == "evenkeel"
    return parser().parse_args(words[1:])


def test_one_host_goes_back_to_the_checkpoint_of_the_change_whatever_came_after_it() -> None:
    args = parsed(command(advice.after_change(failed(confirmed(1)), Options(inventory=("my inv",))), "take it back"))
    assert (args.command, args.inventory, args.limit, args.checkpoint) == (
        "rollback",
        ["my inv"],
        ["web1"],
        f"0001{ID[4:]}",
    )


def test_of_several_hosts_each_goes_back_to_its_own() -> None:
    args = parsed(command(advice.after_change(failed(confirmed(20)), Options()), "take it back"))
    assert args.limit == [",".join(f"web{n}" for n in range(1, 21))]
    named = read_checkpoints(args.checkpoint)
    assert named is not None and len(named) == 20
    assert all(f"{n:04}{ID[4:]}".startswith(named[f"web{n}"]) and len(named[f"web{n}"]) >= 8 for n in range(1, 21))


def test_more_hosts_are_named_in_files_that_no_inventory_takes_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = parsed(command(advice.after_change(failed(confirmed(300)), Options()), "take it back"))
    limit = Path(args.limit[0].removeprefix("@"))
    assert args.limit[0].startswith("@") and limit.read_text().split() == [f"web{n}" for n in range(1, 301)]
    assert read_checkpoints(args.checkpoint) == {f"web{n}": f"{n:04}{ID[4:]}" for n in range(1, 301)}
    # Ansible leaves these endings out of an inventory that is a directory.
    assert {path.suffix for path in tmp_path.iterdir()} == {".retry", ".txt"}


def test_where_the_directory_cannot_be_written_the_files_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    args = parsed(command(advice.after_change(failed(confirmed(30)), Options()), "take it back"))
    assert Path(args.limit[0].removeprefix("@")).is_absolute()


def test_the_command_reaches_hosts_as_the_run_did_and_shows_no_secret() -> None:
    words = [
        "-i",
        "a b",
        "-b",
        "-u",
        "ops",
        "-K",
        "--private-key",
        "k y",
        "-vv",
        "-e",
        "@v.yml",
        "-e",
        "ansible_port=2222",
    ]
    words += ["-e", "ansible_become_pass=hunter2", "-e", "password=hunter2", "-e", '{"x": "hunter2"}', "-t", "web"]
    words += ["-e", "evenkeel_store=/srv/e", "--vault-password-file", "vp", "--ssh-common-args=-o Port=22"]
    given = options.from_arguments(parser().parse_args(["change", "site.yml", *words]))
    lines = advice.after_change(failed(confirmed(1)), given)
    args = parsed(command(lines, "take it back"))
    assert "hunter2" not in "\n".join(lines)
    assert any("other --extra-vars" in one for one in lines)
    assert (args.inventory, args.become, args.user, args.ask_become_pass) == (["a b"], True, "ops", True)
    assert (args.private_key, args.vault_password_file, args.verbose) == ("k y", ["vp"], 0)
    assert args.extra_vars == ["@v.yml", "ansible_port=2222", "evenkeel_store=/srv/e"]
    assert args.ssh_common_args == "-o Port=22"


def test_a_host_whose_checkpoint_is_not_known_is_still_advised() -> None:
    args = parsed(
        command(advice.after_change(failed([HostResult("a", 1, State.CONFIRMED)]), Options()), "take it back")
    )
    assert (args.limit, args.checkpoint) == (["a"], None)


def test_an_overdue_host_comes_with_the_command_that_puts_it_back() -> None:
    armed = {"generation": 3, "checkpoint": ID, "until": 1000.0, "overdue": 400.0}
    lines = advice.after_status({"web1": {"armed": armed}, "web2": {"armed": {**armed, "overdue": None}}}, Options())
    args = parsed(command(lines, "Overdue"))
    assert (args.command, args.limit, args.checkpoint) == ("rollback", ["web1"], ID)


@pytest.mark.parametrize(
    ("armed", "late"),
    [
        (None, False),
        ({"until": 2000.0}, False),
        ({"until": 995.0}, False),
        ({"until": 900.0}, True),  # of a host that does not say it itself
        ({"until": 2000.0, "overdue": 60.0}, True),  # its clock is off; the seconds are its own
        ({"until": 900.0, "overdue": None}, False),
        ({"until": 900.0, "overdue": 3.0}, False),
        ({"until": 900.0, "overdue": 60.0, "back": True}, False),
        ({"until": 900.0, "overdue": 60.0, "tries_until": 4000.0}, False),
    ],
)
def test_overdue_is_who_should_have_gone_back_and_does_not(armed: Any, late: bool) -> None:
    assert advice.overdue({"armed": armed}, 1000.0) is late


def test_a_host_in_doubt_comes_with_both_ways_out() -> None:
    doubt = {
        "generation": 3,
        "checkpoint": ID,
        "outcome": "in_doubt",
        "by": "operator",
        "at": time.time(),
        "left": ["a"],
    }
    lines = advice.after_status({"web1": {"armed": None, "doubt": doubt}}, Options(inventory=("inv",)))
    back, accept = parsed(command(lines, "In doubt")), parsed(command(lines, "accepted as it is"))
    assert (back.command, back.limit, back.checkpoint) == ("rollback", ["web1"], ID)
    assert (accept.command, accept.hosts, accept.inventory) == ("accept", ["web1"], ["inv"])


def test_hosts_at_rest_need_no_advice() -> None:
    assert advice.after_status({"web1": {"armed": None, "doubt": None}}, Options()) == []


def test_what_no_rollback_brings_back_is_said_once_for_all_hosts_of_which_it_is_true() -> None:
    hosts = [HostResult(f"h{n}", 1, left=["the package x 1.0 has no file"]) for n in range(7)]
    hosts.append(HostResult("other", 1, left=["/mnt is a mount"]))
    lines = not_as_before(hosts)
    assert len(lines) == 2
    assert "h0, h1, h2, h3, h4 and 2 more: the package x 1.0 has no file" in lines[0] and "/mnt" in lines[1]


def test_what_is_protected_without_a_declaration_is_said_once_for_all_hosts_of_which_it_is_true() -> None:
    hosts = [HostResult(f"h{n}", 1, protects=["packages", "files (/etc)"]) for n in range(7)]
    hosts += [HostResult("other", 1, protects=["users"]), HostResult("named", 1)]
    assert protected(hosts) == [
        "protected on h0, h1, h2, h3, h4 and 2 more: packages, files (/etc)",
        "protected on other: users",
    ]
    said = io.StringIO()
    done = ChangeResult("site.yml", Exit.DONE, "", [], hosts, [], 1.0)
    print_change(done, Console(file=said, width=200), Options())
    assert "Protected on other: users." in said.getvalue()


@pytest.mark.parametrize("said", ["web1=", "=abc", "web1=a,web2", ",web1=a"])
def test_a_list_of_checkpoints_that_is_none_is_a_usage_error(said: str) -> None:
    with pytest.raises(UsageError, match="HOST=CHECKPOINT"):
        read_checkpoints(said)


@pytest.mark.parametrize("said", ["latest", "before-change~1", "undo", ID])
def test_one_checkpoint_for_all_hosts_is_left_as_it_is(said: str) -> None:
    assert read_checkpoints(said) is None


def test_a_file_of_checkpoints_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_checkpoints(f"@{tmp_path}/nope")


def test_a_host_in_doubt_that_tries_again_by_itself_is_told_so() -> None:
    doubt = {"doubt": {"left": ["p"]}, "checkpoint": ID}
    rows = {"web1": {**doubt, "armed": {"tries_until": 4000.0, "left": ["p"]}}, "web2": doubt}
    lines = advice.after_status(rows, Options())
    assert "These hosts have not put back everything, and try again by themselves: web1" in lines


def test_a_change_that_hosts_ended_differently_is_to_be_resumed() -> None:
    def row(outcome: str, total: int = 2, by: str = "settle") -> dict[str, Any]:
        last = {"outcome": outcome, "change": "c", "hosts": total, "generation": 3, "by": by}
        return {"generation": 3, "armed": None, "last": last, "doubt": None}

    def shown(rows: dict[str, Any]) -> list[str]:
        return advice.after_status(rows, Options(inventory=("inv",)), resume.split(rows, 1.0))

    split = {"web1": row("confirmed"), "web2": row("rolled_back")}
    args = parsed(command(shown(split), "left in the middle"))
    assert (args.command, args.limit, args.change) == ("resume", ["web1,web2"], "c")
    for one in split.values():  # It ended long ago, so that only its name has it brought to one end.
        one["last"]["at"] = 2.0
    old = advice.after_status(split, Options(), resume.split(split, 1e9))
    assert parsed(command(old, "left in the middle")).change == "c"
    assert not shown({"web1": row("confirmed"), "web2": row("confirmed")})
    assert not shown({name: {**one, "last": {**one["last"], "hosts": 0}} for name, one in split.items()})
    # A person has decided for the host: nothing is taken back for it, and no resumption would do anything.
    for rest in (row("accepted", by="operator"), row("confirmed", by="operator")):
        assert not shown({"web1": row("confirmed"), "web2": rest})
    assert not shown({"web1": row("confirmed", by="operator"), "web2": row("rolled_back")})


def test_nobody_is_told_to_keep_what_goes_back_already() -> None:
    waits: dict[str, Any] = {"armed": {"until": 1.0, "overdue": None}}
    back: list[dict[str, Any]] = [{"armed": {"back": "settle"}}, {"armed": {"overdue": 0.0}}]
    ours: dict[str, Any] = {"armed": {"change": "c", "back": "settle"}}
    assert resume.alone({"web1": None, "web2": ours, "web3": {"armed": None}}) == ""
    assert resume.alone({"web1": back[0], "web2": back[1]}) == "web1, web2 go back now, by the dead-man"
    said = resume.alone({"web1": back[0], "web2": waits})
    assert said.startswith("web1 goes back now, by the dead-man. web2 is armed") and "evenkeel-host confirm" in said
