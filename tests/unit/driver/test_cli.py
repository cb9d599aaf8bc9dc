# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line itself: every --help, every exit code, and one JSON document whatever happens."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evenkeel import cli
from evenkeel.ansible import asking
from evenkeel.ansible.caller import Caller, Controller
from evenkeel.ansible.configuration import Ansible
from evenkeel.ansible.options import Options, Secrets
from evenkeel.ansible.targets import Inventory, Targets
from evenkeel.changes.request import DEFAULT_WAVES
from evenkeel.collection import collections_path
from evenkeel.commands.arguments import specs
from evenkeel.commands.base import Command
from evenkeel.commands.change import Change
from evenkeel.commands.fleet import FleetCommand, Stop
from evenkeel.commands.registry import NAMES, every, playbooks
from evenkeel.commands.rollback import FOR_EACH, Rollback
from evenkeel.commands.status import Status
from evenkeel.outcome import ChangeResult, Exit, RunResult, UsageError, under_way
from evenkeel.show.display import Screen

PLAYBOOKS = playbooks()

COMMANDS = [
    "change",
    "rollback",
    "accept",
    "protect",
    "recover",
    "restart",
    "scrub",
    "heal",
    "status",
    "suggest",
    "plan",
]
HOSTILE = "%s {0} {x} [/x] [bold]\x1b[2J\x07 100% \u202e"


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether Ansible would be loaded. No command here comes to a question."""
    found: list[bool] = []
    monkeypatch.setattr(asking, "start_ahead", lambda: found.append(True))
    return found


@pytest.mark.parametrize("columns", ["30", "80", "200"])
@pytest.mark.parametrize(
    "words", [[], *([command] for command in COMMANDS)], ids=lambda words: " ".join(words) or "top"
)
def test_every_help_can_be_read(
    words: list[str], columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as left:
        cli.main([*words, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: evenkeel") and "%%" not in text
    if words == ["change"] and columns != "30":
        assert DEFAULT_WAVES in text


def test_help_names_every_command_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    assert all(f"\n  {int(code)}  " in text for code in Exit)


@pytest.mark.parametrize(
    "words",
    [
        ["change"],
        ["change", "x.yml", "--nonsense"],
        ["rollback", "--checkpoint"],
        ["rollback", "--checkpoint", ""],
        ["rollback", "--checkpoint", "web1="],
        ["rollback", "--paths", "etc/nginx"],
        ["rollback", "--kinds", "files,"],
        ["accept"],
        ["accept", "--limit", "web1"],
        ["protect", "--copies", "many"],
        ["protect", "--resources", "/not/there.yml"],
        ["recover"],
        ["recover", "web1", "--identity", "both"],
        ["recover", "web1", "--kinds", "files,"],
        ["recover", "web1", "--min-copies", "many"],
        ["restart"],
        ["restart", "nginx", "--mode", "lukewarm"],
        ["restart", "nginx", "--owed"],
        ["restart", "nginx", "--mode", "reboot"],
        ["restart", "nginx", "--drain", "/not/there.yml"],
        ["restart", "nginx", "--last", "'"],
        ["restart", "nginx", "--last", ""],
        ["restart", "nginx", "--probes", "/not/there.yml"],
        ["scrub", "--share", "x%"],
        ["heal", "--copies", "x"],
        ["status", "extra"],
        ["status", "--lim", "web1"],
        ["plan"],
        ["plan", "/not/there.yml"],
        ["nothing"],
        [],
        ["change", "x.yml", "--check"],
    ],
    ids=lambda words: " ".join(words) or "nothing at all",
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_usage_error_of_any_command_ends_with_1_and_with_json_when_that_was_asked_for(
    words: list[str], as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words, "--json"] if as_json else words
    try:
        code: Any = cli.main(words)
    except SystemExit as left:
        code = left.code
    out, err = capsys.readouterr()
    assert code == 1
    assert "Traceback" not in out + err
    if as_json:
        document = json.loads(out)
        assert document["exit_code"] == 1 and document["reason"]


def options_with_a_value(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Every option, of every command, that takes any text."""
    (commands,) = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return [
        (name, action.option_strings[-1])
        for name, own in commands.choices.items()
        for action in own._actions
        if action.option_strings and action.nargs != 0 and action.type is None and not action.choices
    ]


