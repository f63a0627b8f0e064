# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python agents that resource-agents installs run unchanged on our OCF helper.

Both helpers perform the same actions of the same agents; then the faults of the other helper are
shown one by one, each with what ours does instead.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from lxml import etree

from tests.support.machine import CHECKOUT, Machine, World

DIRECTORY = Path("/usr/lib/ocf/resource.d/heartbeat")
OURS = str(CHECKOUT / "lib/nfslock/_vendor")
THEIRS = "/usr/lib/ocf/lib/heartbeat"
STATE = "/run/state"
SAMPLE = "/usr/local/sbin/sample"
_serial = itertools.count()


def python_agents() -> list[str]:
    """The installed agents whose first line names Python."""
    found = []
    for path in sorted(DIRECTORY.iterdir()):
        with path.open("rb") as file:
            if b"python" in file.readline():
                found.append(path.name)
    return found


AGENTS = python_agents()
#: dummypy has a state, the others only ask the cloud's servers, which are not there.
ACTIONS = {
    "dummypy": ["monitor", "validate-all", "start", "start", "monitor", "status", "reload",
                "migrate_to", "migrate_from", "stop", "stop", "monitor", "banana", ""],
}  # fmt: skip
OTHERS = ["monitor", "validate-all", "start", "stop", "banana", ""]
QUICK = "/usr/local/lib/quick"
#: The agents of the clouds sleep between their attempts.
SITE = "import time\ntime.sleep = lambda seconds: None\n"


class Result(NamedTuple):
    code: int
    out: str
    reason: str
    err: str


@pytest.fixture(scope="module")
def machine(world: World) -> Iterator[Machine]:
    machine = Machine(world, "node", ["192.0.2.1/24"])
    machine.path(QUICK).mkdir()
    machine.path(f"{QUICK}/sitecustomize.py").write_text(SITE)
    yield machine
    machine.power_off()


def act(machine: Machine, helper: str, agent: str, *argv: str, **env: str) -> Result:
    """Run an agent with the helper of that directory, in an environment like Pacemaker's."""
    done = machine.run(
        agent if "/" in agent else str(DIRECTORY / agent), *argv, check=False,
        env={"OCF_ROOT": "/usr/lib/ocf", "OCF_FUNCTIONS_DIR": helper,
             "OCF_RESOURCE_INSTANCE": "sample", "HA_RSCTMP": "/run", "PYTHONPATH": QUICK,
             "OCF_RESKEY_HA_RSCTMP": "/run", "OCF_RESKEY_state": STATE,
             "OCF_RESKEY_CRM_meta_interval": "10000", "OCF_RESKEY_CRM_meta_migrate_target": "b",
             **env},
    )  # fmt: skip
    marker = "ocf-exit-reason:"
    reasons = [line for line in done.stderr.splitlines() if line.startswith(marker)]
    return Result(done.returncode, done.stdout, reasons[-1] if reasons else "", done.stderr)


def normalised(xml: str) -> bytes:
    """Canonical XML (C14N) without the space around texts and between elements."""
    tree = etree.fromstring(xml.encode(), etree.XMLParser(no_network=True))
    for element in tree.iter():
        element.text = (element.text or "").strip() or None
        element.tail = None
    return bytes(etree.tostring(tree, method="c14n"))


def test_debian_installs_python_agents() -> None:
    assert {"dummypy", "azure-events", "gcp-vpc-move-vip"} <= set(AGENTS)


@pytest.mark.parametrize("agent", AGENTS)
def test_control_the_directory_selects_the_helper(machine: Machine, agent: str) -> None:
    result = act(machine, "/nonexistent", agent, "meta-data")
    assert result.code == 1
    assert "No module named 'ocf'" in result.err


@pytest.mark.parametrize("agent", AGENTS)
def test_same_metadata(machine: Machine, agent: str) -> None:
    theirs = act(machine, THEIRS, agent, "meta-data")
    ours = act(machine, OURS, agent, "meta-data")
    assert theirs.code == ours.code == 0, ours.err
    assert normalised(theirs.out) == normalised(ours.out)
    assert normalised(theirs.out) != normalised(ours.out.replace('timeout="', 'timeout="1', 1))


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("environment", [
    {"OCF_RESKEY_CRM_meta_interval": "0"},
    {"OCF_RESKEY_verbose": "true", "HA_debug": "1", "OCF_RESKEY_ip": "192.0.2.9",
     "OCF_RESKEY_stackdriver_logging": "yes", "OCF_RESKEY_alias_ip": "192.0.2.9/32",
     "OCF_RESKEY_vpc_network": "v", "OCF_RESKEY_disk_name": "d",
     "OCF_RESKEY_eventTypes": "Reboot,Banana"},
], ids=["probe", "configured"])  # fmt: skip
def test_same_outcome(machine: Machine, agent: str, environment: dict[str, str]) -> None:
    environment = {"HA_LOGFACILITY": "daemon", **environment}
    outcomes = []
    for helper in (THEIRS, OURS):
        machine.path(STATE).unlink(missing_ok=True)
        results = []
        for action in ACTIONS.get(agent, OTHERS):
            argv = [action] if action else []
            result = act(machine, helper, agent, *argv, **environment)
            # Ours gives a reason where theirs ends with 3 and no word, and says it better.
            reason = "" if result.code == 3 else result.reason
            results.append((action, result.code, result.out, reason))
        outcomes.append(results)
    assert outcomes[0] == outcomes[1]


