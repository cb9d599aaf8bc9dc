#!/bin/sh
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Makes of a host of the lab one on which the roles find all that they install, without a network: small packages that
# behave as the real ones do (users, units, rules, state), in a repository of files.
set -eu
repo=/usr/share/packages
mkdir -p $repo

# package NAME VERSION DEPENDS: of the tree in $work, which is emptied for the next one.
work=$(mktemp -d)
package() {
  mkdir -p $work/DEBIAN
  { printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: A <a@example.org>\n' "$1" "$2"
    [ -z "${3-}" ] || echo "Depends: $3"
    echo 'Description: of the tests'; } >$work/DEBIAN/control
  [ ! -d $work/etc ] || (cd $work && find etc -type f | sed 's#^#/#') >$work/DEBIAN/conffiles
  chmod -R u+rwX,go+rX,go-w $work
  [ ! -e $work/DEBIAN/postinst ] || chmod 755 $work/DEBIAN/postinst
  dpkg-deb --root-owner-group --build $work $repo/"$1"_"$2"_all.deb >/dev/null
  rm -rf $work/*
}
# unit NAME COMMAND [LINE]: enabled and started by the maintainer script, as debhelper does it.
unit() {
  mkdir -p $work/lib/systemd/system $work/DEBIAN
  printf '[Unit]\nDescription=%s\nStartLimitIntervalSec=0\n[Service]\nExecStart=%s\n%s\n[Install]\nWantedBy=multi-user.target\n' \
    "$1" "$2" "${3-}" >$work/lib/systemd/system/$1.service
  cat >>$work/DEBIAN/postinst <<END
deb-systemd-helper unmask $1.service >/dev/null || true
deb-systemd-helper enable $1.service >/dev/null
systemctl daemon-reload
deb-systemd-invoke start $1.service || true
END
}
script() { mkdir -p "$work$(dirname "$1")" && cat >"$work$1" && chmod 755 "$work$1"; }
postinst() { mkdir -p $work/DEBIAN && { echo '#!/bin/sh'; echo 'set -e'; cat; } >$work/DEBIAN/postinst; }

for version in 1.0 2.0; do
  mkdir -p $work/opt/ek-tool $work/etc/ek-tool && echo $version >$work/opt/ek-tool/version
  echo "as packaged in $version" >$work/etc/ek-tool/conf
  package ek-tool $version
done
mkdir -p $work/etc/ek-old $work/usr/share/ek-old && echo old >$work/etc/ek-old/conf && echo data >$work/usr/share/ek-old/data
package ek-old 1.0
script /usr/bin/telnet <<'END'
#!/bin/sh
END
mkdir -p $work/etc/telnet && echo open >$work/etc/telnet/conf
package telnet-client 1.0
mkdir -p $work/usr/share/unattended-upgrades && echo x >$work/usr/share/unattended-upgrades/x
package unattended-upgrades 1.0

# fail2ban owns a table, and bans while it runs.
script /usr/bin/fail2ban <<'END'
#!/bin/sh
[ -r /etc/fail2ban/jail.local ] && { grep -q '^\[' /etc/fail2ban/jail.local || exit 3; }
[ "${1-}" != reload ] || exit 0
nft 'table inet f2b-table { set addr-set-sshd { type ipv4_addr; }; chain input { type filter hook input priority -1; ip saddr @addr-set-sshd drop; }; }'
nft 'add element inet f2b-table addr-set-sshd { 203.0.113.9 }'
exec sleep infinity
END
mkdir -p $work/etc/fail2ban && echo '[DEFAULT]' >$work/etc/fail2ban/jail.conf
postinst </dev/null
unit fail2ban /usr/bin/fail2ban 'ExecReload=/usr/bin/fail2ban reload
ExecStopPost=-/usr/sbin/nft delete table inet f2b-table'
package fail2ban 1.0

# docker owns tables, and makes state below /var/lib as soon as it runs.
mkdir -p $work/usr/share/containerd && echo x >$work/usr/share/containerd/x
package containerd.io 1.0
script /usr/bin/dockerd <<'END'
#!/bin/sh
set -e
[ ! -e /etc/docker/daemon.json ] || python3 -m json.tool /etc/docker/daemon.json >/dev/null
mkdir -p -m 710 /var/lib/docker/overlay2 && date +%N >/var/lib/docker/engine-id
touch /run/docker.sock
nft 'table ip nat { chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; }; chain DOCKER { }; }'
nft flush chain ip nat PREROUTING
while read -r port; do
  nft add rule ip nat PREROUTING tcp dport "$port" dnat to 172.17.0.2:"$port"
done </etc/docker/published || true
exec sleep infinity
END
script /usr/bin/docker <<'END'
#!/bin/sh
test -e /run/docker.sock && systemctl is-active docker
END
postinst <<'END'
getent group docker >/dev/null || groupadd --system docker
END
unit docker /usr/bin/dockerd
package docker-ce 1.0 containerd.io

# PostgreSQL has a user, a cluster, and saves what it has as it stops.
script /usr/lib/postgresql/15/bin/postgres <<'END'
#!/usr/bin/python3
import os, re, signal, sys
data, conf = "/var/lib/postgresql/15/main", "/etc/postgresql/15/main"
said = dict(re.findall(r"^(\w+)\s*=\s*(\S+)", open(conf + "/postgresql.conf").read(), re.M))
if not re.fullmatch(r"\d+[kMG]B", said.get("shared_buffers", "1MB")) or not said.get("port", "1").isdigit():
    sys.exit("FATAL: configuration file contains errors")
open(conf + "/pg_hba.conf").read()
with open(data + "/postmaster.pid", "w") as stream:
    stream.write(str(os.getpid()))
def stop(*_):
    with open(data + "/checkpoint", "a") as stream:
        stream.write("shut down\n")
    os.unlink(data + "/postmaster.pid")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
while True:
    signal.pause()
END
script /usr/lib/postgresql/15/bin/createdb <<'END'
#!/bin/sh
cd /var/lib/postgresql/15/main
for _ in $(seq 50); do
  ! kill -0 "$(cat postmaster.pid 2>/dev/null)" 2>/dev/null || { echo "database $1" >"$1"; exit; }
  sleep 0.2
done
echo "could not connect to server" >&2
exit 1
END
mkdir -p $work/usr/share/postgresql/15
printf '#shared_buffers = 128MB\n#port = 5432\n#listen_addresses = localhost\n' >$work/usr/share/postgresql/15/postgresql.conf
postinst <<'END'
getent passwd postgres >/dev/null || useradd --system --user-group --home-dir /var/lib/postgresql --shell /bin/bash postgres
install -d -o postgres -g postgres -m 755 /var/lib/postgresql /var/lib/postgresql/15 /etc/postgresql /etc/postgresql/15 /etc/postgresql/15/main
install -d -o postgres -g postgres -m 700 /var/lib/postgresql/15/main
[ -e /etc/postgresql/15/main/postgresql.conf ] || install -o postgres -g postgres -m 644 /usr/share/postgresql/15/postgresql.conf /etc/postgresql/15/main/
[ -e /etc/postgresql/15/main/pg_hba.conf ] || { echo 'local all all peer' >/etc/postgresql/15/main/pg_hba.conf; chown postgres: /etc/postgresql/15/main/pg_hba.conf; }
END
unit postgresql /usr/lib/postgresql/15/bin/postgres 'User=postgres'
package postgresql-15 15.1

mkdir -p $work/node_exporter-1.8.0
cat >$work/node_exporter-1.8.0/node_exporter <<'END'
#!/usr/bin/python3
import http.server, sys
at = ""
for word in sys.argv[1:]:
    if word.startswith("--web.listen-address="):
        at = word.partition("=")[2]
    elif not word.startswith("--collector."):
        sys.exit("unknown flag " + word)
host, _, port = at.partition(":")
http.server.HTTPServer((host, int(port)), http.server.BaseHTTPRequestHandler).serve_forever()
END
chmod 755 $work/node_exporter-1.8.0/node_exporter
tar -C $work -czf $repo/node_exporter-1.8.0.tar.gz node_exporter-1.8.0
rm -rf $work

cd $repo
for file in *.deb; do
  dpkg-deb --field $file
  printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' $file "$(stat -c %s $file)" "$(sha256sum $file | cut -d' ' -f1)"
done >Packages
rm -f /etc/apt/sources.list.d/*
echo "deb [trusted=yes] file:$repo ./" >/etc/apt/sources.list
apt-get -q update
DEBIAN_FRONTEND=noninteractive apt-get -q install -y ek-tool=1.0 ek-old telnet-client

# What the host has of its own, so that there is something to lose.
echo 'of the administrator' >/etc/ek-tool/conf
cat >/etc/nftables.conf <<'END'
#!/usr/sbin/nft -f
flush ruleset
table inet filter {
  chain input {
    type filter hook input priority filter; policy accept;
    tcp dport { 22, 80 } accept
  }
}
END
useradd --create-home --shell /bin/bash carol
systemctl enable --now --quiet nftables
systemctl restart nginx
