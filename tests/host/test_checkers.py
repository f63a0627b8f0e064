# SPDX-License-Identifier: GPL-2.0-or-later
"""What the field's own tools say of the agent: the schemas, ocf-tester, pcs, crmsh, make install.

The tools are the installed ones and look below /usr/lib/ocf, so each test installs there, on a
machine whose root is an overlay: nothing of it reaches the host. Every check has a control that it
must reject.
"""

from __future__ import annotations

import itertools
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lxml import etree

from tests.support.hosts import Node
from tests.support.machine import CHECKOUT, Machine, World
from tests.support.service import AGENT, CONFIGURED, HOLDING, HOSTS, MOUNT_POINT, OK, VIP

COMMITTED = CHECKOUT / "metadata/nfslock.xml"
SCHEMAS = Path("/usr/share/resource-agents")
PCS_SCHEMA = Path("/usr/share/pcs/data/ocf-1.1.rng")
INSTALLED = "/usr/lib/ocf/resource.d/flm/nfslock"
LIBRARY = "/usr/lib/ocf/lib/flm/nfslock"
NAME, DUMMY = "ocf:flm:nfslock", "ocf:pacemaker:Dummy"
GOOD = {"holding_dir": HOLDING, "propagate_interval": "5", "ip": VIP}
BAD = [
    ("propagate_interval", "banana"), ("propagate_interval", "0"), ("propagate_interval", "-5"),
    ("ip", "nonsense"), ("ip", "192.0.2.10,192.0.2.300"), ("lock_migration", "perhaps"),
    ("nfs_versions", "4x"), ("nfs_versions", "4.1"), ("holding_dir", "relative/path"),
    ("notify_timeout", "never"),
]  # fmt: skip
TESTER = "ocf-tester -n locks -o propagate_interval=5 -o ip=" + VIP
_serial = itertools.count()


def install(machine: Machine, *variables: str) -> None:
    machine.run("make", "-s", "-C", str(CHECKOUT), "install", *variables)


@pytest.fixture(scope="module")
def machine(world: World) -> Iterator[Machine]:
    """A machine with the agent installed: no cluster, no NFS, no shared disk."""
    machine = Machine(world, "desk", ["192.0.2.9/24"])
    install(machine)
    yield machine
    machine.power_off()


@pytest.fixture
def node(world: World) -> Iterator[Node]:
    """A node with real rpcbind and rpc.statd, the agent, and the shared disk mounted."""
    node = Node(world, "nodeA", ["192.0.2.1/24"], HOSTS)
    install(node)
    node.mount(world.image(), MOUNT_POINT)
    yield node
    node.power_off()


# -- metadata ------------------------------------------------------------------------------


def dtd(xml: bytes) -> bool:
    """Validate as ocf-tester does, against the OCF 1.0 DTD of resource-agents and our additions."""
    assert b"!ATTLIST" not in xml, "Pacemaker 3.0.0 logs a failed assertion for each"
    argv = ["xmllint", "--noout", "--valid", "-"]
    here = xml.replace(b"/usr/lib/ocf/lib/flm/", f"{CHECKOUT}/metadata/".encode())
    return subprocess.run(argv, check=False, cwd=SCHEMAS, input=here).returncode == 0


def rng(schema: Path, *unknown: str) -> Callable[[bytes], bool]:
    """Validate against a RELAX NG schema that does not know the attributes in unknown."""

    def valid(xml: bytes) -> bool:
        tree = etree.fromstring(xml)
        for element in tree.iter("parameter"):
            for name in set(unknown) & set(element.keys()):
                del element.attrib[name]
        return bool(etree.RelaxNG(etree.parse(str(schema))).validate(tree))

    return valid


def ocf_1_1(xml: bytes) -> bool:
    """The rules of OCF 1.1 (resource agent API, metadata) that the installed schemas leave out."""
    tree = etree.fromstring(xml)
    texts = [*tree.iter("longdesc", "shortdesc")]
    actions = [*tree.iterfind("actions/action")]
    times = [one.get(name, "0s") for one in actions for name in ("timeout", "interval")]
    return (
        tree.findtext("version") == "1.1"
        and [e.tag for e in tree]
        == ["version", "longdesc", "shortdesc", "parameters", "actions"]
        and all(e.get("lang") == "en" and (e.text or "").strip() for e in texts)
        and {e.get("type") for e in tree.iter("content")} <= {"string", "integer", "boolean"}
        and all(one.get("timeout") for one in actions)
        and all(time.endswith("s") and time[:-1].isdigit() for time in times)
        and {"start", "stop", "monitor", "meta-data", "validate-all", "reload-agent"}
        <= {str(one.get("name")) for one in actions}
    )


