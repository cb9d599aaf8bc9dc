# SPDX-License-Identifier: GPL-3.0-or-later

"""The package of the agent: this library in one file on the host, which the timers of a change run."""

from __future__ import annotations

import hashlib
import io
import marshal
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.util import MAGIC_NUMBER, find_spec, resolve_name

from .._errors import EvenkeelError
from .._host import archive
from .._host.durable import ensure_dir, write_file
from .._host.trust import open_regular
from .._store.store import Store
from . import agent, changes, command, glance
from .invocation import agent_hash, python

_PACKAGE = "evenkeel_agent"
# The first code of the library that Python runs. To load the library makes many objects and no garbage: a collection
# for every 700 of them would take a twelfth of that time.
_INIT = f"""import gc

from ._host.archive import {archive.read_once.__name__}

gc.set_threshold(20_000)
{archive.read_once.__name__}()
"""
# The directory of this library; a library in an archive has no such directory.
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The free bytes on the store's file system that are needed to leave a library there.
_AMPLE = 256 << 20
# The command for a person (see ``command.py``), the hooks of package managers, the rollback, and the answers to the
# controller. These modules import this room, so they are named here and not imported.
_CONSOLE = "_flows.console"
_KEEPING = "_flows.keeping"
_WAY_BACK = ("_flows.rollback.flow", "finish")
_CALLS = "_calls"
_ANSWERS = ("_direct", f"{_CALLS}.packed")
# The answers that each change needs.
_OFTEN = ("_direct", *(f"{_CALLS}.{name}" for name in ("checkpoint", "health", "info", "rollback", "settle")))
# The kinds that few hosts have. The store of a host is to stay small.
_SELDOM = ("/_resources/postgresql/", "/_resources/subvolumes/")
# Units and watchers of every version start this module: an armed host keeps the agent with which it was armed.
_START = f"{_PACKAGE}/_agent.py"
# The digest of the sources in an archive.
_DIGEST = f"{_PACKAGE}/sources.sha256"
_MAIN = f"from {_PACKAGE}._agent import main\nraise SystemExit(main())\n"
# The pattern begins with a word and no anchor, so that it is searched for ten times as fast.
_IMPORT = re.compile(r"from[ \t]+(\.+[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]+)")
_COMMENT = r"#[^\n]*"


def install(store: Store, finish: Callable[..., list[str]]) -> str:
    """Write the zipapp of this library below the store, and return its path. The agent puts the host back with
    ``finish``.

    The name of the zipapp holds the hashes of its sources and of itself, so that the zipapp runs only as it was
    written here. The file of a waiting agent stays until no change is armed. The controller also finds the library by
    this name (``_found``).
    """
    folder = store.join("agent")
    ensure_dir(folder)
    prefix = f"evenkeel-{hashlib.sha256(MAGIC_NUMBER + _own_digest(finish).encode()).hexdigest()[:12]}"
    path = next((os.path.join(folder, name) for name in os.listdir(folder) if name.startswith(prefix)), "")
    if not path or not _is_whole(path):
        data = _zipapp(_sources(finish.__module__, finish.__name__))
        path = os.path.join(folder, f"{prefix}{hashlib.sha256(data).hexdigest()}.pyz")
        write_file(path, data, 0o400)
    if changes.armed(store) is None:
        for other in os.listdir(folder):
            if other != os.path.basename(path):
                os.unlink(os.path.join(folder, other))
    return path


def leave(store: Store, finish: Callable[..., list[str]]) -> None:
    """Leave the library on the host to answer later calls, where there are a store and ample room. Errors are
    ignored."""
    if _kept_digest():
        return  # The library that was left here answers this call.
    if _loaded(f"{_base()}.{_CALLS}.packed") is None:
        return  # Ansible has sent one module with its own call alone.
    with suppress(OSError, EvenkeelError):
        room = os.statvfs(store.root)  # The call fails where nothing is kept on this host.
        if room.f_bavail * room.f_frsize > _AMPLE:
            with store.locked(wait=0.0):
                install(store, finish)


