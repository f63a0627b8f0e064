# SPDX-License-Identifier: GPL-2.0-or-later
"""What an OCF agent says about itself: Parameter, Action, Agent, and the XML made of them.

Source: OCF resource agent API 1.1, metadata. The XML also passes the schema of pcs, and the OCF 1.0
DTD with the additions of 1.1 (ra-api.dtd). Pure: it reads no environment and may import nothing;
what performs the actions stands in ocf.py.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

# The OCF 1.0 DTD knows neither unique-group nor reloadable and has a closed list of actions: this
# one adds them. It must not be done by declarations inside the document: see there.
DTD = "/usr/lib/ocf/lib/flm/ra-api.dtd"
_HEAD = f'<?xml version="1.0"?>\n<!DOCTYPE resource-agent SYSTEM "{DTD}">\n'
# Characters that XML 1.0 cannot hold, not even escaped (2.2 Char); surrogates come on top.
_FORBIDDEN = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF), "?")


def _text(value: object) -> str:
    """Escaped character data, in ASCII: the same bytes in every locale."""
    text = str(value).translate(_FORBIDDEN).encode("utf-8", "replace").decode("utf-8")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("\r", "&#13;").encode("ascii", "xmlcharrefreplace").decode("ascii")


def _attributes(**values: object) -> str:
    """name="value" for each value that is not None, in the order given; `_` stands for `-`."""
    escaped = (
        (name.replace("_", "-"), _text(value).replace('"', "&quot;").replace("\n", "&#10;"))
        for name, value in values.items() if value is not None
    )
    return "".join(f' {name}="{value.replace(chr(9), "&#9;")}"' for name, value in escaped)


def _flag(value: object) -> str | None:
    return "1" if value else None


def _seconds(value: object) -> object:
    """OCF times carry their unit: plain numbers are seconds."""
    return f"{value}s" if isinstance(value, int) else value


class _Frozen:
    """A value whose attributes are set once, by name: a dataclass costs 18 ms at start-up."""

    __slots__ = ()

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")

    def __str__(self) -> str:
        return self.to_xml()

    def to_xml(self) -> str:
        """The element as it stands in the metadata, with a newline."""
        raise NotImplementedError


class Parameter(_Frozen):
    """One parameter of an agent. content_type: string, integer or boolean.

    unique: no two resources may share the value (OCF 1.0, crmsh); unique_group: no two may share
    the values of the parameters of that group (OCF 1.1, pcs); reloadable: a change needs no
    restart where the agent offers reload-agent.
    """

    __slots__ = ("content_type", "default", "longdesc", "name", "reloadable", "required",
                 "shortdesc", "unique", "unique_group")

    name: str
    shortdesc: str
    longdesc: str
    content_type: str
    default: Any
    required: bool
    unique: bool
    unique_group: str | None
    reloadable: bool

    def __init__(
        self, name: str, shortdesc: str = "", longdesc: str = "", content_type: str = "string",
        unique: bool = False, required: bool = False, default: Any = None,
        unique_group: str | None = None, reloadable: bool = False,
    ) -> None:
        self._set(name=name, shortdesc=shortdesc, longdesc=longdesc, content_type=content_type,
                  default=default, required=required, unique=unique, unique_group=unique_group,
                  reloadable=reloadable)

    def to_xml(self) -> str:
        attributes = _attributes(
            name=self.name, unique_group=self.unique_group, unique=_flag(self.unique),
            required=_flag(self.required), reloadable=_flag(self.reloadable))
        content = _attributes(type=self.content_type, default=self.default)
        return (f"<parameter{attributes}>\n"
                f'<longdesc lang="en">{_text(self.longdesc)}</longdesc>\n'
                f'<shortdesc lang="en">{_text(self.shortdesc)}</shortdesc>\n'
                f"<content{content} />\n"
                "</parameter>\n")


class Action(_Frozen):
    """One action of an agent. timeout, interval, start_delay: seconds, or a text with a unit."""

    __slots__ = ("depth", "interval", "name", "role", "start_delay", "timeout")

    name: str
    timeout: int | str | None
    interval: int | str | None
    depth: int | str | None
    role: str | None
    start_delay: int | str | None

    def __init__(
        self, name: str, timeout: int | str | None = None, interval: int | str | None = None,
        depth: int | str | None = None, role: str | None = None,
        start_delay: int | str | None = None,
    ) -> None:
        self._set(name=name, timeout=timeout, interval=interval, depth=depth, role=role,
                  start_delay=start_delay)

    def to_xml(self) -> str:
        attributes = _attributes(
            name=self.name, timeout=_seconds(self.timeout), interval=_seconds(self.interval),
            start_delay=_seconds(self.start_delay), depth=self.depth, role=self.role)
        return f"<action{attributes} />\n"


class Agent:
    """An agent: its texts, parameters, actions and the functions that perform them."""

    def __init__(
        self, name: str, shortdesc: str, longdesc: str, version: object = 1.0,
        ocf_version: object = 1.0,
    ) -> None:
        self.name = name
        self.shortdesc = shortdesc
        self.longdesc = longdesc
        self.version = version
        self.ocf_version = ocf_version
        self.parameters: list[Parameter] = []
        self.actions: list[Action] = []
        self.handlers: dict[str, Callable[..., int | None]] = {}

    def add_parameter(
        self, name: str, shortdesc: str = "", longdesc: str = "", content_type: str = "string",
        unique: bool = False, required: bool = False, default: Any = None,
        unique_group: str | None = None, reloadable: bool = False,
    ) -> Agent:
        """Declare a parameter and return the agent. ValueError if the name is taken.

        From OCF 1.1 on a unique parameter without a group is a group of its own.
        """
        if any(parameter.name == name for parameter in self.parameters):
            raise ValueError(f"Parameter {name} defined twice in metadata")
        if unique and unique_group is None and str(self.ocf_version) != "1.0":
            unique_group = name
        self.parameters.append(Parameter(
            name, shortdesc, longdesc, content_type, unique, required, default, unique_group,
            reloadable))
        return self

    def add_action(
        self, name: str, timeout: int | str | None = None, interval: int | str | None = None,
        depth: int | str | None = None, role: str | None = None,
        handler: Callable[..., int | None] | None = None, start_delay: int | str | None = None,
    ) -> Agent:
        """Declare an action, and what performs it, and return the agent."""
        self.actions.append(Action(name, timeout, interval, depth, role, start_delay))
        if handler is not None:
            self.handlers[name] = handler
        return self

    def __str__(self) -> str:
        return self.to_xml()

    def to_xml(self) -> str:
        """The whole metadata document; the same declarations give the same bytes."""
        attributes = _attributes(name=self.name, version=self.version)
        return (f"{_HEAD}<resource-agent{attributes}>\n"
                f"<version>{_text(self.ocf_version)}</version>\n"
                f'<longdesc lang="en">\n{_text(self.longdesc)}\n</longdesc>\n'
                f'<shortdesc lang="en">{_text(self.shortdesc)}</shortdesc>\n\n'
                f"<parameters>\n{''.join(map(str, self.parameters))}</parameters>\n\n"
                f"<actions>\n{''.join(map(str, self.actions))}</actions>\n\n"
                "</resource-agent>\n")

    def run(self) -> NoReturn:
        """Perform the action that the cluster asks for; see ocf.run()."""
        if __package__:
            from .ocf import run
        else:
            from ocf import run  # type: ignore[import-not-found, no-redef]
        run(self)