CHECKERS: dict[str, Callable[[bytes], bool]] = {
    "OCF 1.0 DTD": dtd,
    # resource-agents' schema is that of OCF 1.0 with the roles of 1.1.
    "resource-agents RNG": rng(SCHEMAS / "metadata.rng", "unique-group", "reloadable"),
    "pcs RNG": rng(PCS_SCHEMA),
    "OCF 1.1": ocf_1_1,
}


def described() -> str:
    """Return the metadata that the agent of the checkout prints."""
    return subprocess.run(
        [AGENT, "meta-data"], check=True, capture_output=True, text=True, env={}
    ).stdout


def test_committed_metadata_are_the_agents() -> None:
    assert described() == COMMITTED.read_text(), "run `make metadata`"


@pytest.mark.parametrize("checker", CHECKERS)
def test_schema_accepts(checker: str) -> None:
    assert CHECKERS[checker](COMMITTED.read_bytes())


@pytest.mark.parametrize(("checker", "old", "new"), [
    ("OCF 1.0 DTD", b"/usr/lib/ocf/lib/flm/ra-api.dtd", b"ra-api-1.dtd"),
    ("OCF 1.0 DTD", b"</shortdesc>", b"</shortdesc><deprecated/>"),
    ("resource-agents RNG", b'type="string"', b'type="time"'),
    ("resource-agents RNG", b'required="1"', b'required="true"'),
    ("pcs RNG", b"reloadable", b"loadable"),
    ("OCF 1.1", b"<version>1.1", b"<version>1.0"),
    ("OCF 1.1", b'timeout="20s"', b'timeout="20"'),
])  # fmt: skip
def test_control_schema_rejects(checker: str, old: bytes, new: bytes) -> None:
    xml = COMMITTED.read_bytes()
    assert old in xml
    assert not CHECKERS[checker](xml.replace(old, new))


# -- make install --------------------------------------------------------------------------


@pytest.mark.parametrize(("destdir", "ocf_root"), [
    ("", "/usr/lib/ocf"), ("/tmp/stage", "/usr/lib/ocf"), ("/tmp/elsewhere", "/opt/ocf"),
])  # fmt: skip
def test_installed_agent_runs(machine: Machine, destdir: str, ocf_root: str) -> None:
    install(machine, f"DESTDIR={destdir}", f"OCF_ROOT={ocf_root}")
    root = f"{destdir}{ocf_root}"
    agent, library = f"{root}/resource.d/flm/nfslock", f"{root}/lib/flm/nfslock"
    link = f"/tmp/link{next(_serial)}"
    machine.run("ln", "-s", agent, link)
    for path in (agent, link):
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", path]
        for argv in ([path], nobody):
            said = machine.run(*argv, "meta-data", env={"OCF_ROOT": ocf_root})
            assert said.stdout == described()
            assert not said.stderr
    for path, mode in ((f"{root}/resource.d/flm", 0o755), (library, 0o755), (agent, 0o755),
                       (f"{library}/agent.py", 0o644)):  # fmt: skip
        assert machine.path(path).stat().st_mode & 0o7777 == mode, path
    sources = {path.relative_to(CHECKOUT / "lib/nfslock")
               for path in (CHECKOUT / "lib/nfslock").rglob("*.py")}  # fmt: skip
    for source in sources:
        there = machine.path(f"{library}/{source}")
        assert there.read_bytes() == (CHECKOUT / "lib/nfslock" / source).read_bytes()
    # Control: it is the installed library that the installed agent loads.
    machine.run("mv", library, f"{library}.away")
    assert machine.run(agent, "meta-data", check=False).returncode == 1
    machine.run("mv", f"{library}.away", library)


