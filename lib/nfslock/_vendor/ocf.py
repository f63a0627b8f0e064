# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of resource-agents' ocf.py for Python agents, written anew for OCF 1.1.

An agent written for that module runs on this one unchanged (`import ocf`). It differs where the
other stands in an agent's way: texts are escaped in the metadata; a missing required parameter
breaks neither stop nor probe; arguments after the action are ignored; HA_debug=0 is false; no
file is opened by the import; an exception may carry its exit code; unique groups, reloadable
parameters and the degraded codes exist.

Source: OCF resource agent API 1.1. Loaded by every monitor: at import it may load nothing but os
and sys; inspect, platform and logging come only with what needs them. It imports nothing of
nfslock.
"""

from __future__ import annotations

import os
import sys

if __package__:
    from . import ocf_log
    from .ocf_metadata import Action, Agent, Parameter
else:  # an agent has put this directory on its path
    import ocf_log  # type: ignore[import-not-found, no-redef]
    from ocf_metadata import Action, Agent, Parameter  # type: ignore[import-not-found, no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    Handler = Callable[..., "int | None"]

# `from ocf import *` gives what it always gave; __getattr__ makes some of it.
__all__ = [  # noqa: F822
    "HA_DATEFMT", "HA_DEBUG", "HA_DEBUGLOG", "HA_LOGFACILITY", "HA_LOGFILE", "HA_RSCTMP",
    "OCF_ACTION", "OCF_DEGRADED", "OCF_DEGRADED_PROMOTED", "OCF_ERR_ARGS", "OCF_ERR_CONFIGURED",
    "OCF_ERR_GENERIC", "OCF_ERR_INSTALLED", "OCF_ERR_PERM", "OCF_ERR_UNIMPLEMENTED",
    "OCF_FAILED_MASTER", "OCF_FAILED_PROMOTED", "OCF_NOT_RUNNING", "OCF_RESOURCE_INSTANCE",
    "OCF_ROOT", "OCF_RUNNING_MASTER", "OCF_RUNNING_PROMOTED", "OCF_SUCCESS", "Action", "Agent",
    "OcfError", "Parameter", "SyslogLibHandler", "argv", "distro", "env", "get_parameter",
    "have_binary", "is_probe", "is_true", "log", "logger", "logging", "ocf_exit_reason", "os",
    "run", "sys", "syslog",
]

argv = sys.argv
env = os.environ

OCF_SUCCESS = 0
OCF_ERR_GENERIC = 1
OCF_ERR_ARGS = 2
OCF_ERR_UNIMPLEMENTED = 3
OCF_ERR_PERM = 4
OCF_ERR_INSTALLED = 5
OCF_ERR_CONFIGURED = 6
OCF_NOT_RUNNING = 7
OCF_RUNNING_PROMOTED = OCF_RUNNING_MASTER = 8
OCF_FAILED_PROMOTED = OCF_FAILED_MASTER = 9
OCF_DEGRADED = 190
OCF_DEGRADED_PROMOTED = 191

# crmsh runs validate-all with little more than the parameters in the environment.
OCF_ROOT = env.get("OCF_ROOT") or "/usr/lib/ocf"
HA_RSCTMP = env.get("HA_RSCTMP") or "/run/resource-agents"
OCF_RESOURCE_INSTANCE = env.get("OCF_RESOURCE_INSTANCE")
OCF_ACTION = env.get("__OCF_ACTION") or (argv[1] if len(argv) > 1 else None)
HA_DEBUG = int(ocf_log.debugging())
HA_DATEFMT = env.get("HA_DATEFMT", "%b %d %T ")
HA_LOGFACILITY = env.get("HA_LOGFACILITY")
HA_LOGFILE = env.get("HA_LOGFILE")
HA_DEBUGLOG = env.get("HA_DEBUGLOG")

logger = ocf_log.Logger()
_reason_given = False


class OcfError(Exception):
    """A failure that knows its OCF exit code: given, or that of the subclass."""

    code = OCF_ERR_GENERIC

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


def __getattr__(name: str) -> Any:
    """The names that need Python's logging or syslog: loaded by the first use."""
    if name in ("logging", "syslog"):
        return __import__(name)
    if name == "log":
        return logger.standard().logger
    if name == "SyslogLibHandler":
        return ocf_log.handler_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def ocf_exit_reason(msg: object) -> None:
    """Say on stderr, in one line, why the action fails, and log it as an error.

    Pacemaker keeps the last such line.
    """
    global _reason_given  # noqa: PLW0603 (there is one stderr)
    _reason_given = True
    text = ocf_log.one_line(str(msg))
    prefix = env.get("OCF_EXIT_REASON_PREFIX", "ocf-exit-reason:")
    try:
        sys.stderr.write(f"{prefix}{text}\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):  # nobody listens: the exit code still counts
        pass
    logger.already_said(text)


def have_binary(name: str) -> bool:
    """Whether a program can be run: an absolute path, or a name found in PATH.

    As in the shell agents, OCF_TESTER_FAIL_HAVE_BINARY=1 lets every program be missing.
    """
    if env.get("OCF_TESTER_FAIL_HAVE_BINARY") == "1":
        return False
    places = [""] if "/" in name else (env.get("PATH") or os.defpath).split(os.pathsep)
    paths = (os.path.join(place, name) for place in places)
    return bool(name) and any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths)


