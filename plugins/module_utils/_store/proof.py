# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that an encrypted bundle is the one that its host has made: hosts make it, and the controller checks it."""

from __future__ import annotations

import hashlib
import hmac
import json

# Bundles that a checkpoint may need: reading and carrying it takes bounded time.
LONGEST = 20
# Behind a ciphertext on its way: three words.
TRAILER_SIZE = 3 * 65
_NONE = "-" * 64


def tag_of(secret: str, sha: str, base: str) -> str:
    """The proof, by whoever has the secret of a bundle, that this is its ciphertext and that this is its base."""
    text = json.dumps(["evenkeel encrypted bundle", 1, sha, base])
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def trailer_of(sha: str, base: str, tag: str) -> bytes:
    """The bytes behind a ciphertext on its way to a peer."""
    return f"{sha} {base or _NONE} {tag}\n".encode()
