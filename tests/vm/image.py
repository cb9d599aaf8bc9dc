# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk of a virtual machine: a small Debian with a boot loader, made without a loop device and without a mount."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

_PACKAGES = [
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "python3",
    "openssh-server",
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "procps",
    "kexec-tools",
]
_LOADER = {False: ["grub-pc-bin", "grub2-common"], True: ["systemd-boot"]}
RELEASE = "bookworm"
_UUID = "0f5c2a3e-6a3b-4d4e-9a57-1f2e3d4c5b6a"
_SECTOR, _START, _SIZE = 512, 2048, 3 << 30
# The partition of the firmware, before that of the system.
_ESP = 256 << 20
_MODULES = "biosdisk part_msdos ext2 normal configfile search search_fs_uuid linux serial loadenv test echo"
_FILES = {
    "etc/hostname": "vm\n",
    "etc/hosts": "127.0.0.1 localhost vm\n",
    "etc/fstab": f"UUID={_UUID} / ext4 errors=remount-ro 0 1\n",
    "etc/systemd/system/lan.service": "[Unit]\nWants=sys-subsystem-net-devices-eth0.device\n"
    "After=sys-subsystem-net-devices-eth0.device\nBefore=network.target ssh.service\n[Service]\nType=oneshot\n"
    "RemainAfterExit=yes\nExecStart=ip link set eth0 up\nExecStart=ip address add 10.0.2.15/24 dev eth0\n"
    "ExecStop=ip address flush dev eth0\n[Install]\nWantedBy=multi-user.target\n",
    "etc/systemd/system/site.service": "[Service]\nExecStart=python3 -m http.server --directory /srv/www 80\n"
    "[Install]\nWantedBy=multi-user.target\n",
    "srv/www/index.html": "version 1\n",
}
_GRUB = {
    "etc/default/grub": "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_DISTRIBUTOR=Debian\nGRUB_CMDLINE_LINUX_DEFAULT=\n"
    'GRUB_CMDLINE_LINUX="console=ttyS0 net.ifnames=0 loglevel=4"\nGRUB_TERMINAL=serial\nGRUB_SERIAL_COMMAND=serial\n',
    # Until the host itself has made the real one.
    "boot/grub/grub.cfg": "search --no-floppy --fs-uuid --set=root {uuid}\n"
    "linux /boot/vmlinuz-{kernel} root=UUID={uuid} console=ttyS0 net.ifnames=0\n"
    "initrd /boot/initrd.img-{kernel}\nboot\n",
}
# The host boots without GRUB, from a partition as bootctl makes it.
_SYSTEMD_BOOT = {
    "etc/fstab": f"UUID={_UUID} / ext4 errors=remount-ro 0 1\nLABEL=ESP /boot/efi vfat umask=0077 0 2\n",
    "etc/kernel/cmdline": f"root=UUID={_UUID} ro console=ttyS0 net.ifnames=0 loglevel=4\n",
    "etc/kernel/entry-token": "vm\n",
    "boot/efi/loader/loader.conf": "#timeout 3\n",
    "boot/efi/loader/entries.srel": "type1\n",
}
# Software emulation is slow: what the tests do not need is not started.
_IDLE = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "getty@tty1.service",
    "systemd-logind.service",
    "systemd-timesyncd.service",
    "systemd-networkd.service",
]
_CONFIGURE = f"""
set -e
systemctl enable -q lan site ssh
systemctl mask -q {" ".join(_IDLE)}
"""
_CONFIGURE_GRUB = f"""
mkdir -p /boot/grub
cp -r /usr/lib/grub/i386-pc /boot/grub/i386-pc
grub-mkimage -O i386-pc -o /boot/core.img -p '(hd0,msdos1)/boot/grub' {_MODULES}
grub-editenv /boot/grub/grubenv create
"""
_CONFIGURE_SYSTEMD_BOOT = """
mkdir -p /boot/efi/loader/entries /boot/efi/EFI/BOOT
cp /usr/lib/systemd/boot/efi/systemd-bootx64.efi /boot/efi/EFI/BOOT/BOOTX64.EFI
for kernel in /boot/vmlinuz-*; do kernel-install add "${kernel#*vmlinuz-}" "$kernel"; done
sed -i 's# /boot/efi/# /#' /boot/efi/loader/entries/*.conf  # it is no mount yet
"""


