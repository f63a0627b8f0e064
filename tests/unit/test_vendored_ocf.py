# SPDX-License-Identifier: GPL-2.0-or-later
"""The OCF helper: what resource-agents' ocf.py gets wrong is right here, at no start-up cost.

Each test loads a fresh copy of the module, as each action of an agent does. That the other helper
really has these faults is shown in tests/host/test_python_agents.py.
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import syslog
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from lxml import etree

LIB = Path(__file__).parents[2] / "lib"
MODULES = ("ocf", "ocf_log", "ocf_metadata")
FORBIDDEN = {"logging", "subprocess", "dataclasses", "typing", "pathlib", "argparse", "re", "json",
             "socket", "syslog", "inspect", "enum", "collections"}
NASTY = "a<b & \"c\" 'd' ]]> é\ttab\x01"


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Helper:
    """A freshly loaded ocf module, in an environment of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd
        for name in [n for n in os.environ if n.startswith(("OCF_", "HA_", "__OCF_"))]:
            monkeypatch.delenv(name)
        monkeypatch.syspath_prepend(str(LIB / "nfslock" / "_vendor"))

    def load(self, *argv: str, **env: str) -> Any:
        """The module as an agent sees it that was started with these arguments."""
        for name, value in env.items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.setattr(sys, "argv", ["/usr/lib/ocf/resource.d/test/sample", *argv])
        for name in MODULES:
            sys.modules.pop(name, None)
        return importlib.import_module("ocf")

    def act(self, build: Callable[[Any], Any], *argv: str, **env: str) -> Result:
        """Perform an action of the agent that build() makes."""
        ocf = self.load(*argv, **env)
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            ocf.run(build(ocf))
        code = ended.value.code
        assert isinstance(code, int), code
        return Result(code, *self._capfd.readouterr())


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    yield Helper(monkeypatch, capfd)
    for name in MODULES:
        sys.modules.pop(name, None)
    logging.getLogger("sample").handlers.clear()  # logging outlives the module


def sample(ocf: Any) -> Any:
    """An agent with a required parameter, whose handlers answer what `answer` says."""

    def handler(directory: str | None, answer: str) -> int | None:
        print(f"directory={directory}")
        if answer == "reason":
            ocf.ocf_exit_reason("reason of the handler")
            raise RuntimeError("a second reason")
        if answer == "ocf":
            raise ocf.OcfError("/srv: not mounted", ocf.OCF_ERR_ARGS)
        if answer == "away":
            raise ocf.OcfError("nothing here", ocf.OCF_NOT_RUNNING)
        if answer == "bug":
            raise KeyError("surprise")
        return int(answer) if answer else None

    agent = ocf.Agent("sample", "Sample", "Sample agent", ocf_version="1.1")
    agent.add_parameter("directory", required=True)
    agent.add_parameter("answer", default="")
    for name in ("start", "stop", "monitor", "validate-all"):
        agent.add_action(name, timeout=20, handler=handler)
    return agent


SET = {"OCF_RESKEY_directory": "/srv"}


# -- start-up ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["import nfslock._vendor.ocf", "import ocf"])
def test_import_loads_nothing_costly_and_writes_nothing(tmp_path: Path, how: str) -> None:
    log = tmp_path / "ha.log"
    script = (f"import sys; sys.path[:0] = [{str(LIB)!r}, {str(LIB / 'nfslock' / '_vendor')!r}]; "
              f"{how}; print(*sys.modules)")
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], check=True, capture_output=True, text=True,
        env={"HA_LOGFILE": str(log), "HA_DEBUGLOG": str(log), "HA_LOGFACILITY": "daemon"},
    ).stdout.split()
    assert "os" in loaded
    assert not FORBIDDEN & set(loaded)
    assert not log.exists()


