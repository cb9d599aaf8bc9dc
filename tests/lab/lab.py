#!/usr/bin/env python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start a fleet of real hosts on one machine, and remove it again without a trace.

Each host is a podman container that runs systemd as pid 1, answers over SSH and has an address of its own.
A lab is a named set of hosts with its own network; several labs stand side by side. The files by which a person or a
test reaches it (key, known hosts, inventory) are in .lab/NAME/ at the root of the repository.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from laboratory.hosts import USERS, Host
from laboratory.image import RELEASES, build_image
from laboratory.lab import Lab
from laboratory.machine import LabError, engine, locked, podman, prepare_machine, run, say, unavailable

# Tests import these from here.
__all__ = ["Host", "Lab", "LabError", "engine", "main", "podman", "run", "unavailable"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    assert __doc__
    top = argparse.ArgumentParser(
        prog="lab.py",
        description=__doc__,
        epilog="Example: lab.py up --hosts 5 && ansible -i .lab/dev/inventory.yml web -m ping; lab.py down",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, *, host: str | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        if name != "build":
            sub.add_argument("--name", default="dev", help="which lab (default: dev)")
        if host:
            sub.add_argument("host", metavar="HOST", help=host)
        return sub

    up = command("up", "start a lab, or bring one that is there to what is asked for")
    up.add_argument("--hosts", type=int, metavar="N", help="how many (default: as many as it has, or five)")
    up.add_argument("--release", choices=RELEASES, help=f"Debian release of the hosts (default: {RELEASES[0]})")
    command("down", "remove a lab: every container, network and file of it")
    command("status", "show each host with its address and state")
    which = command("inventory", "print the path of the lab's inventory")
    which.add_argument("--user", choices=USERS, default="root", help="whom to log in as (default: root)")
    ssh = command("ssh", "log in to a host, or run a command there, over SSH", host="name of the host")
    ssh.add_argument("--user", choices=USERS, default="root", help="whom to log in as (default: root)")
    ssh.add_argument("argv", nargs=argparse.REMAINDER, metavar="[-- CMD]", help="a command instead of a shell")
    run_ = command(
        "exec",
        "run a command on a host's console, which needs neither network nor sshd",
        host="name of the host",
    )
    run_.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command")
    command("reboot", "reboot a host from inside, and wait for it", host="name of the host")
    command("start", "start a stopped host", host="name of the host")
    stop = command("stop", "shut a host down", host="name of the host")
    stop.add_argument("--now", action="store_true", help="pull the plug")
    command("disconnect", "drop all packets to and from a host", host="name of the host")
    command("connect", "undo disconnect", host="name of the host")
    add = command("add", "start one more, fresh host", host="name of the new host")
    add.add_argument("--group", default="web", help="its inventory group (default: web)")
    command("recreate", "put a fresh host in the place of one, with its name and address", host="name of the host")
    build = command("build", "build the image of the hosts, if it is not there or its recipe changed")
    build.add_argument("--release", choices=RELEASES, default=RELEASES[0], help=f"(default: {RELEASES[0]})")
    build.add_argument("--force", action="store_true", help="build it even so")
    build.add_argument("--containerfile", action="store_true", help="build it without mmdebstrap")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (of exec and ssh: the command's own)."""
    args = parser().parse_args(argv)
    try:
        return perform(args)
    except LabError as error:
        say(f"lab.py: {error}")
        if args.command == "up":
            say(f"lab.py: 'up' again goes on, 'down --name {args.name}' removes what there is")
        return 1
    except KeyboardInterrupt:
        say("lab.py: interrupted; run the same again to go on, or 'lab.py down' to remove what is there")
        return 130


def perform(args: argparse.Namespace) -> int:
    """Do what the command line asks for."""
    if args.command == "build":
        prepare_machine()
        with locked():
            print(build_image(args.release, force=args.force, containerfile=args.containerfile))
        return 0
    if args.command == "up":
        print(Lab(args.name, args.hosts, args.release).up().inventory)
        return 0
    lab = Lab(args.name)
    if args.command == "down":
        lab.down()
        return 0
    if args.command == "inventory":
        lab.hosts  # noqa: B018  a path to nothing would be no answer
        print(lab.inventory_as(args.user))
        return 0
    if args.command == "ssh":
        lab.host(args.host)
        command = [arg for n, arg in enumerate(args.argv) if n or arg != "--"]
        os.execvp("ssh", ["ssh", "-F", str(lab.ssh_config), "-l", args.user, args.host, *command])
    if os.geteuid() != 0:
        raise LabError(f"'{args.command}' needs root: run it with sudo")
    if args.command == "status":
        for host, state in lab.status():
            print(f"{host.name:12} {host.address:15} {host.rack:6} {state}")
    elif args.command == "exec":
        lab.host(args.host)
        command = [arg for n, arg in enumerate(args.argv) if n or arg != "--"]
        if not command:
            raise LabError("exec needs a command: lab.py exec HOST -- CMD")
        terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
        os.execvp(engine()[0], [*engine(), "exec", "--interactive", *terminal, lab._container(args.host), *command])
    elif args.command == "reboot":
        say(f"'{args.host}' rebooted in {lab.reboot(args.host):.1f} s")
    elif args.command == "stop":
        lab.stop(args.host, now=args.now)
    elif args.command == "add":
        say(f"added {lab.add(args.host, group=args.group)}")
    else:
        getattr(lab, args.command)(args.host)
    return 0


if __name__ == "__main__":
    sys.exit(main())
