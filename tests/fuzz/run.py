# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Feed one parser of others' bytes for so many seconds: no traceback of others, no hang, no memory above a bound.

With --guided by atheris (requirements/fuzz.txt), which follows what each input reaches and keeps new ones in
.build/fuzz; without it by chance. Both start from tests/fuzz/corpus, where each line is an input in Base64. What breaks
a parser is printed, kept in .build/fuzz/found, and belongs there.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).parent
MADE = HERE.parent.parent / ".build" / "fuzz"
for place in (HERE, HERE.parent.parent / "src", HERE.parent.parent / ".build"):
    sys.path.insert(0, str(place))

# What one input may take, in seconds of this process and in bytes above what it takes when it starts.
SECONDS, ROOM = 5.0, 256 << 20
LONGEST = 1 << 16
_ODD = [
    *(b"[" * 5000, b"9" * 5000, b"-1", b"1e999", b"NaN", b"null", b"true", b"{}", b"[]", b'""', b'"x"'),
    *(b"\x00", b"\xff", b"\n", b"\x1b[2J", b"[/x]", b"../..", b"\xed\xa0\x80", b"\\ud800", b"4611686018427387904"),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?")
    parser.add_argument("--list", action="store_true", help="print the names of all parsers")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true")
    args = parser.parse_args()
    if args.list or not args.target:
        from targets import TARGETS  # type: ignore[import-not-found, unused-ignore]

        print(*TARGETS)
        return 0
    if args.guided:
        return guided(args.target, args.seconds)
    parse, ours, seeds = _load(args.target)
    chance, end, tried = random.Random(args.seed), time.monotonic() + args.seconds, 0
    with _bounds():
        inputs = iter(seeds)
        while tried < len(seeds) or time.monotonic() < end:
            one(parse, ours, next(inputs, None) or mutated(chance, seeds))
            tried += 1
    print(f"{args.target}: {tried} inputs")
    return 0


def guided(target: str, seconds: float) -> int:
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    with atheris.instrument_imports(include=["evenkeel", "ansible_collections"]):
        parse, ours, seeds = _load(target)
    work, found = MADE / target, MADE / "found"
    for folder in (work, found):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (work / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    limits = [f"-max_total_time={int(seconds)}", f"-timeout={int(SECONDS) * 4}", "-rss_limit_mb=1024"]
    words = [
        sys.argv[0],
        *limits,
        f"-max_len={LONGEST}",
        f"-artifact_prefix={found}/{target}-",
        str(work),
    ]

    def test(data: bytes) -> None:
        with contextlib.suppress(*ours):
            parse(data)

    atheris.Setup(words, test)
    atheris.Fuzz()
    return 0


def one(parse: Callable[[bytes], Any], ours: tuple[type[BaseException], ...], data: bytes) -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        parse(data)
    except ours:
        pass
    except BaseException:
        kept = MADE / "found" / hashlib.sha256(data).hexdigest()[:16]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(data)
        print(f"{kept}: {data[:2000]!r}", file=sys.stderr)
        raise
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds, a few of its places changed."""
    data = bytearray(chance.choice(seeds))
    for _turn in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        upto = min(len(data), at + chance.choice([0, 0, 1, 2, 4, 16, 64]))
        how = chance.randrange(4)
        if how == 0:
            data[at:upto] = chance.choice(_ODD)
        elif how == 1:
            data[at:upto] = bytes(chance.choices(range(256), k=chance.randint(0, 4)))
        elif how == 2:  # a word of the same kind in another's place
            words = bytes(data).split(b" ")
            data = (
                bytearray(b" ".join([*words[:-1], chance.choice(words), *words[-1:]]))
                if chance.random() < 0.2
                else data
            )
            data[at:upto] = chance.choice(words)
        else:
            other = chance.choice(seeds)
            data[at:upto] = other[at : at + chance.randint(0, 200)]
    return bytes(data[:LONGEST])


def _load(target: str) -> tuple[Callable[[bytes], Any], tuple[type[BaseException], ...], list[bytes]]:
    from targets import OURS, TARGETS  # type: ignore[import-not-found, unused-ignore]

    parse, seeds = TARGETS[target]
    corpus = HERE / "corpus" / f"{target}.b64"
    kept = [base64.b64decode(line) for line in corpus.read_text().split()] if corpus.exists() else []
    return parse, OURS, [*seeds, *kept]


@contextlib.contextmanager
def _bounds() -> Any:
    from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import little_memory

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {SECONDS:g} s for one input")

    signal.signal(signal.SIGVTALRM, late)
    with little_memory(ROOM):
        yield


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