def test_perform_loads_nothing_costly() -> None:
    script = (f"import sys, atexit; sys.path.insert(0, {str(LIB)!r}); sys.argv[1:] = ['monitor']\n"
              "atexit.register(lambda: print(*sys.modules))\n"
              "from nfslock._vendor import ocf\n"
              "agent = ocf.Agent('sample', 's', 'l')\n"
              "agent.add_action('monitor', timeout=20, handler=lambda a: ocf.OCF_NOT_RUNNING)\n"
              "agent.run()\n")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], check=False,
                          capture_output=True, text=True, env={})
    assert done.returncode == 7, done.stderr
    assert not FORBIDDEN & set(done.stdout.split())


def test_names_that_need_logging_come_when_asked_for(helper: Helper) -> None:
    ocf = helper.load("monitor")
    assert ocf.logging is logging
    assert ocf.syslog is syslog
    assert isinstance(ocf.log, logging.Logger)
    assert ocf.log is ocf.log
    assert isinstance(ocf.log.handlers[0], ocf.SyslogLibHandler)
    with pytest.raises(AttributeError, match="banana"):
        ocf.banana  # noqa: B018
    star: dict[str, Any] = {}
    exec("from ocf import *", star)  # as two of Debian's agents do
    assert star["logger"] is ocf.logger
    assert star["OCF_DEGRADED"] == 190


# -- which action --------------------------------------------------------------------------


def test_arguments_after_the_action_are_ignored(helper: Helper) -> None:
    assert helper.act(sample, "start", "extra", "more", **SET).code == 0


def test_action_from_the_environment_wins(helper: Helper) -> None:
    assert helper.load("start", __OCF_ACTION="monitor").OCF_ACTION == "monitor"


def test_no_action(helper: Helper) -> None:
    result = helper.act(sample)
    assert result.code == 3
    assert "usage:" in result.err


def test_unknown_action_is_unimplemented_even_unconfigured(helper: Helper) -> None:
    result = helper.act(sample, "promote")
    assert result.code == 3
    assert result.err.splitlines()[-1] == "ocf-exit-reason:sample: unknown action promote"


@pytest.mark.parametrize("action", ["usage", "methods", "meta-data", "--help"])
def test_descriptions_need_no_parameter(helper: Helper, action: str) -> None:
    result = helper.act(sample, action)
    assert result.code == 0
    assert "validate-all" in result.out
    assert not result.err


# -- required parameters -------------------------------------------------------------------


@pytest.mark.parametrize(("action", "interval", "code"), [
    ("start", "0", 6), ("validate-all", "0", 6), ("monitor", "10000", 6),
    ("monitor", "0", 7), ("monitor", "", 7), ("stop", "0", 0),
])
@pytest.mark.parametrize("value", [None, ""])
def test_missing_required_parameter(
    helper: Helper, action: str, interval: str, code: int, value: str | None
) -> None:
    env = {"OCF_RESKEY_CRM_meta_interval": interval}
    if value is not None:
        env["OCF_RESKEY_directory"] = value
    result = helper.act(sample, action, **env)
    assert result.code == code
    if code == 6:
        assert result.err == "ocf-exit-reason:directory: required parameter is not set\n"
    else:
        assert not result.err
    assert bool(result.out) == (action == "stop"), "only stop still asks its handler"


# -- handlers and exceptions ---------------------------------------------------------------


@pytest.mark.parametrize(("answer", "code", "reason"), [
    ("", 0, ""), ("0", 0, ""), ("7", 7, ""), ("190", 190, ""),
    ("ocf", 2, "/srv: not mounted"), ("away", 7, "nothing here"), ("bug", 1, "'surprise'"),
])
def test_exit_codes(helper: Helper, answer: str, code: int, reason: str) -> None:
    result = helper.act(sample, "start", OCF_RESKEY_answer=answer, **SET)
    assert result.code == code
    assert result.out == "directory=/srv\n"
    assert result.err == (f"ocf-exit-reason:{reason}\n" if reason else "")


