# SPDX-License-Identifier: GPL-3.0-or-later

"""Dataclasses as Python's ``dataclasses`` has them, at a small part of their price.

Each call of the controller starts a Python on the host. Python's own dataclasses compile their methods while a class
is made, and load ``inspect``: a third of the time that a call took to start. The classes here share their methods. They
take a type, a default and ``field(default=…, default_factory=…, metadata=…)``, and may be frozen; and what
``dataclasses`` does with a dataclass, it does with these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["asdict", "dataclass", "field", "fields", "is_dataclass", "replace"]

if TYPE_CHECKING:
    from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
else:
    _MISSING = object()

    class field:
        """A field of a dataclass. As the value of a class's attribute it tells of the default."""

        __slots__ = ("default", "default_factory", "metadata", "name", "type")

        def __init__(self, *, default=_MISSING, default_factory=None, metadata=None):
            self.default, self.default_factory, self.metadata = default, default_factory, metadata or {}

        def missing(self):
            """The value of this field where none is given."""
            if self.default_factory is not None:
                return self.default_factory()
            if self.default is _MISSING:
                raise TypeError(f"missing argument: {self.name!r}")
            return self.default

    class _Known:
        """The fields of a class in the form of ``dataclasses``, made when a function of that module asks for them."""

        def __get__(self, instance, of):
            from dataclasses import make_dataclass  # Loading this module is what this file avoids.

            if "_standard" not in vars(of):  # To make them takes milliseconds, and dataclasses.replace asks twice.
                made = make_dataclass(of.__name__, [(one.name, one.type) for one in fields(of)])
                of._standard = made.__dataclass_fields__
            return of._standard

    def dataclass(cls=None, *, frozen=False):
        """The class, with the methods of a dataclass that it does not have itself."""
        if cls is None:
            return lambda cls: dataclass(cls, frozen=frozen)
        known = {}
        for base in reversed(cls.__mro__[1:]):
            known.update(vars(base).get("_known", {}))
        for name, kind in vars(cls).get("__annotations__", {}).items():
            if kind.startswith("ClassVar"):
                continue
            default = getattr(cls, name, _MISSING)
            known[name] = one = default if isinstance(default, field) else field(default=default)
            one.name, one.type = name, kind
            if one.default is not _MISSING:
                setattr(cls, name, one.default)
            elif one is default and name in vars(cls):
                delattr(cls, name)
        cls._known, cls.__dataclass_fields__ = known, _Known()
        init = _init_then_ready if hasattr(cls, "__post_init__") else _init
        methods = {"__init__": init, "__repr__": _repr, "__eq__": _eq, "__hash__": _hash if frozen else None}
        if frozen:
            methods.update(__setattr__=_refuse, __delattr__=_refuse)
        for name, method in methods.items():
            if name not in vars(cls) or (name == "__hash__" and vars(cls)[name] is None):
                setattr(cls, name, method)
        return cls

    def _init(self, /, *args, **named):
        known = self._known
        values = dict(zip(known, args))
        if len(args) > len(known) or not (values.keys().isdisjoint(named) and named.keys() <= known.keys()):
            more = ", ".join(named) or "nothing"
            raise TypeError(f"{type(self).__name__} takes {', '.join(known)}, not {len(args)} values and {more}")
        values.update(named)
        if len(values) < len(known):
            values = {name: values[name] if name in values else one.missing() for name, one in known.items()}
        vars(self).update(values)

    def _init_then_ready(self, /, *args, **named):
        _init(self, *args, **named)
        self.__post_init__()

    def _repr(self):
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._known)})"

    def _values(instance):
        return tuple([getattr(instance, name) for name in instance._known])

    def _eq(self, other):
        return _values(self) == _values(other) if type(self) is type(other) else NotImplemented

    def _hash(self):
        return hash(_values(self))

    def _refuse(self, name, *_value):
        raise AttributeError(f"cannot assign to field {name!r}")

    def is_dataclass(value):
        # Not by __dataclass_fields__: that loads Python's own, which may be gone where a host goes back.
        return hasattr(value if isinstance(value, type) else type(value), "_known")

    def fields(value):
        return tuple(value._known.values())

    def replace(instance, /, **changes):
        return type(instance)(**{**{name: getattr(instance, name) for name in instance._known}, **changes})

    def asdict(instance):
        return {name: _plain(getattr(instance, name)) for name in instance._known}

    def _plain(value):
        if isinstance(value, (list, tuple)):
            parts = map(_plain, value)
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if isinstance(value, dict):
            return {_plain(key): _plain(one) for key, one in value.items()}
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
