# SPDX-License-Identifier: GPL-3.0-or-later

"""A person takes a host as it is: its doubt ends, and so does a restart that no run has finished."""

from __future__ import annotations

from .._deadman import doubt
from .._errors import Busy, Refused
from .._results.change import Accepted
from .._store.store import Store
from .restarting import record


def accept(store: Store, number: int | None = None, undrained: bool = False, check_mode: bool = False) -> Accepted:
    """Accept the host as it is. ``number``: the generation of the run. ``undrained``: somebody has seen that the host
    gets requests again wherever it was drained. Raises Refused, and Busy while a restart acts."""
    known = record.read(store)
    if record.is_running(known, store.system):
        raise Busy("a restart works on this host now. Nothing was touched: wait until it is done, then run again")
    places = [str(one.get("words") or one.get("host")) for one in known.drained] if known is not None else []
    if known is not None and places and not undrained:
        raise Refused(
            f"a restart of {known.target} has drained this host at {', '.join(places)}, and did not end. Nothing was"
            " touched: restart it with the same drain, which makes it ready again. Where that cannot be, make it ready"
            " there by hand (ft_drain), and accept it as undrained (evenkeel accept --undrained)"
        )
    result = doubt.accept(store, number, check_mode)
    if known is None:
        return result
    result.restart = record.shown(known, store.system)
    result.changed = True
    said = f"the restart of {known.target} that no run has finished"
    result.planned = [*result.planned, f"accept {said}"]
    result.left = [*result.left, *(f"not measured: whether it gets requests at {place}" for place in places)]
    if check_mode:
        return result
    with store.locked():
        now = record.read(store)
        if now is not None and now.token == known.token:
            record.remove(store)
    result.done = [*result.done, f"accepted {said}"]
    return result