def test_probe_that_finds_nothing_is_quiet(helper: Helper) -> None:
    probe = helper.act(sample, "monitor", OCF_RESKEY_answer="away", **SET)
    assert (probe.code, probe.err) == (7, "")
    monitor = helper.act(sample, "monitor", OCF_RESKEY_answer="away",
                         OCF_RESKEY_CRM_meta_interval="10000", **SET)
    assert (monitor.code, monitor.err) == (7, "ocf-exit-reason:nothing here\n")


def test_reason_of_the_handler_stays_the_last(helper: Helper) -> None:
    result = helper.act(sample, "start", OCF_RESKEY_answer="reason", **SET)
    reasons = [line for line in result.err.splitlines() if line.startswith("ocf-exit-reason:")]
    assert result.code == 1
    assert reasons == ["ocf-exit-reason:reason of the handler"]


def test_error_classes_carry_their_code(helper: Helper) -> None:
    ocf = helper.load()

    class Missing(ocf.OcfError):  # type: ignore[misc, name-defined]
        code = ocf.OCF_ERR_INSTALLED

    assert (ocf.OcfError("x").code, Missing("x").code, Missing("x", 4).code) == (1, 5, 4)


@pytest.mark.parametrize("make", [
    lambda seen: lambda directory, answer: seen.append((directory, answer)),
    lambda seen: type("C", (), {"m": lambda self, directory: seen.append(directory)})().m,
    lambda seen: __import__("functools").partial(lambda where, directory: where.append(directory),
                                                 seen),
    lambda seen: lambda: seen.append(None),
    lambda seen: lambda unknown: seen.append(unknown),  # noqa: PLW0108 (its name matters)
])
def test_handlers_get_the_parameters_they_name(helper: Helper, make: Any) -> None:
    seen: list[Any] = []

    def build(ocf: Any) -> Any:
        return sample(ocf).add_action("act", handler=make(seen))

    assert helper.act(build, "act", OCF_RESKEY_answer="7", **SET).code == 0
    assert seen in ([("/srv", "7")], ["/srv"], [None])
    assert seen, "the handler was not called"


# -- exit reason and logging ---------------------------------------------------------------


def test_exit_reason_is_one_line(helper: Helper, capfd: pytest.CaptureFixture[str]) -> None:
    ocf = helper.load("start")
    ocf.ocf_exit_reason("two\nlines\0 and é")
    assert capfd.readouterr().err == "ocf-exit-reason:two lines  and é\n"