def is_true(val: object) -> bool:
    """Whether an OCF truth value is true: yes, true, 1, ja or on, in capitals or not."""
    return str(val).strip().lower() in ("yes", "true", "1", "ja", "on")


def is_probe() -> bool:
    """Whether this is a probe: a monitor without an interval, asking what runs here already."""
    return OCF_ACTION == "monitor" and env.get("OCF_RESKEY_CRM_meta_interval", "") in ("", "0")


def get_parameter(name: str, default: Any = None) -> Any:
    """The value of a parameter in the environment, else default."""
    return env.get(f"OCF_RESKEY_{name}", default)


def distro() -> str:
    """The distribution as "name/version" (Debian/12), or the name alone (os-release(5))."""
    found = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                pairs = (line.strip().partition("=") for line in file)
                found = {key: value.strip("\"'") for key, _, value in pairs}
            break
        except OSError:
            continue
    known = {"debian": "Debian", "ubuntu": "Ubuntu", "rhel": "Redhat", "sles": "SUSE"}
    name, version = found.get("ID", ""), found.get("VERSION_ID", "")
    if not name:
        import platform

        return platform.system()
    name = known.get(name, name.capitalize())
    return f"{name}/{version}" if version else name


def _argument_names(function: Handler) -> list[str]:
    """The names of the arguments that a handler is to be called with, in order."""
    plain = getattr(function, "__func__", function)
    code = getattr(plain, "__code__", None)
    if code is None or hasattr(plain, "__wrapped__"):
        import inspect  # costs more than a whole monitor: only for what is no plain function

        return list(inspect.signature(function).parameters)
    names = list(code.co_varnames[: code.co_argcount])
    return names[1:] if plain is not function else names


def _call(agent: Agent, function: Handler) -> int:
    """The exit code of a handler, its exceptions turned into a code and a reason."""
    defaults = {parameter.name: parameter.default for parameter in agent.parameters}
    try:
        values = [get_parameter(name, defaults.get(name)) for name in _argument_names(function)]
        code = function(*values)
        return OCF_SUCCESS if code is None else int(code)
    except OcfError as error:
        code, reason = error.code, str(error)
    except Exception as error:
        logger.debug("%s", error, exc_info=True)
        code, reason = OCF_ERR_GENERIC, str(error) or type(error).__name__
    if _reason_given:
        logger.error("%s", reason)
    elif not (is_probe() and code == OCF_NOT_RUNNING):  # a probe that finds nothing is quiet
        ocf_exit_reason(reason)
    return code


def _missing(agent: Agent) -> str:
    """The name of the first required parameter that is unset or empty, or an empty text."""
    return next((p.name for p in agent.parameters if p.required and not get_parameter(p.name)), "")


def _perform(agent: Agent, handlers: Mapping[str, Handler], action: str) -> int:
    missing = _missing(agent)
    if action not in handlers:
        ocf_exit_reason(f"{agent.name}: unknown action {action}")
        return OCF_ERR_UNIMPLEMENTED
    if missing and is_probe():
        return OCF_NOT_RUNNING  # what cannot be configured was not started here
    if missing and action != "stop":  # stop: only the handler knows what there is to stop
        ocf_exit_reason(f"{missing}: required parameter is not set")
        return OCF_ERR_CONFIGURED
    return _call(agent, handlers[action])


def run(agent: Agent, handlers: Mapping[str, Handler] | None = None) -> NoReturn:
    """Perform the action that the cluster asks for and exit with its OCF code.

    handlers: functions by action name, added to those of add_action(). A handler gets the value of
    each parameter that it names as an argument (the default, else None, if it is unset) and
    returns an exit code (None: success). An OcfError ends the action with its code, any other
    exception with 1; the message becomes the exit reason.
    """
    agent.handlers.update(handlers or {})
    if not any(action.name == "meta-data" for action in agent.actions):
        agent.add_action("meta-data", timeout=10)
    names = sorted({"meta-data", *agent.handlers})
    usage = f"usage: {argv[0]} {{{'|'.join(names)}}}\n"
    if OCF_ACTION is None:
        sys.stderr.write(usage)
        ocf_exit_reason("No action given")
        sys.exit(OCF_ERR_UNIMPLEMENTED)
    texts = dict.fromkeys(("usage", "help", "-h", "--help"), usage)
    texts["methods"] = "\n".join(names) + "\n"
    if OCF_ACTION == "meta-data":
        texts["meta-data"] = agent.to_xml()
    if OCF_ACTION in texts and OCF_ACTION not in agent.handlers:
        sys.stdout.write(texts[OCF_ACTION])
        sys.stdout.flush()
        sys.exit(OCF_SUCCESS)
    sys.exit(_perform(agent, agent.handlers, OCF_ACTION))