# -- ocf-tester ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "-o lock_migration=no", f"-o notify_names={VIP},nfs"])
def test_ocf_tester_passes(node: Node, options: str) -> None:
    argv = [*TESTER.split(), "-o", f"holding_dir={HOLDING}", *options.split(), INSTALLED]
    done = node.run(*argv, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{INSTALLED} passed all tests" in done.stdout
    assert "* rc=" not in done.stdout
    assert not node.find("propagate")
    node.umount(MOUNT_POINT)  # refused if anything were left open there


def test_control_ocf_tester_fails_without_the_shared_disk(node: Node) -> None:
    node.umount(MOUNT_POINT)
    argv = [*TESTER.split(), "-o", f"holding_dir={HOLDING}", INSTALLED]
    done = node.run(*argv, check=False, timeout=120)
    assert done.returncode != 0
    (why,) = [line for line in done.stdout.splitlines() if line.startswith("ocf-exit-reason:")]
    assert HOLDING in why
    assert not node.path(HOLDING).exists(), "an unmounted mount point is not filled"


def test_control_ocf_tester_finds_a_monitor_that_knows_nothing(node: Node) -> None:
    broken = "/usr/lib/ocf/resource.d/flm/broken"
    node.path(broken).write_text(f'#!/bin/sh\n[ "$1" = monitor ] || exec {INSTALLED} "$@"\n')
    node.path(broken).chmod(0o755)
    argv = [*TESTER.split(), "-o", f"holding_dir={HOLDING}", broken]
    done = node.run(*argv, check=False, timeout=120)
    assert done.returncode == 1, done.stdout
    assert "Monitoring a stopped resource should return 7" in done.stdout


# -- pcs and crmsh, on a CIB in a file -----------------------------------------------------


@pytest.fixture
def cib(machine: Machine) -> str:
    """An empty CIB that crm_verify finds no fault with."""
    path = f"/tmp/cib{next(_serial)}.xml"
    machine.run("sh", "-ec", f"cibadmin --empty > {path}")
    crm(machine, path, "configure", "property", "stonith-enabled=false",
        "no-quorum-policy=ignore", check=True)  # fmt: skip
    return path


def crm(
    machine: Machine, cib: str, *argv: str, check: bool = False
) -> subprocess.CompletedProcess[str]:
    return machine.run("crm", *argv, check=check, env={"CIB_file": cib, "TERM": "dumb"})


def pcs(
    machine: Machine, cib: str, *argv: str, check: bool = False
) -> subprocess.CompletedProcess[str]:
    return machine.run("pcs", "-f", cib, *argv, check=check)


def words(parameters: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in parameters.items()]


def pcs_create(
    machine: Machine, cib: str, parameters: dict[str, str], name: str = "locks"
) -> subprocess.CompletedProcess[str]:
    return pcs(machine, cib, "resource", "create", name, NAME, *words(parameters),
               "--agent-validation")  # fmt: skip


def crm_create(
    machine: Machine, cib: str, parameters: dict[str, str], name: str = "locks"
) -> subprocess.CompletedProcess[str]:
    return crm(machine, cib, "configure", "primitive", name, NAME, "params", *words(parameters),
               "op", "start", "timeout=60s", "op", "stop", "timeout=60s",
               "op", "monitor", "interval=10s", "timeout=20s")  # fmt: skip


def stored(machine: Machine, cib: str) -> dict[str, dict[str, str]]:
    """Return the parameters of each resource in the CIB."""
    tree = etree.fromstring(machine.path(cib).read_bytes())
    return {
        str(primitive.get("id")): {
            str(pair.get("name")): str(pair.get("value"))
            for pair in primitive.iterfind("instance_attributes/nvpair")
        }
        for primitive in tree.iter("primitive")
    }


def reason(machine: Machine, parameters: dict[str, str]) -> str:
    """Return what the agent itself says of the parameters."""
    env = {f"OCF_RESKEY_{name}": value for name, value in parameters.items()}
    done = machine.run(INSTALLED, "validate-all", check=False, env=env)
    assert done.returncode == (CONFIGURED if done.stderr else OK), done
    return done.stderr.strip().removeprefix("ocf-exit-reason:")


def test_pcs_accepts(machine: Machine, cib: str) -> None:
    done = pcs_create(machine, cib, GOOD)
    assert done.returncode == 0, done.stderr
    assert stored(machine, cib) == {"locks": GOOD}
    machine.run("crm_verify", "--xml-file", cib)
    tree = etree.fromstring(machine.path(cib).read_bytes())
    operations = [(op.get("name"), op.get("interval"), op.get("timeout"),
                   *(pair.get("value") for pair in op.iter("nvpair")))
                  for op in tree.iter("op")]  # fmt: skip
    assert ("monitor", "10s", "20s") in operations
    assert ("monitor", "60s", "30s", "10") in operations, "depth became OCF_CHECK_LEVEL"
    assert {op[0] for op in operations} == {"start", "stop", "monitor", "reload-agent"}


def test_crm_accepts(machine: Machine, cib: str) -> None:
    done = crm_create(machine, cib, GOOD)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert stored(machine, cib) == {"locks": GOOD}
    done = crm(machine, cib, "configure", "validate-all", "locks")
    assert done.returncode == 0, done.stderr
    machine.run("crm_verify", "--xml-file", cib)


def readme(start: str) -> list[list[str]]:
    """Return the README's commands that start like this, as words."""
    text = (CHECKOUT / "README.md").read_text().replace("\\\n", "")
    return [shlex.split(line, comments=True) for line in text.splitlines()
            if line.startswith(start)]


def group_of(machine: Machine, cib: str) -> list[str]:
    """Return the resources of the group, in order; both monitors of ours must be there."""
    tree = etree.fromstring(machine.path(cib).read_bytes())
    (locks,) = tree.xpath("//primitive[@id='locks']")
    levels = [[pair.get("value") for pair in op.iter("nvpair")]
              for op in locks.iter("op") if op.get("name") == "monitor"]
    assert levels == [[], ["10"]]
    machine.run("crm_verify", "--xml-file", cib)
    return [str(primitive.get("id")) for primitive in tree.iterfind(".//group/primitive")]


def test_the_readmes_pcs_command(machine: Machine, cib: str) -> None:
    for name in ("fs", "server", "export", "vip"):
        pcs(machine, cib, "resource", "create", name, DUMMY, "--group", "nfs", check=True)
    (create,) = readme("pcs resource create locks")
    pcs(machine, cib, *create[1:], check=True)
    assert group_of(machine, cib) == ["fs", "locks", "server", "export", "vip"]


def test_the_readmes_crm_commands(machine: Machine, cib: str) -> None:
    for name in ("fs", "server", "export", "vip"):
        crm(machine, cib, "configure", "primitive", name, DUMMY, check=True)
    commands = readme("crm configure")
    assert len(commands) == 2
    for command in commands:
        crm(machine, cib, *command[1:], check=True)
    assert group_of(machine, cib) == ["fs", "locks", "server", "export", "vip"]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_pcs_and_crm_reject_with_our_reason(
    machine: Machine, cib: str, name: str, value: str
) -> None:
    parameters = {**GOOD, name: value}
    why = reason(machine, parameters)
    assert f"{name}={value}: " in why
    done = pcs_create(machine, cib, parameters)
    assert done.returncode == 1
    assert why in done.stderr
    assert not stored(machine, cib)
    # crmsh leaves the agent's opinion to a command of its own.
    crm_create(machine, cib, parameters)
    done = crm(machine, cib, "configure", "validate-all", "locks")
    assert done.returncode == 1
    assert why in done.stdout + done.stderr


def test_pcs_rejects_a_bad_change(machine: Machine, cib: str) -> None:
    pcs_create(machine, cib, GOOD)
    change = ["resource", "update", "locks", "--agent-validation"]
    done = pcs(machine, cib, *change, "ip=nonsense")
    assert done.returncode == 1
    assert reason(machine, {**GOOD, "ip": "nonsense"}) in done.stderr
    assert stored(machine, cib) == {"locks": GOOD}
    pcs(machine, cib, *change, "ip=192.0.2.11", check=True)
    assert stored(machine, cib)["locks"]["ip"] == "192.0.2.11"


@pytest.mark.parametrize("create", [pcs_create, crm_create])
def test_required_and_unknown_parameters(
    machine: Machine, cib: str, create: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = create(machine, cib, {"propagate_interval": "5", "ip": VIP})
    assert done.returncode == 1
    assert "holding_dir" in done.stderr
    done = create(machine, cib, {**GOOD, "holding_directory": "/srv"})
    assert done.returncode == 1
    assert "holding_directory" in done.stderr
    assert not stored(machine, cib)


@pytest.mark.parametrize("create", [pcs_create, crm_create])
def test_a_holding_directory_serves_one_resource(
    machine: Machine, cib: str, create: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """pcs reads unique-group, crmsh reads unique: both know that holding_dir is ours alone."""
    assert create(machine, cib, GOOD).returncode == 0
    again = create(machine, cib, {**GOOD, "ip": "192.0.2.11"}, "others")
    assert again.returncode == 1, again.stderr
    assert "holding_dir" in again.stdout + again.stderr
    assert list(stored(machine, cib)) == ["locks"]
    other = create(machine, cib, {**GOOD, "holding_dir": "/srv/more/.nfslock"}, "others")
    assert other.returncode == 0, other.stderr
    assert list(stored(machine, cib)) == ["locks", "others"]


@pytest.mark.parametrize("argv", [
    ["pcs", "resource", "describe", NAME], ["crm", "ra", "info", NAME],
    ["crm_resource", "--show-metadata", NAME],
])  # fmt: skip
def test_parameters_are_described(machine: Machine, argv: list[str]) -> None:
    said = machine.run(*argv, env={"TERM": "dumb"}).stdout
    names = [str(e.get("name")) for e in etree.parse(str(COMMITTED)).iter("parameter")]
    assert len(names) >= 8
    for name in names:
        assert name in said