def test_exit_reason_survives_a_closed_stderr(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    ocf = helper.load("start")
    monkeypatch.setattr(sys, "stderr", None)
    ocf.ocf_exit_reason("nobody listens")


@pytest.mark.parametrize(("value", "debug"), [
    (None, 0), ("", 0), ("0", 0), ("no", 0), ("1", 1), ("2", 1), ("yes", 1),
])
def test_ha_debug(helper: Helper, tmp_path: Path, value: str | None, debug: int) -> None:
    log = tmp_path / "ha.log"
    env = {"HA_LOGFILE": str(log), **({} if value is None else {"HA_debug": value})}
    ocf = helper.load("start", **env)
    ocf.logger.debug("quiet %s", "please")
    ocf.logger.info("said")
    assert debug == ocf.HA_DEBUG
    assert ("quiet please" in log.read_text()) == bool(debug)
    assert "said" in log.read_text()


def test_log_line_names_agent_resource_and_process(helper: Helper, tmp_path: Path) -> None:
    log = tmp_path / "ha.log"
    ocf = helper.load("start", HA_LOGFILE=str(log), HA_DEBUGLOG=str(log), HA_DATEFMT="",
                      OCF_RESOURCE_INSTANCE="locks")
    ocf.logger.warning("%s of %d", "one", 2)
    ocf.ocf_exit_reason("it failed")
    lines = log.read_text().splitlines()
    assert [line.split("]: ")[1] for line in lines] == ["WARNING: one of 2", "ERROR: it failed"]
    assert f"sample(locks)[{os.getpid()}]: " in lines[0]


def test_unwritable_log_file_is_no_failure(
    helper: Helper, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ocf = helper.load("start", HA_LOGFILE=str(tmp_path / "missing" / "ha.log"))
    ocf.ocf_exit_reason("it failed")
    assert capfd.readouterr().err == "ocf-exit-reason:it failed\n"


def test_without_destination_messages_go_to_stderr(
    helper: Helper, capfd: pytest.CaptureFixture[str]
) -> None:
    ocf = helper.load("start")
    ocf.logger.error("bad %s %s", "format")  # noqa: PLE1206
    ocf.logger.info({"a": 1})
    try:
        raise ValueError("inner")
    except ValueError as error:
        ocf.logger.exception(error)
    err = capfd.readouterr().err
    assert err.startswith("ERROR: bad %s %s ('format',)\nINFO: {'a': 1}\nERROR: inner\nTraceback")


def test_levels_and_real_logging_agree(
    helper: Helper, capfd: pytest.CaptureFixture[str]
) -> None:
    ocf = helper.load("start", HA_debug="1")
    ocf.logger.setLevel("WARNING")
    ocf.logger.info("hidden 1")
    assert not ocf.logger.isEnabledFor(ocf.logging.INFO)
    ocf.log.setLevel(ocf.logging.ERROR)  # as azure-events does
    records: list[str] = []
    handler = ocf.logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    ocf.log.addHandler(handler)  # as the gcp agents do
    ocf.logger.warning("hidden 2")
    ocf.logger.error("shown %d", 3)
    ocf.ocf_exit_reason("said once")
    assert ocf.logger.extra == {"OCF_RESOURCE_INSTANCE": None}
    assert records == ["shown 3", "said once"]
    assert capfd.readouterr().err == "ERROR: shown 3\nocf-exit-reason:said once\n"


# -- small questions -----------------------------------------------------------------------


def test_is_true(helper: Helper) -> None:
    ocf = helper.load()
    assert all(map(ocf.is_true, ("yes", "True", "ON", "ja", "1", 1, True, " true ")))
    assert not any(map(ocf.is_true, ("no", "0", 0, False, None, "", "2", "y")))


@pytest.mark.parametrize(("action", "interval", "probe"), [
    ("monitor", "0", True), ("monitor", None, True), ("monitor", "10000", False),
    ("start", "0", False),
])
def test_is_probe(helper: Helper, action: str, interval: str | None, probe: bool) -> None:
    env = {} if interval is None else {"OCF_RESKEY_CRM_meta_interval": interval}
    assert helper.load(action, **env).is_probe() is probe


def test_have_binary(helper: Helper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ocf = helper.load()
    for name, mode in (("tool", 0o755), ("text", 0o644)):
        (tmp_path / name).touch(mode)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert not ocf.have_binary("tool"), "the current directory is not searched"
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")
    assert ocf.have_binary("tool")
    assert ocf.have_binary(str(tmp_path / "tool"))
    assert not any(map(ocf.have_binary, ("text", "folder", "missing", "")))
    monkeypatch.setenv("OCF_TESTER_FAIL_HAVE_BINARY", "1")
    assert not ocf.have_binary("tool")


def test_environment_falls_back(helper: Helper) -> None:
    ocf = helper.load()
    assert (ocf.OCF_ROOT, ocf.HA_RSCTMP) == ("/usr/lib/ocf", "/run/resource-agents")
    assert ocf.get_parameter("ip") is None
    assert ocf.get_parameter("ip", "192.0.2.10") == "192.0.2.10"
    assert helper.load(OCF_RESKEY_ip="192.0.2.11").get_parameter("ip") == "192.0.2.11"


def test_distro_names_this_machine(helper: Helper) -> None:
    name, _, _ = helper.load().distro().partition("/")
    assert name
    assert name[0].isupper()


# -- metadata ------------------------------------------------------------------------------


def full(ocf: Any, ocf_version: object = "1.1") -> Any:
    agent = ocf.Agent("sample", NASTY, NASTY, version="2.0", ocf_version=ocf_version)
    agent.add_parameter("directory", NASTY, NASTY, required=True, unique=True)
    agent.add_parameter("ip", NASTY, NASTY, unique_group="address", default=NASTY)
    agent.add_parameter("timeout", "t", "t", content_type="integer", default=0, reloadable=True)
    agent.add_action("start", timeout=20, start_delay=1)
    agent.add_action("monitor", timeout="20s", interval=10, depth=0, role="Promoted")
    return agent


def parsed(xml: str) -> etree._Element:
    return etree.fromstring(xml.encode())


def attributes(tree: etree._Element, path: str) -> list[dict[str, str]]:
    return [{str(k): str(v) for k, v in element.items()} for element in tree.iterfind(path)]


def test_texts_are_escaped_and_ascii(helper: Helper) -> None:
    ocf = helper.load()
    xml = full(ocf).to_xml()
    assert xml.isascii()
    readable = NASTY.replace("\x01", "?")
    assert parsed(xml).findtext("shortdesc") == readable
    assert parsed(xml).findtext("parameters/parameter/longdesc") == readable
    assert attributes(parsed(xml), "parameters/parameter[2]/content") == [
        {"type": "string", "default": readable}]
    multiline = parsed(ocf.Parameter("p", default="a\nb\r\x00\ud800").to_xml())
    assert attributes(multiline, "content") == [{"type": "string", "default": "a\nb\r??"}]


def test_attributes(helper: Helper) -> None:
    tree = parsed(full(helper.load()).to_xml())
    assert attributes(tree, "parameters/parameter") == [
        {"name": "directory", "unique": "1", "unique-group": "directory", "required": "1"},
        {"name": "ip", "unique-group": "address"},
        {"name": "timeout", "reloadable": "1"}]
    assert attributes(tree, "parameters/parameter[3]/content") == [
        {"type": "integer", "default": "0"}]
    assert attributes(tree, "actions/action") == [
        {"name": "start", "timeout": "20s", "start-delay": "1s"},
        {"name": "monitor", "timeout": "20s", "interval": "10s", "depth": "0",
         "role": "Promoted"}]
    assert attributes(tree, ".") == [{"name": "sample", "version": "2.0"}]
    assert tree.findtext("version") == "1.1"
    assert [child.tag for child in tree] == [
        "version", "longdesc", "shortdesc", "parameters", "actions"]


def test_ocf_1_0_agents_get_no_group(helper: Helper) -> None:
    tree = parsed(full(helper.load(), 1.0).to_xml())
    assert attributes(tree, "parameters/parameter[1]") == [
        {"name": "directory", "unique": "1", "required": "1"}]


def test_metadata_is_the_same_every_time(helper: Helper) -> None:
    first = helper.act(full, "meta-data", LC_ALL="C").out
    assert first == helper.act(full, "meta-data", LC_ALL="en_US.ISO-8859-1").out
    assert str(full(helper.load())) in first.replace(
        '<action name="meta-data" timeout="10s" />\n', "")


def test_descriptors_are_frozen(helper: Helper) -> None:
    ocf = helper.load()
    for value in (ocf.Parameter("p"), ocf.Action("a")):
        with pytest.raises(AttributeError, match="cannot be changed"):
            value.name = "other"
        with pytest.raises(AttributeError, match="cannot be deleted"):
            del value.name
        with pytest.raises(AttributeError):
            value.other = 1
    assert ocf.Parameter("p", "s", "l", "string", True, False, "d").default == "d"


def test_a_parameter_is_declared_once(helper: Helper) -> None:
    agent = helper.load().Agent("sample", "s", "l").add_parameter("ip")
    with pytest.raises(ValueError, match="ip"):
        agent.add_parameter("ip")