def sources() -> dict[str, str]:
    """Path in the archive -> source, of this library."""
    return _sources(f"{_base()}.{_WAY_BACK[0]}", _WAY_BACK[1])


def sources_of_call(name: str) -> dict[str, str]:
    """The ``sources`` with which the call ``ft_NAME`` is answered; all sources, where that call can leave them."""
    start = {f"{_PACKAGE}/__init__.py": _INIT}
    found = _with_imports(start, [f"{_base()}.{one}" for one in ("_direct", f"{_CALLS}.{name}")])
    return sources() if f"{_PACKAGE}/_deadman/package.py" in found else found


def digest() -> str:
    """The SHA-256 of the sources of this library, in hexadecimal digits."""
    return _digest(sources())


def _own_digest(finish: Callable[..., list[str]]) -> str:
    """The SHA-256 of the sources. A library that was left on a host need not read all of them for it."""
    return _kept_digest() or _digest(_sources(finish.__module__, finish.__name__))


def _kept_digest() -> str:
    """The digest in the archive from which this library was loaded; empty where no call has left that archive here."""
    if _base() == _PACKAGE:
        with suppress(OSError):
            path = os.path.join(__loader__.archive, _DIGEST)  # type: ignore[name-defined]
            return bytes(__loader__.get_data(path)).decode()  # type: ignore[name-defined]
    return ""


def _digest(texts: dict[str, str]) -> str:
    return hashlib.sha256("\0".join(f"{path}\0{texts[path]}" for path in sorted(texts)).encode()).hexdigest()


def _base() -> str:
    return __name__.rpartition("._deadman.")[0]


def _is_whole(path: str) -> bool:
    """Whether the file has the hash that its name holds."""
    with open_regular(path) as stream:
        return hashlib.sha256(stream.read()).hexdigest() == agent_hash(path)


def _zipapp(sources: dict[str, str]) -> bytes:
    """The sources, each also compiled for this Python, so that the agent starts quickly. Another Python compiles them
    anew: they are seldom read, and compressed. So is the code that no change loads, or that few hosts need."""
    import zipfile  # Few calls write an agent.

    often = _with_imports({}, [agent.__name__, *(f"{_base()}.{name}" for name in (_WAY_BACK[0], *_OFTEN))])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as whole:
        for path, text in sorted(sources.items()):
            whole.writestr(zipfile.ZipInfo(path), text, zipfile.ZIP_DEFLATED)
            # Python never compares such a .pyc with its source (PEP 552). Docstrings would take a tenth of the room.
            code = marshal.dumps(compile(text, path, "exec", dont_inherit=True, optimize=2))
            code = MAGIC_NUMBER + b"\1\0\0\0" + bytes(8) + code
            is_ready = path in often and not any(kind in path for kind in _SELDOM)
            how = zipfile.ZIP_STORED if is_ready else zipfile.ZIP_DEFLATED
            whole.writestr(zipfile.ZipInfo(path + "c"), code, how)
        whole.writestr(zipfile.ZipInfo(_DIGEST), _digest(sources))
    return buffer.getvalue()


def _sources(way_back: str, finish: str) -> dict[str, str]:
    """Path in the archive -> source, of the agent, the module ``way_back`` of the function ``finish``, the command
    for a person, the hooks, the answers to the controller, and all modules that these import, directly or not. The
    result does not depend on the loaded modules.

    The agent's way back loads all modules that the agent or ``finish`` may need, wherever in a function they are
    imported: by then the archive may be gone.
    """
    base = _base()
    needed = _with_imports({}, [agent.__name__, way_back])
    names = sorted(path[: -len(".py")].replace("/", ".").removesuffix(".__init__") for path in needed)
    loads = "".join(f"    import {name}\n" for name in names)
    start = f"""import sys


def way_back():
{loads}    from {way_back[len(base) :]} import {finish}
    return {finish}


def main():
    from ._deadman import glance
    if glance.{glance.is_enough.__name__}(sys.argv):
        return 0
    if sys.argv[1:2] == [{command.TASK!r}]:
        from .{_CONSOLE} import main
        return main(sys.argv[2:])
    if sys.argv[1:2] == [{command.KEEP!r}]:
        from .{_KEEPING} import main
        return main(sys.argv[2:])
    from ._deadman import agent
    return agent.main(way_back)
"""
    files = {"__main__.py": _MAIN, f"{_PACKAGE}/__init__.py": _INIT, _START: start, **needed}
    return _with_imports(files, [f"{base}.{name}" for name in (_CONSOLE, _KEEPING, *_ANSWERS)])


