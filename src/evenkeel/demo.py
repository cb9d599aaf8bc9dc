# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The story in four acts, on an embedded fleet: three hosts that are directories, each with a real HTTP server.

Needs no root and no containers, and leaves nothing behind. It has measured every claim that it prints. A claim that
does not hold ends the demo with exit code 1.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from evenkeel import cli
from evenkeel.collection import make_importable

NAMES = ("web1", "web2", "web3")
_SYSTEMD = "/run/systemd/system"
# Runs its arguments where a directory looks empty, and for nobody else.
_HIDDEN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
_CAN_HIDE = ("unshare", "--mount", "true")
GOOD = """\
- name: Publish version 2
  hosts: web
  gather_facts: false
  tasks:
    - name: Write the page
      ansible.builtin.copy:
        content: "<h1>version 2</h1>"
        dest: "{{ site }}/index.html"
        mode: "0644"
"""
BAD = GOOD.replace("version 2", "{{ oops | default('') }}").replace("Publish", "Publish by mistake")
SLOW = (
    GOOD.replace("version 2", "version 3")
    + """
    - name: Go on with something long
      ansible.builtin.pause:
        seconds: 60
"""
)


class Broken(Exception):
    """The story did not go as told."""


@dataclass
class Demo:
    """The fleet below ``home``. ports: of the HTTP servers. rows: the table at the end."""

    home: Path
    console: Console
    ports: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def definition(self, host: str) -> dict[str, object]:
        """The HTTP server of the host, as Evenkeel keeps it running."""
        site = str(self.home / host / "site")
        argv = [sys.executable, "-m", "http.server", str(self.ports[host]), "--bind", "127.0.0.1", "--directory", site]
        return {"name": f"{host}-http", "pidfile": str(self.home / host / "run" / "http.pid"), "argv": argv}

    def build(self) -> None:
        for host in NAMES:
            (self.home / host / "site").mkdir(parents=True)
            (self.home / host / "site" / "index.html").write_text("<h1>version 1</h1>")
            self.ports[host] = _free_port()
            self.service(host, "start")
        hosts = {host: self._variables(host, number) for number, host in enumerate(NAMES, 1)}
        everything = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "evenkeel_copies": 1,
            "evenkeel_failure_domain": "rack",
            "evenkeel_deadline": "4s",
            "evenkeel_soak": "1s",
        }
        inventory = {"all": {"vars": everything, "children": {"web": {"hosts": hosts}}}}
        (self.home / "inventory.yml").write_text(yaml.safe_dump(inventory))
        for name, text in {"good.yml": GOOD, "bad.yml": BAD, "slow.yml": SLOW}.items():
            (self.home / name).write_text(text)

    def _variables(self, host: str, number: int) -> dict[str, object]:
        site = str(self.home / host / "site")
        page = {"url": f"http://127.0.0.1:{self.ports[host]}/", "body": "version [0-9]+"}
        return {
            "rack": f"rack{number}",
            "site": site,
            "evenkeel_store": str(self.home / host / "evenkeel"),
            "evenkeel_resources": [
                {"files": {"paths": [site]}},
                {"services": {"processes": [self.definition(host)]}},
            ],
            "evenkeel_probes": [{"http": page}],
        }

    def service(self, host: str, verb: str) -> None:
        """Act on the HTTP server with the collection's own process backend."""
        make_importable()
        from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
        from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import process

        process.act(verb, process.check(self.definition(host)), System())

    def page(self, host: str) -> str:
        """The page that the host serves now."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[host], timeout=3)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode().replace("<h1>", "").replace("</h1>", "")
        except OSError:
            return "nothing"
        finally:
            connection.close()

    def pages(self) -> str:
        return ", ".join(f"{host}: {self.page(host)}" for host in NAMES)

    def outcome(self, host: str) -> dict[str, Any]:
        """The end of the last change, as the host itself remembers it."""
        try:
            return dict(json.loads((self.home / host / "evenkeel" / "events").read_text().splitlines()[-1]))
        except (OSError, IndexError):
            return {}

    def evenkeel(self, *words: str) -> int:
        self.console.print(f"  [bold]$ evenkeel {' '.join(words)}[/]")
        return cli.main([*words])

    def expect(self, what: str, holds: bool) -> None:
        self.console.print(f"  [{'green' if holds else 'red'}]{'✓' if holds else '✗'}[/] {what}")
        if not holds:
            raise Broken(f"{what}: this is not true. The hosts serve {self.pages()}")

    def act(self, number: int, title: str, play: Callable[[], str]) -> None:
        self.console.print(f"\n[bold cyan]Act {number}. {title}[/]")
        began = time.monotonic()
        end = play()
        self.rows.append((str(number), title, end, f"{time.monotonic() - began:.0f} s"))

    # -- the acts

    def good(self) -> str:
        code = self.evenkeel("change", "good.yml", "-i", "inventory.yml", "--waves", "1,100%")
        self.expect("exit code 0, and every host serves version 2", code == 0 and self.all_serve("version 2"))
        self.expect("each host remembers: confirmed", all(self.outcome(h)["outcome"] == "confirmed" for h in NAMES))
        return "confirmed on 3 hosts"

    def bad(self) -> str:
        code = self.evenkeel("change", "bad.yml", "-i", "inventory.yml", "--waves", "1,100%")
        self.expect("exit code 2: it failed, and was rolled back", code == 2)
        self.expect("web1 serves version 2 again, the others were never touched", self.all_serve("version 2"))
        self.expect("web1 remembers: rolled back", self.outcome("web1")["outcome"] == "rolled_back")
        return "rolled back on the first host"

    def killed(self) -> str:
        words = ["change", "slow.yml", "-i", "inventory.yml", "--waves", "100%", "--confirm-within", "15s"]
        self.console.print(f"  [bold]$ evenkeel {' '.join(words)}[/]")
        argv = [sys.executable, "-m", "evenkeel.cli", *words]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            self.expect(
                "the change is half-way: every host serves version 3", self.wait(lambda: self.all_serve("version 3"))
            )
        finally:
            process.kill()
            process.wait()
        self.console.print("  [bold]$ kill -9[/] the controller, in the middle")
        self.expect("the hosts put themselves back to version 2", self.wait(lambda: self.all_serve("version 2")))
        by_deadline = self.wait(lambda: all(self.outcome(host).get("by") == "deadline" for host in NAMES))
        self.expect("each remembers: rolled back, by its own deadline", by_deadline)
        return "3 hosts put themselves back"

    def lose_host(self) -> str:
        code = self.evenkeel("protect", "-i", "inventory.yml")
        self.expect("every host has a copy of its checkpoint on a host in another rack", code == 0)
        self.service("web2", "stop")
        shutil.rmtree(self.home / "web2")
        self.console.print("  [bold]$ rm -rf[/] everything of web2: its files, its store; its server is gone")
        self.expect("web2 serves nothing", self.page("web2") == "nothing")
        code = self.evenkeel("recover", "web2", "-i", "inventory.yml")
        self.expect("web2 is back from its replica, and serves version 2", code == 0 and self.all_serve("version 2"))
        return "recovered from a replica"

    def all_serve(self, text: str) -> bool:
        return all(self.page(host) == text for host in NAMES)

    def wait(self, condition: Callable[[], bool], seconds: float = 30.0) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.2)
        return condition()

    def close(self) -> None:
        for host in self.ports:
            try:
                self.service(host, "stop")
            except Exception as error:
                self.console.print(f"the server of {host} could not be stopped: {error}", style="red")
        shutil.rmtree(self.home, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(systemd: str = _SYSTEMD) -> int:
    """Play all acts. Returns 0 when everything was as told, 1 otherwise.

    systemd: the directory that is there where systemd runs.
    """
    console = Console(highlight=False)
    if os.geteuid() == 0 and os.path.isdir(systemd):
        # The hosts of the demo have no systemd: as root they would install their units on this machine.
        with suppress(OSError):
            if subprocess.run(_CAN_HIDE, capture_output=True, check=False).returncode == 0:
                # -P: no module of the current directory counts.
                argv = [*_HIDDEN, os.path.dirname(systemd), sys.executable, "-P", "-m", "evenkeel.demo"]
                os.execvp(argv[0], argv)
        console.print("As root it has to hide systemd, and cannot: run it as another user. Nothing was touched.")
        return 1
    home = Path(os.path.realpath(tempfile.mkdtemp(prefix="evenkeel-demo-")))
    demo = Demo(home, console)
    before = os.getcwd()
    console.print("[bold]Evenkeel.[/] Nothing is kept unless it is confirmed.")
    console.print(f"Three hosts, each a folder and a real HTTP server, in {home}:")
    try:
        demo.build()
        os.chdir(home)
        console.print(f"  {demo.pages()}")
        demo.act(1, "A good change is confirmed", demo.good)
        demo.act(2, "A bad change is caught by its probe", demo.bad)
        demo.act(3, "The controller is killed in the middle", demo.killed)
        demo.act(4, "A host loses its files and its store", demo.lose_host)
    except Broken as error:
        console.print(f"\n[red]{error}[/]")
        return 1
    finally:
        os.chdir(before)
        demo.close()
    table = Table(title="\nWhat happened", title_justify="left")
    for column in ("act", "what was done", "how it ended", "took"):
        table.add_column(column)
    for row in demo.rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"Nothing is left behind: {home} is gone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
