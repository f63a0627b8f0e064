# SPDX-License-Identifier: GPL-2.0-or-later
"""The library keeps its shape: who may import whom, what monitor may load, how long files are."""

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "lib/nfslock"

#: Each module may import from its own layer and those below it.
LAYERS = [
    {"errors", "values", "params", "nsm", "rpc", "owner", "plan", "roster", "notify", "notify_job",
     "tickle", "recovery", "kernel_tables", "release_plan", "named_tuple", "plain_json"},
    {"files", "system", "signals", "sockets", "libraries", "sqlite"},
    {"reserve", "holding", "statd", "kernel", "events", "loop", "notify_io", "resolver", "runtime",
     "tickle_io", "advertise", "units", "processes", "holders", "clients", "release", "bounded",
     "nfsconf", "grace", "delegations", "birthday", "scope", "tracking", "tracking_sqlite",
     "tracking_schema", "tracking_nfsdcld", "tracking_nfsdcltrack", "tracking_directory"},
    {"tracking_mirror", "tracking_direct", "tracking_takeover",
     "mirror", "statd_watch", "lockd_watch", "recovery_watch", "readiness", "announce",
     "supervise", "monitor", "deep", "start", "stop", "callout_server", "setup_node", "leave",
     "mark", "neighbours"},
    {"agent", "cli", "propagate", "propagator", "report", "callout", "__main__"},
]
PURE = LAYERS[0]
#: What costs more at start-up than a whole monitor may (facts: measured imports).
HEAVY = {"logging", "subprocess", "dataclasses", "typing", "pathlib", "psutil", "lxml", "asyncio",
         "argparse", "re", "json", "socket", "ctypes", "enum"}
#: What clients need not wait for before they hear of a takeover.
SLOW = HEAVY | {
    "configparser", "hashlib", "difflib", "concurrent.futures", "collections", "functools",
    "selectors", "signal", "sqlite3", "threading", "nfslock.release", "nfslock.notify_io"}


def imports(name: str) -> set[str]:
    """The modules of our own package that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((LIBRARY / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found.update([node.module.partition(".")[0]] if node.module else
                         [alias.name for alias in node.names])
    return found - {"_vendor", "__version__"}


def layer(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


MODULES = sorted(path.stem for path in LIBRARY.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_its_layer_and_below(name: str) -> None:
    above = {other for other in imports(name) if layer(other) > layer(name)}
    assert not above


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_touch_no_operating_system(name: str) -> None:
    tree = ast.parse((LIBRARY / f"{name}.py").read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
               for alias in node.names}
    assert not modules & {"os", "subprocess", "socket", "time", "shutil", "psutil"}


@pytest.mark.parametrize("action", ["meta-data", "monitor"])
def test_frequent_actions_load_nothing_heavy(action: str, tmp_path: Path) -> None:
    run = tmp_path / "run.py"
    run.write_text(
        "import sys\n"
        f"sys.argv = ['nfslock', {action!r}]\n"
        f"sys.path.insert(0, {str(ROOT / 'lib')!r})\n"
        "from nfslock import agent\n"
        "try:\n    agent.main()\nexcept SystemExit as end:\n    code = end.code\n"
        "print(code, *sorted(sys.modules), file=sys.stderr)\n")
    environment = {**os.environ, "OCF_RESKEY_holding_dir": "/srv/x/locks", "OCF_RESKEY_ip":
                   "192.0.2.1", "OCF_RESKEY_propagate_interval": "5s",
                   "OCF_RESKEY_CRM_meta_timeout": "20000", "OCF_RESOURCE_INSTANCE": "unit-test"}
    done = subprocess.run([sys.executable, "-I", "-S", str(run)], env=environment,
                          capture_output=True, text=True, check=True)
    code, *loaded = done.stderr.splitlines()[-1].split()
    assert code == {"meta-data": "0", "monitor": "7"}[action]
    assert not HEAVY & set(loaded)


def test_a_start_loads_nothing_that_a_takeover_could_do_without() -> None:
    code = ("import sys; sys.path.insert(0, sys.argv[1]); "
            "from nfslock import agent, propagate, sqlite, start; print(*sys.modules)")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(ROOT / "lib")],
                          capture_output=True, text=True, check=True)
    assert not SLOW & set(done.stdout.split())


@pytest.mark.parametrize("closed", ["", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_an_action_ends_with_its_code_whatever_becomes_of_its_words(closed: str) -> None:
    environment = {"OCF_RESKEY_holding_dir": "/srv/x/locks", "OCF_RESKEY_ip": "192.0.2.1",
                   "OCF_RESOURCE_INSTANCE": "unit-test"}
    command = f"{shlex.quote(str(ROOT / 'agents/nfslock'))} monitor {closed}"
    assert subprocess.run(["sh", "-c", command], env=environment, check=False).returncode == 7


def test_modules_stay_readable() -> None:
    long = {path.name: lines for path in LIBRARY.glob("*.py")
            if (lines := len(path.read_text().splitlines())) > 340}
    assert not long


def test_every_module_says_what_it_is_for() -> None:
    for path in LIBRARY.rglob("*.py"):
        text = path.read_text()
        assert "SPDX-License-Identifier: GPL-2.0-or-later" in text[:200], path
        assert ast.get_docstring(ast.parse(text)), path
