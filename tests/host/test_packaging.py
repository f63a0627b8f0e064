# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages: what is in them, and what their installation, upgrade and removal do to a node.

They are built as `make deb` and `make rpm` build them, and installed with dpkg and rpm on machines
whose root is an overlay: nothing of it reaches the host.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfslock import __version__
from tests.support.hosts import Node
from tests.support.machine import CHECKOUT, Machine, World
from tests.support.service import HOSTS, MOUNT_POINT, OK, Agent
from tests.support.wait import wait_until

AGENT = "/usr/lib/ocf/resource.d/flm/nfslock"
LIBRARY = "/usr/lib/ocf/lib/flm/nfslock"
ADVICE = "nfslock setup-node --apply"
DROP_IN = "/etc/nfs.conf.d/nfslock.conf"
LIST = {"deb": ["dpkg-deb", "-c"], "rpm": ["rpm", "-qplv"]}
SCRIPTS = {"deb": ["dpkg-deb", "-I"], "rpm": ["rpm", "-qp", "--scripts"]}
#: Without triggers: man-db would index all pages of the host each time.
INSTALL = {"deb": "dpkg --no-triggers -i", "rpm": "rpm --force-debian --nodeps -U --force"}
REMOVE = {"deb": "dpkg --no-triggers -r", "rpm": "rpm --force-debian --nodeps -e"}
#: What the package managers write for themselves.
THEIRS = ("/var/lib/dpkg/", "/var/log/dpkg.log", "/var/lib/rpm/", "/root/.rpmdb/")
_serial = itertools.count()


@pytest.fixture(scope="module", params=["deb", "rpm"])
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp(request.param))


