# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of the hosts, built for each release from the recipe in the folder above."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from laboratory import machine
from laboratory.machine import TOOL_PATH, LabError, engine, podman, run, say

# The folder of the recipe.
HERE = Path(__file__).resolve().parents[1]
RELEASES = ("bookworm", "trixie")


def image_name(release: str) -> str:
    """The image of a release for the recipe as it is now: a changed recipe is another image."""
    recipe = hashlib.sha256()
    for part in ("packages.txt", "configure.sh"):
        recipe.update((HERE / part).read_bytes())
    return f"localhost/evenkeel-lab:{release}-{recipe.hexdigest()[:12]}"


def build_image(release: str, *, force: bool = False, containerfile: bool = False) -> str:
    """The image of a release, built unless podman's storage has it. Returns its name."""
    image = image_name(release)
    if not force and run([*engine(), "image", "exists", image], check=False).returncode == 0:
        return image
    say(f"building {image}, which takes a minute or two")
    start = time.monotonic()
    if containerfile or not shutil.which("mmdebstrap", path=TOOL_PATH):
        built = build_from_containerfile(release)
    else:
        built = build_with_mmdebstrap(release)
    podman("tag", built, image)
    say(f"built {image} in {time.monotonic() - start:.0f} s")
    # What earlier recipes left. An image with hosts on it is refused, and goes the next time.
    for old in podman("images", "--quiet", "--no-trunc", "--filter", f"label=evenkeel.lab.release={release}").split():
        if old.removeprefix("sha256:") != built:
            podman("rmi", old, check=False)
    return image


def build_from_containerfile(release: str) -> str:
    """Build with podman alone. LAB_BASE_IMAGE names another base than the official image. Returns the id."""
    base = os.environ.get("LAB_BASE_IMAGE", f"debian:{release}-slim")
    return podman(
        *("build", "--quiet", "--squash-all", "--isolation", "chroot"),
        *("--label", f"evenkeel.lab.release={release}"),
        *("--build-arg", f"BASE={base}", "--file", str(HERE / "Containerfile"), str(HERE)),
    ).splitlines()[-1]


def build_with_mmdebstrap(release: str) -> str:
    """Build from packages, through this machine's own mirrors. Returns the image's id."""
    lines = (HERE / "packages.txt").read_text().splitlines()
    packages = ",".join(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    work = machine.STATE / "build"
    # A killed build leaves its tree here.
    run(["rm", "-rf", "--one-file-system", str(work)])
    work.mkdir(mode=0o755)
    try:
        with (
            subprocess.Popen(
                # In a mount namespace of its own: what it mounts is gone when it is killed.
                [
                    "unshare",
                    "--mount",
                    "mmdebstrap",
                    "--mode=root",
                    "--variant=minbase",
                    "--format=tar",
                    f"--include={packages}",
                ]
                + [f"--aptopt={option}" for option in apt_options()]
                + [f'--customize-hook=cp {shlex.quote(str(HERE / "configure.sh"))} "$1/configure.sh"']
                + ['--customize-hook=chroot "$1" sh /configure.sh', '--customize-hook=rm "$1/configure.sh"']
                + [release, "-", *apt_sources(release)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, "PATH": TOOL_PATH, "TMPDIR": str(work)},
            ) as tree,
            subprocess.Popen(
                [*engine(), "import", "--quiet", "--change", f"LABEL=evenkeel.lab.release={release}"]
                + ["--change", "STOPSIGNAL=SIGRTMIN+3", "--change", 'CMD=["/sbin/init"]', "-"],
                stdin=tree.stdout,
                stdout=subprocess.PIPE,
                text=True,
            ) as imported,
        ):
            assert tree.stdout and tree.stderr and imported.stdout
            tree.stdout.close()  # podman holds the only reading end, so that mmdebstrap ends when podman does
            said = []
            for line in tree.stderr:
                said.append(line.strip())
                if line.startswith("I: ") and line.endswith("...\n"):
                    say(f"  {line[3:].strip()}")
            image = imported.stdout.read().strip().removeprefix("sha256:")
    finally:
        run(["rm", "-rf", "--one-file-system", str(work)])
    if tree.returncode or imported.returncode or not image:
        if image:
            podman("rmi", image, check=False)  # made of half an archive
        reasons = [line for line in said if line.startswith("E: ")] or said[-5:]
        raise LabError(f"the image of {release} could not be built: {' / '.join(reasons)}")
    return image


def apt_sources(release: str) -> list[str]:
    """This machine's Debian mirrors, as sources.list lines of a release; none where they are not Debian's."""
    here = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line).get(
        "VERSION_CODENAME", ""
    )
    fields = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"
    targets = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"], check=False).stdout
    sources = []
    for target in targets.splitlines():
        origin, suite, component, uri = target.split("|", 3)
        base, dash, pocket = suite.partition("-")
        # Where apt was never updated the origin is not known, and stays as it was written in the format.
        if origin not in ("Debian", "$(ORIGIN)") or component != "main" or not uri.startswith("http"):
            continue
        if base in (here, "stable", "oldstable") and pocket in ("", "updates", "security"):
            sources.append(f"deb {uri} {release}{dash}{pocket} main")
    return list(dict.fromkeys(sources))


def apt_options() -> list[str]:
    """How this machine's apt gets at its mirrors (proxies, clock checks, retries): hosts need the same."""
    dump = run(["apt-config", "dump"], check=False).stdout.splitlines()
    return [line for line in dump if re.match(r"Acquire::(https?::|Check-|Retries|ForceIPv)", line)]