@pytest.mark.parametrize("blank", ["", " ", ","])
def test_no_option_that_names_nothing_counts_as_not_given(blank: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli.parser()
    options = options_with_a_value(parser)
    assert {("change", "--limit"), ("abort", "--change"), ("recover", "--onto"), ("heal", "--forget")} <= set(options)
    needed = {"change": ["x.yml"], "accept": ["web1"], "recover": ["web1"], "plan": ["x.yml"]}
    for command, option in options:
        with pytest.raises(SystemExit) as left:
            parser.parse_args([command, *needed.get(command, []), option, blank])
        assert left.value.code == 1
        assert f"{option}: {blank!r} names nothing" in capsys.readouterr().err
    for command in ("accept", "recover", "change"):
        with pytest.raises(SystemExit):
            parser.parse_args([command, blank])


@pytest.mark.parametrize("as_json", [False, True])
def test_text_of_others_in_an_error_is_shown_and_does_nothing(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    class Refuses(Status):
        def run(self, *_words: Any) -> RunResult:
            raise UsageError(HOSTILE)

    assert cli.main(["status", *(["--json"] if as_json else [])], [Refuses()]) == 1
    out, err = capsys.readouterr()
    assert "\x1b[2J" not in out + err and "\u202e" not in out + err
    assert "[/x] [bold]" in out + err and "%s {0}" in out + err
    if as_json:
        assert json.loads(out)["reason"] == HOSTILE


@pytest.mark.parametrize(("before", "stopped"), [(signal.SIG_IGN, 0), (signal.SIG_DFL, 1)])
def test_a_lost_terminal_stops_a_command_unless_it_runs_under_nohup(before: signal.Handlers, stopped: int) -> None:
    asked: list[int] = []

    class Loses(Status):
        def run(self, _args: Any, _given: Options, caller: Caller) -> RunResult:
            os.kill(os.getpid(), signal.SIGHUP)
            asked.append(caller.asked_to_stop())
            return RunResult("status", Exit.DONE, "", {}, [], 0.0)

    signal.signal(signal.SIGHUP, before)
    cli.main(["status"], [Loses()])
    assert asked == [stopped]


@pytest.mark.parametrize("as_json", [False, True])
def test_an_error_of_our_own_never_looks_as_if_nothing_had_been_touched(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fails(Change):
        def run(self, args: Any, given: Options, caller: Caller) -> ChangeResult:
            caller.begins()
            raise ValueError(HOSTILE)

    assert cli.main(["change", "x.yml", "-i", "my inv", *(["--json"] if as_json else [])], [Fails()]) == Exit.IN_DOUBT
    out, err = capsys.readouterr()
    assert "Nothing was touched" not in out + err
    assert "evenkeel status -i 'my inv'" in out + err
    if as_json:
        assert json.loads(out)["exit_code"] == 4


def test_nor_does_one_that_comes_when_the_result_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    class Odd(Rollback):
        def run(self, *_words: Any) -> RunResult:
            return RunResult("rollback", Exit.DONE, "", {"web1": {"no": "state"}}, [], 0.0)

    assert cli.main(["rollback"], [Odd()]) == Exit.IN_DOUBT
    assert "KeyError" in capsys.readouterr().out


def late_refusal(base: Path) -> Controller:
    """A fleet of one host, whose first run ends with an error that should have come before it. base: its directory."""

    def run_own(*_words: Any, **_how: Any) -> Any:
        raise UsageError("of the second wave")

    @contextlib.contextmanager
    def session(*words: Any) -> Iterator[Any]:
        assert words[3] == base
        yield SimpleNamespace(list_own=lambda *_words: ("web1",), run_own=run_own)

    inventory = Inventory(("web1",), {}, {"web1": {"evenkeel_resources": [{"files": {"paths": ["/srv"]}}]}})
    return Controller(
        ask_ansible=lambda cwd: Ansible(cwd, {}, ""),
        find_targets=lambda *_words: Targets(("web1",), ("web1",), (), inventory),
        open_session=session,
    )


def test_a_usage_error_that_comes_when_hosts_were_touched_does_not_say_that_none_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caller = Caller(secrets=Secrets(), controller=late_refusal(tmp_path))

    class LateRollback(Rollback):
        def run(self, args: Any, given: Options, cli_s: Caller) -> RunResult:
            return super().run(args, given, replace(caller, begins=cli_s.begins))

    class LateChange(Change):
        def run(self, args: Any, given: Options, cli_s: Caller) -> ChangeResult:
            return super().run(args, given, replace(caller, begins=cli_s.begins))

    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "site.yml").write_text("[]")
    (tmp_path / "site.yml").symlink_to("else/site.yml")
    beside = ["rollback", "--playbook-dir", str(tmp_path)]
    for words, command in ((beside, LateRollback()), (["change", str(tmp_path / "site.yml")], LateChange())):
        assert cli.main(words, [command]) == Exit.IN_DOUBT
        out = "".join(capsys.readouterr())
        assert "of the second wave" in out and "Nothing was touched" not in out


def test_an_error_of_our_own_is_shown_without_what_it_would_do_to_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Fails(Status):
        def run(self, *_words: Any) -> RunResult:
            raise ValueError(HOSTILE)

    cli.main(["status"], [Fails()])
    shown = "".join(capsys.readouterr())
    assert "Traceback" in shown and all(one.isprintable() or one == "\n" for one in shown), ascii(shown)


@pytest.mark.parametrize("code", [Exit.DONE, Exit.FAILED, Exit.PARTLY])
@pytest.mark.parametrize("as_json", [False, True])
def test_nobody_who_reads_changes_no_exit_code(code: Exit, as_json: bool) -> None:
    """As in ``evenkeel status | head -n 1``."""
    words = ["status", *(["--json"] if as_json else [])]
    program = (
        "import sys; from evenkeel import cli; from evenkeel.commands.status import Status\n"
        "from evenkeel.outcome import RunResult, Exit\n"
        "from evenkeel.progress import Kind, Progress\n"
        "class Told(Status):\n"
        "    def run(self, args, given, caller):\n"
        "        caller.report(Progress(Kind.NOTE, 'under way'))\n"
        f"        return RunResult('status', Exit({int(code)}), '', {{}}, [], 0.0)\n"
        f"sys.exit(cli.main({words!r}, [Told()]))"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == code and "Error" not in done.stderr, done.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_a_plan_that_nobody_reads_and_output_that_no_file_takes_are_told_apart(as_json: bool, tmp_path: Path) -> None:
    (tmp_path / "plan.yml").write_text("groups: {web: {hosts: 3}}\n")
    words = [sys.executable, "-m", "evenkeel.cli", "plan", str(tmp_path / "plan.yml"), *(["--json"] if as_json else [])]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "the output could not be written: No space left" in done.stderr


def test_a_document_that_no_file_takes_is_no_success() -> None:
    program = (
        "import sys; from evenkeel import cli; from evenkeel.commands.status import Status\n"
        "from evenkeel.outcome import RunResult, Exit\n"
        "class Told(Status):\n"
        "    def run(self, args, given, caller): return RunResult('status', Exit.DONE, '', {}, [], 0.0)\n"
        "sys.exit(cli.main(['status', '--json'], [Told()]))"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == Exit.IN_DOUBT and "could not be written" in done.stderr


def variables(words: list[str]) -> dict[str, object]:
    """The variables that a command line sends to its playbook."""
    return PLAYBOOKS[words[0]].variables(cli.parser().parse_args(words))


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_every_command_that_is_a_playbook_has_one(name: str) -> None:
    root = collections_path() / "ansible_collections/evenkeel/fault_tolerance"
    assert (root / "playbooks" / f"{name}.yml").is_file()


def test_a_new_command_is_one_class_and_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    class Hello(Command):
        name = "hello"
        text = "greet a host"

        def add_arguments(self, parser: argparse.ArgumentParser) -> None:
            parser.add_argument("host")

        def main(self, args: argparse.Namespace) -> int:
            print(f"hello {args.host}")
            return 5

    assert cli.main(["hello", "web1"], [*every(), Hello()]) == 5
    assert capsys.readouterr().out == "hello web1\n"


@pytest.mark.parametrize(
    ("words", "loaded", "left"),
    [
        (["--version"], [], ["rich", "yaml", "evenkeel.ansible", "evenkeel.shared", "evenkeel.commands.fleet"]),
        (["status", "--help"], ["status"], ["yaml", "urllib.request", "rich.live", "evenkeel.commands.plan"]),
        (["no-such-command"], NAMES, []),
        (["--help"], NAMES, []),
    ],
    ids=lambda value: value[0] if value else "",
)
def test_a_command_line_loads_what_it_needs_alone(words: list[str], loaded: list[str], left: list[str]) -> None:
    program = (
        "import contextlib, sys\n"
        "from evenkeel import cli\n"
        f"with contextlib.suppress(SystemExit): cli.main({words!r})\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = done.stderr.splitlines()[-1].split()
    assert {f"evenkeel.commands.{name}" for name in loaded} <= set(modules)
    assert [name for name in left if name in modules] == []


@pytest.mark.parametrize(
    ("words", "loads"),
    [
        (["status", "--no-such-option"], True),
        (["change"], True),
        (["status", "--help"], False),
        (["change", "-h"], False),
        (["plan"], False),
        (["--version"], False),
        (["no-such-command"], False),
        ([], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_ansible_is_loaded_meanwhile_for_a_command_that_asks_it(
    words: list[str], loads: bool, begun: list[bool]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(words)
    assert begun == [True] * loads


def test_a_rollback_of_some_kinds_and_paths_asks_for_these() -> None:
    words = ["rollback", "--kinds", "files, packages", "--kinds", "users", "--paths", "/etc/nginx", "/srv/a,b"]
    found = variables(words)
    assert found["evenkeel_kinds"] == ["files", "packages", "users"]
    assert found["evenkeel_paths"] == ["/etc/nginx", "/srv/a,b"]
    assert "evenkeel_checkpoint" not in found


@pytest.mark.parametrize(
    ("words", "new", "value"),
    [
        (["rollback", "--to", "before"], "checkpoint", "before"),
        (["change", "site.yml", "--failure-domain", "rack"], "guard_domain", "rack"),
        (["change", "site.yml", "--protect", "f.yml"], "resources", "f.yml"),
        (["protect", "--protect", "f.yml"], "resources", "f.yml"),
    ],
)
def test_an_old_name_works_and_the_new_one_is_told(
    words: list[str], new: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = cli.parser().parse_args(words)
    assert getattr(args, new) == value
    said = capsys.readouterr().err
    assert f"{words[-2]} is named --{new.replace('_', '-')} now; the old name works until version 0.3.0" in said
    assert getattr(cli.parser().parse_args([*words[:-2], f"--{new.replace('_', '-')}", value]), new) == value
    assert not capsys.readouterr().err


def test_a_file_of_resources_is_checked_by_the_kinds(tmp_path: Path) -> None:
    (tmp_path / "resources.yml").write_text("- files: {paths: [/etc], exlude: []}\n")
    with pytest.raises(UsageError, match=r"resources\[0\]\.files\.exlude is no option \(did you mean exclude\?\)"):
        variables(["protect", "--resources", str(tmp_path / "resources.yml")])


def test_a_rollback_can_name_a_checkpoint_for_each_host() -> None:
    found = variables(["rollback", "--checkpoint", "web1=aaaaaaaa,web2=bbbbbbbb"])
    assert found["evenkeel_checkpoint"] == FOR_EACH
    assert found["evenkeel_checkpoints"] == {"web1": "aaaaaaaa", "web2": "bbbbbbbb"}


def test_accept_is_for_the_hosts_that_are_named() -> None:
    assert variables(["accept", "web1", "web2"]) == {"evenkeel_hosts": ["web1", "web2"]}


def test_what_is_not_declared_is_restored_only_where_that_is_said() -> None:
    found = variables(["recover", "web1"])
    assert found == {"evenkeel_recover_host": "web1", "evenkeel_hosts": "web1"}
    assert variables(["recover", "web1", "--undeclared"])["evenkeel_undeclared"] is True


def test_a_recovery_names_the_spare_its_identity_and_the_part() -> None:
    words = ["recover", "web1", "--onto", "any", "--identity", "take", "--min-copies", "2"]
    assert variables([*words, "--kinds", "files,users", "--paths", "/etc", "/srv"]) == {
        "evenkeel_recover_host": "web1",
        "evenkeel_hosts": "any",
        "evenkeel_identity": "take",
        "evenkeel_recover_min_copies": 2,
        "evenkeel_kinds": ["files", "users"],
        "evenkeel_paths": ["/etc", "/srv"],
    }


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("as_json", [False, True])
def test_closed_streams_change_no_exit_code(closed: str, as_json: bool) -> None:
    words = ["status", *(["--json"] if as_json else [])]
    program = (
        "import sys; from evenkeel import cli; from evenkeel.commands.status import Status\n"
        "from evenkeel.outcome import RunResult, Exit\n"
        "class Told(Status):\n"
        "    def run(self, args, given, caller): return RunResult('status', Exit.REFUSED, '', {}, [], 0.0)\n"
        f"sys.exit(cli.main({words!r}, [Told()]))"
    )
    line = shlex.join([sys.executable, "-c", program])
    assert subprocess.run(["sh", "-c", f"{line} {closed}"], capture_output=True, check=False).returncode == 3


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no", "/x"), UnicodeDecodeError("utf-8", b"", 0, 1, "odd"), RuntimeError("a fault")]
)
def test_only_what_goes_wrong_once_hosts_may_be_touched_is_doubt(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fails(Status):
        touches = False

        def run(self, args: Any, given: Options, caller: Caller) -> RunResult:
            with under_way(caller.begins) if self.touches else contextlib.nullcontext():
                raise error

    assert cli.main(["status"], [Fails()]) == Exit.USAGE
    said = "".join(capsys.readouterr())
    assert "Nothing was touched" in said and ("Traceback" in said) is isinstance(error, RuntimeError)
    Fails.touches = True
    assert cli.main(["status"], [Fails()]) == Exit.IN_DOUBT
    assert "Nothing was touched" not in "".join(capsys.readouterr())


def test_a_directory_that_is_gone_and_a_file_in_another_encoding_are_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "probes.yml").write_bytes(b"- command: {argv: [\xe4]}\n")
    with pytest.raises(UsageError, match="probes.yml is not text in UTF-8"):
        specs(str(tmp_path / "probes.yml"), "probes")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="directory from which you call is gone"):
        Caller().ansible()


@pytest.mark.parametrize("command", [one for one in every() if isinstance(one, FleetCommand)], ids=lambda one: one.name)
def test_who_stops_is_promised_a_rollback_by_the_command_that_does_it_alone(
    command: FleetCommand[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ("rolled back now" in command.stopping[0]) == (command.name == "change")
    stop = Stop(Screen(), command.stopping)
    for _time in range(3):
        stop.handle(2, None)
        stop()
    assert " ".join(capsys.readouterr().out.split()) == " ".join([*command.stopping, command.stopping[1]])