def build(kind: str, place: Path) -> Path:
    done = subprocess.run(["make", "-C", CHECKOUT, kind, f"BUILD={place}"], check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (package,) = place.rglob(f"*.{kind}")
    return package


def kind_of(package: Path) -> str:
    return package.suffix[1:]


@pytest.fixture
def machine(world: World) -> Iterator[Machine]:
    machine = Machine(world, "desk", ["192.0.2.9/24"])
    yield machine
    machine.power_off()


def ask(argv: list[str], package: Path) -> str:
    return subprocess.run([*argv, package], check=True, stdout=subprocess.PIPE, text=True).stdout


def contents(package: Path) -> dict[str, str]:
    """Return the mode and owner of each file in the package, as in `-rwxr-xr-x root/root`."""
    found = {}
    for line in ask(LIST[kind_of(package)], package).splitlines():
        # mode, in an RPM the number of links, user and group, size, date, path
        form = r"(\S+) +(?:\d+ )?(\w+)[ /]+(\w+) .*? \.?(/\S*)(?: -> .*)?"
        ((mode, user, group, path),) = re.findall(form, line)
        if not mode.startswith("d"):
            found[path] = f"{mode} {user}/{group}"
    return found


def install(machine: Machine, package: Path) -> str:
    """Install or upgrade; return what the administrator sees."""
    there = f"/tmp/{next(_serial)}.{kind_of(package)}"
    machine.path(there).write_bytes(package.read_bytes())
    return machine.run(*INSTALL[kind_of(package)].split(), there).stdout


def files(machine: Machine) -> dict[str, int]:
    """Return all files that are not as on the host, with the times of their last change."""
    options = machine.run("findmnt", "-no", "OPTIONS", "/").stdout
    (upper,) = re.findall(r"upperdir=([^,]+)", options)
    bases = {str(machine.world.seen(upper)): ""}
    bases.update((str(machine.path(path)), path) for path in ("/run", "/var/lib/nfs"))
    return {
        f"{where}{directory[len(base):]}/{name}": os.lstat(f"{directory}/{name}").st_ctime_ns
        for base, where in bases.items()
        for directory, _, names in os.walk(base)
        for name in names
    }


def changed(machine: Machine, before: dict[str, int]) -> set[str]:
    """Return what was made, changed or removed since, but for the package managers' own files."""
    after = files(machine)
    return {path for path in before.keys() | after.keys()
            if before.get(path) != after.get(path) and not path.startswith(THEIRS)}  # fmt: skip


# -- what is in them -----------------------------------------------------------------------


def test_contents(package: Path) -> None:
    found = contents(package)
    program, text = "-rwxr-xr-x root/root", "-rw-r--r-- root/root"
    for path, mode in {
        AGENT: program, "/usr/sbin/nfslock-callout": program, "/usr/sbin/nfslock": "lrwxrwxrwx",
        f"{LIBRARY}/__main__.py": program, f"{LIBRARY}/callout.py": program,
        f"{LIBRARY}/agent.py": text, "/usr/lib/ocf/lib/flm/ra-api.dtd": text,
    }.items():  # fmt: skip
        assert found[path].startswith(mode), path
    library = CHECKOUT / "lib/nfslock"
    sources = {f"{LIBRARY}/{path.relative_to(library)}" for path in library.rglob("*.py")}
    assert {path for path in found if path.startswith(LIBRARY) and path.endswith(".py")} == sources
    for page in ("man7/ocf_flm_nfslock.7", "man8/nfslock.8"):
        assert {f"/usr/share/man/{page}", f"/usr/share/man/{page}.gz"} & set(found)
    assert all(path.startswith("/usr/") for path in found)
    assert all(mode.endswith(" root/root") for mode in found.values())
    # Debian makes byte-code when a package is installed, Red Hat when it is built.
    assert any("__pycache__" in path for path in found) == (kind_of(package) == "rpm")


def test_scripts_leave_services_alone(package: Path) -> None:
    scripts = ask(SCRIPTS[kind_of(package)], package)
    assert not re.search(r"systemctl|deb-systemd|invoke-rc|service ", scripts)


def test_one_version() -> None:
    changelog = (CHECKOUT / "packaging/deb/changelog").read_text()
    spec = (CHECKOUT / "packaging/rpm/nfslock.spec").read_text()
    setup = (CHECKOUT / "setup.cfg").read_text()
    assert changelog.startswith(f"nfslock ({__version__}-1)")
    assert re.findall(r"^Version: +(\S+)", spec, re.M) == [__version__]
    assert f"> - {__version__}-1" in spec.partition("%changelog")[2].splitlines()[1]
    assert f"\nversion = {__version__}\n" in setup


# -- what they do to a node ----------------------------------------------------------------


def test_installation_changes_nothing_else(machine: Machine, package: Path) -> None:
    before = files(machine)
    said = install(machine, package)
    assert ADVICE in said
    strange = changed(machine, before) - set(contents(package))
    assert {path for path in strange if not path.startswith(f"{LIBRARY}/")} == set()
    assert not machine.processes()
    # Control: what setup-node does would be seen, and only the administrator has it done.
    assert "Nothing was changed" in machine.run("nfslock", "setup-node").stdout
    assert DROP_IN not in files(machine)
    before = files(machine)
    machine.run("nfslock", "setup-node", "--apply")
    assert DROP_IN in changed(machine, before)


def test_installed_agent_runs_from_byte_code(machine: Machine, package: Path) -> None:
    install(machine, package)
    said = machine.run(AGENT, "meta-data")
    assert said.stdout == (CHECKOUT / "metadata/nfslock.xml").read_text()
    assert __version__ in machine.run("nfslock", "--version").stdout
    assert loaded(machine) == {".pyc"}
    # Control: byte-code of other sources.
    machine.run("find", LIBRARY, "-name", "*.py", "-exec", "sed", "-i", "$a# changed", "{}", "+")
    assert loaded(machine) == {".py"}


def loaded(machine: Machine) -> set[str]:
    """Return what kinds of files Python loads the modules of a monitor from."""
    code = f"import sys; sys.path.insert(0, '{os.path.dirname(LIBRARY)}'); import nfslock.monitor"
    said = machine.run("python3", "-IBSv", "-c", code).stderr
    return set(re.findall(rf"# code object from '?{LIBRARY}/\S+(\.pyc?)\b", said))


def test_upgrade_and_removal(machine: Machine, package: Path) -> None:
    install(machine, package)
    machine.run("nfslock", "setup-node", "--apply")
    assert "setup-node" not in install(machine, package), "an upgrade is quiet"
    assert DROP_IN in files(machine)
    assert "nfslock setup-node --undo --apply" in remove(machine, package)
    assert ADVICE in install(machine, package)
    machine.run("nfslock", "setup-node", "--undo", "--apply")
    assert DROP_IN not in files(machine)
    assert "setup-node" not in remove(machine, package), "there is nothing to be taken back"
    for path in (AGENT, LIBRARY, "/usr/sbin/nfslock", "/usr/sbin/nfslock-callout"):
        assert not os.path.lexists(machine.path(path)), path


def remove(machine: Machine, package: Path) -> str:
    return machine.run(*REMOVE[kind_of(package)].split(), "nfslock").stdout


@pytest.mark.parametrize("package", ["deb"], indirect=True)
def test_upgrade_of_a_node_that_serves(world: World, package: Path, tmp_path: Path) -> None:
    """The propagator goes on with the old code; one whose supervisor is killed starts the new."""
    node = Node(world, "nodeA", ["192.0.2.1/24"], HOSTS)
    install(node, package)
    node.mount(world.image(), MOUNT_POINT)
    agent = Agent()

    def act(action: str, interval: int = 0) -> int:
        environment = agent.environment(action, interval, 20, 0)
        return node.run(AGENT, action, check=False, env=environment).returncode

    assert act("start") == OK
    (first,) = node.find("propagate")
    said = install(node, newer(package, tmp_path))
    assert "0.99" in node.run("nfslock", "--version").stdout
    assert "setup-node" not in said
    assert [process.pid for process in node.find("propagate")] == [first.pid]
    assert act("monitor", 10) == OK
    (supervisor,) = node.find("supervise")
    supervisor.kill()
    wait_until(lambda: first.pid not in [process.pid for process in node.find("propagate")],
               "another propagator")
    wait_until(lambda: act("monitor", 10) == OK, "it is back")
    assert act("stop") == OK
    node.umount(MOUNT_POINT)
    node.power_off()


def newer(package: Path, place: Path) -> Path:
    """The same Debian package as version 0.99."""
    tree, made = place / "tree", place / "newer.deb"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    for path in ("DEBIAN/control", f".{LIBRARY}/__init__.py"):
        text = (tree / path).read_text()
        assert __version__ in text
        (tree / path).write_text(text.replace(__version__, "0.99"))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, made], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return made
