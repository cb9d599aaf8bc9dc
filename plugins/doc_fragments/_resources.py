# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Written by make options.
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  resources:
    description:
      - The state to protect, each entry a mapping with one key, the kind. By default all
        that a plain host consists of.
    type: list
    elements: dict
    default:
      - system: {}
    suboptions:
      packages:
        description:
          - 'Packages of dpkg or rpm: versions, holds, and the marks auto and manual, in
            one transaction.'
          - 'While a change is armed, the package file of a version is kept in the store
            at the moment in which apt, dpkg or dnf is about to replace or remove it: from
            the cache, or made anew from the files that are installed. It comes back without
            a mirror then. Where no hook of dnf 4 can be had, all files of rpm are kept
            at the checkpoint, from the cache of dnf or else the mirror. Rpm needs its
            Python module, and locks of dnf are files.'
          - A package that was not installed is removed again, but its data stay, and configuration
            in no declared path, unless C(purge) is V(true). Where no configuration of
            it is left, dpkg, ucf and systemd's helper of Debian forget it, so that the
            same change finds the host as it was.
          - As many packages as possible are put back; each of the others is named with
            its cause.
        type: dict
        version_added: 0.2.0
        suboptions:
          names:
            description:
              - Names of packages. By default all packages. For example V([nginx, libssl3:amd64]).
            type: list
            elements: str
          keep:
            description:
              - The package files that are kept. V(change) keeps those of versions that
                an armed change replaces, and nothing where no change is armed. V(all)
                keeps all of them at the checkpoint, from the cache or else the mirror.
                For example V(all).
            type: str
            choices:
              - change
              - all
            default: change
          purge:
            description:
              - Remove also the configuration and data of packages that were not installed
                (dpkg alone). For example V(true).
            type: bool
            default: false
      files:
        description:
          - 'Files and trees of files: contents, owners, modes, times, ACLs, extended attributes,
            links and holes.'
          - A rollback removes new paths below them.
        type: dict
        suboptions:
          paths:
            description:
              - Absolute paths of files and directories. A symlink is protected without
                its target. A byte of a name that is not UTF-8 is written C(\xe9), here
                as in all results, and a backslash that would read so C(\x5c). For example
                V([/etc/nginx, /srv/www]).
            type: list
            elements: str
            required: true
          exclude:
            description:
              - Shell patterns of paths that are left out. A pattern with a slash is compared
                with the whole path, another pattern with each name; one that can match
                no path is refused. For example V(['*.log', /srv/www/cache]).
            type: list
            elements: str
            default: []
      users:
        description:
          - The accounts and groups in passwd, shadow, group, gshadow, subuid and subgid,
            as one set.
          - 'They are read and put back under the lock of useradd and its like. So are
            the owners and modes of the directories that a login passes, such as homes
            with their C(.ssh), without which sshd lets nobody in, and of those that programs
            of all users pass, such as C(/srv) and C(/var/lib). Whether the services of
            an account run without a login (C(loginctl enable-linger)) comes back too,
            but for people, who may set it for themselves. Takes nothing. For example V(users:
            {}).'
        type: dict
        version_added: 0.2.0
        suboptions: {}
      mounts:
        description:
          - File systems that are mounted, where and with which options, swap, and C(/etc/fstab).
          - A rollback mounts what is missing, puts options back, and unmounts what was
            not there, unless a program uses it. The data on a file system is not touched;
            the content of a C(tmpfs) that was unmounted is lost. It leaves alone the mounts
            of programs (containers, snap, automounters), FUSE, and all below C(/dev),
            C(/media), C(/proc), C(/run) and C(/sys).
        type: dict
        version_added: 0.2.0
        suboptions:
          except:
            description:
              - Mount points that stay as they are, with C(*) for parts that vary. For
                example V([/mnt/backup, '/srv/ftp/*']).
            type: list
            elements: str
            default: []
      subvolumes:
        description:
          - Subvolumes of btrfs, each exchanged as a whole with a snapshot that lies beside
            it.
          - The snapshots are in C(.evenkeel-snapshots). It needs btrfs-progs. A snapshot
            takes no time and no room at first, and is on that disk alone. Replicas and
            restic do not carry it.
          - Reading files changes their times of access, and with them the subvolume, unless
            it is mounted with C(noatime).
        type: dict
        version_added: 0.2.0
        suboptions:
          paths:
            description:
              - Root directories of writable subvolumes that are not mounted themselves,
                below directories that root alone can write to. Subvolumes within one are
                refused, because a snapshot leaves them out. For example V([/srv/data]).
            type: list
            elements: str
            required: true
      network:
        description:
          - Addresses, routes, rules and name servers as they run, with the files of the
            tool that configures them.
          - The tool is ifupdown, netplan, systemd-networkd or NetworkManager, with its
            units, C(/etc/hosts) and C(/etc/resolv.conf). A rollback has the tool apply
            its files where the running state differs, and sets state that is still missing
            with C(ip). Where nothing differs nothing is applied. Addresses that a server
            or a router gives have to be there again, and may differ. Routes of routing
            daemons stay as they are.
        type: dict
        version_added: 0.2.0
        suboptions:
          interfaces:
            description:
              - Names or patterns of interfaces. The default is all but those that containers,
                virtual machines and VPNs make. For example V([eth0, 'wg*']).
            type: list
            elements: str
            default: []
          except:
            description:
              - Addresses and networks that are left alone, because they move between hosts.
                Addresses of keepalived and Pacemaker are known from their configuration.
                For example V([192.0.2.10, '2001:db8:7::/64']).
            type: list
            elements: str
            default: []
      sysctl:
        description:
          - Values of the running kernel. Files set these values at boot.
        type: dict
        version_added: 0.2.0
        suboptions:
          names:
            description:
              - 'Keys of the kernel. By default all that files of C(sysctl.d) set and this
                kernel has, and the name of the host. Then a rollback that puts back or
                takes away such a file puts back all other values as well: the file may
                have set them. For example V([net.ipv4.ip_forward, vm.swappiness]).'
            type: list
            elements: str
      system:
        description:
          - All that a plain host consists of; the default where nothing is declared.
          - 'It stands for C(files) of C(/etc), C(/usr/local), C(/opt), C(/root/.ssh),
            C(/var/spool/cron), C(/var/lib/pam), the answers of debconf and the C(.ssh/authorized_keys)
            of the account by which the controller has logged in, and for C(packages),
            C(users), C(network), C(services), C(sysctl) and C(firewall). Takes nothing.
            For example V(system: {}).'
          - A kind that is declared beside it comes in place of its own part of that kind;
            C(files) are left out of its trees, C(services) and C(sysctl) out of its names.
          - Left out are C(/etc/machine-id), caches, mounts from elsewhere, the data below
            C(/opt) and C(/usr/local) of programs that run at the checkpoint, as far as
            open files, owners and names tell, and what makes these trees larger than 256
            MB. The result C(left) names all of it.
        type: dict
        version_added: 0.2.0
        suboptions: {}
      firewall:
        description:
          - The nftables ruleset of the running kernel, without the values of counters
            and the state of programs.
          - The elements of sets that packets add or that expire are no part of it and
            stay as they are. So do the tables, chains and sets of known programs (fail2ban,
            docker, podman, kube-proxy, libvirt and others), the elements of sets that
            only shut out and that no file of the configuration fills, and the tables and
            sets of C(except). The result C(left) names them.
          - Tables of iptables that nft cannot load again go back by iptables itself. A
            table that iptables cannot load again either stays as it is.
        type: dict
        version_added: 0.2.0
        suboptions:
          except:
            description:
              - Tables and sets that stay as they are, with C(*) and C(?) for parts that
                vary. For example V([inet mine, 'inet filter banned*']).
            type: list
            elements: str
            default: []
      postgresql:
        description:
          - 'A PostgreSQL cluster: its configuration as files, its data as a restore point
            in its archived log.'
          - The role C(postgresql) sets it up. Give C(cluster), or C(data) and C(unit).
        type: dict
        version_added: 0.2.0
        suboptions:
          cluster:
            description:
              - Version and name of a cluster of Debian's. For example V(15/main).
            type: str
          data:
            description:
              - Data directory. By default where Debian puts that of C(cluster). For example
                V(/var/lib/pgsql/data).
            type: str
          unit:
            description:
              - The systemd unit that runs the server of C(data). For example V(postgresql.service).
            type: str
          archive:
            description:
              - Directory of the archived log and the base backups. By default the data
                directory with C(.evenkeel) behind it. For example V(/srv/archive/main).
            type: str
      services:
        description:
          - Services, enabled and active as they were, and running the files on disk.
          - The administrator's unit files and drop-ins, and the links by which the units
            are enabled, are part of it. The result C(left) names state of a unit that
            a rollback could not restore.
          - 'Give C(names) or C(processes), or both. With neither, all units of the host
            are meant: those that are enabled or can be, and those that run. Such a unit
            is reloaded or started anew only where a file is put back that is its own by
            its name, as C(/etc/nginx) is of C(nginx), or where it was started, stopped
            or reloaded since. A unit that the change has started is stopped, unless others
            may have started it on demand.'
        type: dict
        suboptions:
          names:
            description:
              - Systemd units. They are recorded under their own names, also where an alias
                is written; a pattern or a template is refused. For example V([nginx, php-fpm.service]).
            type: list
            elements: str
          except:
            description:
              - Units that are left alone where all are meant. For example V([docker.service]).
            type: list
            elements: str
            default: []
          processes:
            description:
              - 'Services without systemd, as the option C(process) of M(evenkeel.fault_tolerance.ft_restart).
                For example V([{name: app, pidfile: /run/app.pid, argv: [/opt/app/serve]}]).'
            type: list
            elements: dict
            suboptions:
              name:
                description:
                  - Name of the service, for results and messages. For example V(app).
                type: str
                required: true
              pidfile:
                description:
                  - Absolute path of the file that holds its process id. For example V(/run/app.pid).
                type: str
                required: true
              argv:
                description:
                  - The command that stays in the foreground, a list of words that begins
                    with an absolute path. For example V([/opt/app/serve, --port, '8080']).
                type: list
                elements: str
                required: true
              chdir:
                description:
                  - Directory in which the command runs. For example V(/srv).
                type: str
                default: /
              reload_signal:
                description:
                  - Signal by which the process reads its configuration again. Without
                    it there is no warm restart. For example V(HUP).
                type: str
              stop_signal:
                description:
                  - Signal that asks the process to end. For example V(QUIT). It has 10
                    seconds for that, and is killed then, which is told in C(warnings).
                    Processes that it leaves behind in the process group that it leads
                    end with it. Where it leaves processes in a group of others, they are
                    named, and the stop has failed.
                type: str
                default: TERM
"""
