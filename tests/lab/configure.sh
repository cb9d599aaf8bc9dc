#!/bin/sh
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Turns an installed Debian tree into the image of a lab host. Runs inside the tree, which is not booted.
set -eu

# A user without privileges, for what is run with become.
useradd --create-home --uid 1000 --shell /bin/bash ops
printf 'ops ALL=(ALL) NOPASSWD: ALL\n' >/etc/sudoers.d/ops
chmod 0440 /etc/sudoers.d/ops

# Who a host is, it gets when it is started: nothing of it may come from the image.
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id
: >/etc/machine-id

# A base image may carry this file; with it, packages installed on a host would not start their services.
rm -f /usr/sbin/policy-rc.d

# Nothing changes a host behind a test's back.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done

# Debian's default, written down: a host serves HTTP from its first boot.
systemctl enable ssh.service nginx.service
systemctl disable haproxy.service etcd.service keepalived.service
# Debian's unit binds the journal's socket into its own root, which a container may not.
mkdir /etc/systemd/system/haproxy.service.d
printf '[Service]\nBindReadOnlyPaths=\n' >/etc/systemd/system/haproxy.service.d/lab.conf