def disk(folder: Path, key: Path, efi: bool = False) -> Path:
    """The disk image; made again once this file has changed. key: the public key that may log in as root. efi: with
    systemd-boot and not with GRUB."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + key.read_bytes()).hexdigest()[:12]
    made = folder / f"{recipe}{'-efi' if efi else ''}.raw"
    if not made.exists():
        tree = folder / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        try:
            _tree(tree, key, efi)
            (_write_efi if efi else _write)(tree, folder / "new.raw")
        finally:
            shutil.rmtree(tree, ignore_errors=True)
        (folder / "new.raw").rename(made)
    return made


def _tree(tree: Path, key: Path, efi: bool) -> None:
    run(
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        "--format=directory",
        f"--include={','.join(_PACKAGES + _LOADER[efi])}",
        RELEASE,
        tree,
    )
    kernel = next(tree.glob("boot/vmlinuz-*")).name.removeprefix("vmlinuz-")
    for name, text in {**_FILES, **(_SYSTEMD_BOOT if efi else _GRUB)}.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{uuid}", _UUID).replace("{kernel}", kernel))
    (tree / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(key, tree / "root/.ssh/authorized_keys")
    run("chroot", tree, "sh", "-c", _CONFIGURE + (_CONFIGURE_SYSTEMD_BOOT if efi else _CONFIGURE_GRUB))


def _write(tree: Path, image: Path) -> None:
    """One partition with all of the tree, and GRUB in the sectors before it."""
    offset = _START * _SECTOR
    _write_system(tree, image, offset)
    entry = _partition(0x83, offset, _SIZE - offset, 0x80)
    boot = (tree / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:440]
    core = (tree / "boot/core.img").read_bytes()
    assert len(core) < offset - _SECTOR
    with open(image, "r+b") as stream:
        stream.write(boot.ljust(446, b"\0") + entry.ljust(64, b"\0") + b"\x55\xaa" + core)


def _write_efi(tree: Path, image: Path) -> None:
    """A partition of the firmware with the tree's /boot/efi, and one with all the rest."""
    at, offset = _START * _SECTOR, _START * _SECTOR + _ESP
    esp, part = tree / "boot/efi", image.with_suffix(".esp")
    part.unlink(missing_ok=True)
    run("mkfs.vfat", "-C", "-F", "32", "-n", "ESP", part, f"{_ESP // 1024}")
    run("mcopy", "-s", "-i", part, *sorted(esp.iterdir()), "::")
    shutil.rmtree(esp)
    esp.mkdir()
    _write_system(tree, image, offset)
    with open(image, "r+b") as stream, open(part, "rb") as source:
        stream.seek(446)
        stream.write(_partition(0xEF, at, _ESP) + _partition(0x83, offset, _SIZE - offset) + bytes(32) + b"\x55\xaa")
        stream.seek(at)
        shutil.copyfileobj(source, stream, 1 << 20)
    part.unlink()


def _write_system(tree: Path, image: Path, offset: int) -> None:
    """A file system with the tree, from this byte to the end of a new image."""
    with open(image, "wb") as stream:
        stream.truncate(_SIZE)
    run(
        *("mke2fs", "-q", "-t", "ext4", "-U", _UUID, "-d", tree, "-E", f"offset={offset}", image),
        f"{(_SIZE - offset) // 1024}k",
    )


def _partition(kind: int, offset: int, size: int, flags: int = 0) -> bytes:
    """An entry of the table of partitions."""
    where = (offset // _SECTOR, size // _SECTOR)
    return struct.pack("<B3sB3sII", flags, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", *where)


def run(*words: str | Path) -> None:
    done = subprocess.run(["nice", "-n", "19", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed: {done.stdout[-500:]}{done.stderr[-2000:]}")