def program(module: str) -> tuple[dict[str, str], str]:
    """(path in the archive -> source, their SHA-256) of the module's ``main`` and all that it imports.

    ``module``: its name below this library.
    """
    main = f"from {_PACKAGE}.{module} import main\nraise SystemExit(main())\n"
    files = {"__main__.py": main, f"{_PACKAGE}/__init__.py": _INIT}
    parts = module.split(".")
    sources = _with_imports(files, [".".join([_base(), *parts[:end]]) for end in range(1, len(parts) + 1)])
    return sources, hashlib.sha256(MAGIC_NUMBER + _digest(sources).encode()).hexdigest()


def executable(sources: dict[str, str]) -> bytes:
    """A program in one file, which the Python that runs us starts in isolated mode."""
    return f"#!{python()} -IS\n".encode() + _zipapp(sources)


def _with_imports(files: dict[str, str], modules: list[str]) -> dict[str, str]:
    base, on_disk = _base(), os.path.isdir(_HERE)
    todo, seen = [*modules, f"{base}._host", archive.__name__], {base}
    while todo:
        name = todo.pop()
        if name in seen or not name.startswith(base + "."):
            continue
        seen.add(name)
        inside = name[len(base) + 1 :].replace(".", "/")
        found = _on_disk(inside) if on_disk else _loaded(name)
        if found is None:
            continue
        source, is_package = found
        files[f"{_PACKAGE}/{inside}/__init__.py" if is_package else f"{_PACKAGE}/{inside}.py"] = source
        todo += _imports(source, name if is_package else name.rpartition(".")[0])
    return files


@cache
def _imports(source: str, package: str) -> tuple[str, ...]:
    """The modules that a source imports relatively, at any place in the source, and the packages that contain
    them. One process may pack the library twice: for its digest, and to send it."""
    return tuple(_each_import(source, package))


def _each_import(source: str, package: str) -> Iterator[str]:
    for found in _IMPORT.finditer(source):
        if source[source.rfind("\n", 0, found.start()) + 1 : found.start()].strip(" \t"):
            continue  # The word is not the beginning of its line.
        module = resolve_name(found[1], package)
        parts = module.split(".")
        yield from (".".join(parts[:end]) for end in range(2, len(parts) + 1))
        for item in re.sub(_COMMENT, "", found[2]).strip("()").split(","):
            name = item.split(" as ")[0].strip()
            if name.isidentifier():
                yield f"{module}.{name}"


@cache
def _on_disk(inside: str) -> tuple[str, bool] | None:
    """(the source of the module at this path below the library, whether it is a package); None where there is no such
    module. All libraries that a process packs are of one version, whatever happens to the files meanwhile.

    For the controller: its loader would search every directory of collections for each of hundreds of names.
    """
    for path, is_package in ((f"{inside}.py", False), (f"{inside}/__init__.py", True)):
        with suppress(OSError), open(os.path.join(_HERE, path), encoding="utf-8") as stream:
            return stream.read(), is_package
    return None


def _loaded(name: str) -> tuple[str, bool] | None:
    """As ``_on_disk``, by the loader of this module: on a host the library lies in an archive."""
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        return None
    if spec is None:
        return None
    source = spec.loader.get_source(name) or ""  # type: ignore[union-attr]
    return source, spec.submodule_search_locations is not None