def test_control_outcomes_differ_where_agents_do(machine: Machine) -> None:
    """dummypy goes through every kind of outcome, so that equal outcomes mean something."""
    machine.path(STATE).unlink(missing_ok=True)
    actions = ACTIONS["dummypy"]
    codes = [act(machine, OURS, "dummypy", *([a] if a else [])).code for a in actions]
    assert codes == [7, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 7, 3, 3]


# -- the other helper's faults, which are not copied ---------------------------------------

TEXT = """#!/usr/bin/python3
import os, sys
sys.path.append(os.environ["OCF_FUNCTIONS_DIR"])
import ocf
Base = getattr(ocf, "OcfError", Exception)
class Missing(Base):
    code = 5
def start(directory):
    ocf.logger.debug("detail")
    if directory == "/missing" or not ocf.have_binary("sh"):
        raise Missing("sh: not installed")
agent = ocf.Agent("sample", "Sample", "a < b & c")
agent.add_parameter("directory", required=True)
agent.add_action("start", timeout=20, handler=start)
agent.add_action("stop", timeout=20, handler=lambda directory: ocf.OCF_SUCCESS)
agent.add_action("monitor", timeout=20, handler=lambda directory: ocf.OCF_NOT_RUNNING)
agent.run()
"""


@pytest.fixture(scope="module")
def sample(machine: Machine) -> str:
    machine.path(SAMPLE).write_text(TEXT)
    machine.path(SAMPLE).chmod(0o755)
    return SAMPLE


@pytest.mark.parametrize(
    ("argv", "environment", "theirs", "ours"),
    [
        (["stop"], {}, 6, 0),
        (["monitor"], {"OCF_RESKEY_CRM_meta_interval": "0"}, 6, 7),
        (["monitor"], {}, 6, 6),
        (["start"], {}, 6, 6),
        (["banana"], {}, 6, 3),
        (["start", "extra"], {"OCF_RESKEY_directory": "/srv"}, 3, 0),
        (["start"], {"OCF_RESKEY_directory": "/missing"}, 1, 5),
        (["start"], {"OCF_RESKEY_directory": "/srv", "OCF_TESTER_FAIL_HAVE_BINARY": "1"}, 0, 5),
        (["meta-data"], {"HA_LOGFILE": "/nonexistent/log"}, 1, 0),
    ],
    ids=["stop", "probe", "monitor", "start", "unknown", "extra", "exception", "tester", "logfile"],
)
def test_exit_codes(
    machine: Machine, sample: str, argv: list[str], environment: dict[str, str], theirs: int,
    ours: int,
) -> None:  # fmt: skip
    assert act(machine, THEIRS, sample, *argv, **environment).code == theirs, "control"
    assert act(machine, OURS, sample, *argv, **environment).code == ours


def test_texts_are_escaped(machine: Machine, sample: str) -> None:
    with pytest.raises(etree.XMLSyntaxError):  # control
        normalised(act(machine, THEIRS, sample, "meta-data").out)
    assert b"a &lt; b &amp; c" in normalised(act(machine, OURS, sample, "meta-data").out)


@pytest.mark.parametrize(("debug", "theirs", "ours"), [("0", True, False), ("1", True, True)])
def test_ha_debug(machine: Machine, sample: str, debug: str, theirs: bool, ours: bool) -> None:
    for helper, expected in ((THEIRS, theirs), (OURS, ours)):
        log = f"/tmp/log{next(_serial)}"
        act(
            machine,
            helper,
            sample,
            "start",
            OCF_RESKEY_directory="/srv",
            HA_debug=debug,
            HA_LOGFILE=log,
        )
        assert ("detail" in machine.read(log)) == expected, helper


def test_syslog_tag_names_the_resource(machine: Machine) -> None:
    machine.run("sh", "-ec", "mount -t tmpfs -o mode=755 tmpfs /dev; mknod -m 666 /dev/null c 1 3")
    said = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(machine.path("/dev/log")))
        log.setblocking(False)
        for helper in (THEIRS, OURS):
            act(machine, helper, "dummypy", "monitor", HA_LOGFACILITY="local3", HA_debug="1")
            said[helper] = log.recv(4096).decode()
    assert "dummypy(sample)[" not in said[THEIRS], "control"
    # <19 * 8 + 3>: facility local3, severity error (RFC 3164 4.1.1)
    assert said[OURS].startswith("<155>")
    assert "dummypy(sample)[" in said[OURS]
    assert said[OURS].endswith("]: ERROR: No process state file found")
