# SPDX-License-Identifier: GPL-2.0-or-later
"""Where an OCF agent's messages go: HA_LOGFACILITY (syslog), HA_LOGFILE, HA_DEBUGLOG, or stderr.

The rules are those of the shell agents' ha_log: a terminal gets everything on stderr; otherwise
syslog and the files that the environment names; stderr if it names none. Debug messages appear
only when HA_debug is set, and every message in HA_DEBUGLOG too. A destination that cannot be
written is passed over: logging must never fail an action.

Loaded by every monitor: nothing is opened or imported before the first message, and Python's own
logging only if an agent asks for `log`.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any

# The numbers of Python's logging, which agents pass to setLevel() and log().
DEBUG, INFO, WARNING, ERROR, CRITICAL = 10, 20, 30, 40, 50
_NAMES = {DEBUG: "DEBUG", INFO: "INFO", WARNING: "WARNING", ERROR: "ERROR", CRITICAL: "CRITICAL"}
_SYSLOG = ((CRITICAL, 2), (ERROR, 3), (WARNING, 4), (INFO, 6))  # LOG_CRIT ... LOG_INFO, syslog(3)
_LOG_DEBUG = 7


def debugging() -> bool:
    """Whether HA_debug asks for debug messages: unset, empty, 0 and no mean that it does not."""
    word = os.environ.get("HA_debug", "")  # noqa: SIM112 (Pacemaker spells it so)
    return word.strip().lower() not in ("", "0", "no", "false", "off")


def tag() -> str:
    """AGENT(RESOURCE), or AGENT without a resource; the process id is added by the writer."""
    agent = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "ocf"
    instance = os.environ.get("OCF_RESOURCE_INSTANCE")
    return f"{agent}({instance})" if instance else agent


def one_line(text: str) -> str:
    """The text without line breaks and NULs, which would end or split an entry."""
    return " ".join(text.replace("\0", " ").split("\n")).replace("\r", " ")


def write(level: int, text: str, *, stderr: bool = True) -> None:
    """Write one message of this level (Python's numbers) to every destination that is set.

    stderr=False keeps it off stderr, where the caller has said it already.
    """
    if level < INFO and not debugging():
        return
    name = _NAMES.get(level, f"LEVEL{level}")
    if _is_terminal():
        if stderr:
            _to_stderr(f"{tag()}[{os.getpid()}]: {name}: {text}\n")
        return
    facility = os.environ.get("HA_LOGFACILITY", "")
    facility = "" if facility == "none" else facility
    files = [os.environ.get("HA_LOGFILE", ""), os.environ.get("HA_DEBUGLOG", "")]
    if facility:
        _to_syslog(facility, level, f"{name}: {text}")
    for path in sorted({path for path in files if path}):
        _to_file(path, f"{_date()}{tag()}[{os.getpid()}]: {name}: {text}\n")
    if stderr and not facility and not any(files):
        _to_stderr(f"{name}: {text}\n")


def _is_terminal() -> bool:
    try:
        return os.isatty(2)
    except OSError:
        return False


def _to_stderr(line: str) -> None:
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):  # closed, or no stderr at all
        pass


def _to_syslog(facility: str, level: int, text: str) -> None:
    import syslog

    number = getattr(syslog, f"LOG_{facility.upper()}", syslog.LOG_DAEMON)
    priority = next((priority for least, priority in _SYSLOG if level >= least), _LOG_DEBUG)
    syslog.openlog(tag(), syslog.LOG_PID, number)
    for line in text.replace("\0", " ").splitlines():
        syslog.syslog(priority, line)


def _to_file(path: str, line: str) -> None:
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line)
    except OSError:
        pass


def _date() -> str:
    import time

    return time.strftime(os.environ.get("HA_DATEFMT") or "%b %d %T ")


class Logger:
    """The methods of logging.LoggerAdapter that agents use, without loading logging.

    What it does not have itself (addHandler, extra, ...) comes from the real thing, and once an
    agent has asked for that, everything goes through it.
    """

    def __init__(self) -> None:
        self._level = DEBUG
        self._adapter: logging.LoggerAdapter[logging.Logger] | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.standard(), name)

    def standard(self) -> logging.LoggerAdapter[logging.Logger]:
        """The logging.LoggerAdapter behind `ocf.log`, made at the first call."""
        if self._adapter is None:
            import logging

            log = logging.getLogger(os.path.basename(sys.argv[0]))
            log.setLevel(self._level)
            log.propagate = False  # the root's handlers would say everything a second time
            log.addHandler(handler_class()())
            instance = os.environ.get("OCF_RESOURCE_INSTANCE")
            self._adapter = logging.LoggerAdapter(log, {"OCF_RESOURCE_INSTANCE": instance})
        return self._adapter

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log msg % args; exc_info=True adds the traceback of the exception being handled."""
        if self._adapter is not None:
            self._adapter.log(level, msg, *args, **kwargs)
            return
        if level < self._level:
            return
        write(level, _formatted(msg, args) + _traceback(kwargs.get("exc_info")))

    def already_said(self, msg: str) -> None:
        """Log an error that stands on stderr already."""
        if self._adapter is not None:
            self._adapter.logger.error("%s", msg, extra={"stderr": False})
        elif self._level <= ERROR:
            write(ERROR, msg, stderr=False)

    def debug(self, msg: object, *args: Any, **kwargs: Any) -> None:
        self.log(DEBUG, msg, *args, **kwargs)

    def info(self, msg: object, *args: Any, **kwargs: Any) -> None:
        self.log(INFO, msg, *args, **kwargs)

    def warning(self, msg: object, *args: Any, **kwargs: Any) -> None:
        self.log(WARNING, msg, *args, **kwargs)

    warn = warning

    def error(self, msg: object, *args: Any, **kwargs: Any) -> None:
        self.log(ERROR, msg, *args, **kwargs)

    def critical(self, msg: object, *args: Any, **kwargs: Any) -> None:
        self.log(CRITICAL, msg, *args, **kwargs)

    fatal = critical

    def exception(self, msg: object, *args: Any, **kwargs: Any) -> None:
        self.log(ERROR, msg, *args, **{"exc_info": True, **kwargs})

    def setLevel(self, level: int | str) -> None:
        """Drop messages below this level, a number or a name such as "INFO"."""
        numbers = {name: number for number, name in _NAMES.items()}
        self._level = numbers[level] if isinstance(level, str) else level
        if self._adapter is not None:
            self._adapter.setLevel(self._level)

    def isEnabledFor(self, level: int) -> bool:
        """Whether a message of this level would be passed on."""
        if self._adapter is not None:
            return self._adapter.isEnabledFor(level)
        return level >= self._level


def _formatted(msg: object, args: tuple[Any, ...]) -> str:
    if not args:
        return str(msg)
    try:
        return str(msg) % (args[0] if len(args) == 1 and isinstance(args[0], dict) else args)
    except (TypeError, ValueError, KeyError):  # a wrong format string is no reason to fail
        return f"{msg} {args}"


def _traceback(exc_info: object) -> str:
    if not exc_info:
        return ""
    import traceback

    error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
    if error is None:
        return ""
    return "\n" + "".join(
        traceback.format_exception(type(error), error, error.__traceback__)).rstrip()


_handler_class: type[logging.Handler] | None = None


def handler_class() -> type[logging.Handler]:
    """The logging.Handler class whose records take the way described above."""
    global _handler_class  # noqa: PLW0603 (made once, when logging is there)
    if _handler_class is None:
        import logging

        class SyslogLibHandler(logging.Handler):
            """Passes records on to write()."""

            def emit(self, record: logging.LogRecord) -> None:
                stderr = getattr(record, "stderr", True)
                write(record.levelno, self.format(record), stderr=stderr)

        _handler_class = SyslogLibHandler
    return _handler_class
