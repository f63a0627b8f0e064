# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the host tests: one world for the run, fresh machines for each test.

Root is required and missing commands are errors: nothing here skips.
"""

from __future__ import annotations

import compileall
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from tests.support.machine import CHECKOUT, Machine, World
from tests.support.service import Agent, Cluster, Service


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """The namespaces around everything; they die with this process."""
    compileall.compile_dir(str(CHECKOUT / "lib"), quiet=1)  # machines see the checkout read-only
    world = World()
    yield world
    world.end()


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """statd's callout in its C form."""
    program = tmp_path_factory.mktemp("callout") / "nfslock-callout"
    source = CHECKOUT / "lib/nfslock/callout.c"
    subprocess.run(["cc", "-std=gnu11", "-O2", "-static", "-o", program, source], check=True)
    return program


@pytest.fixture
def new_cluster(world: World) -> Iterator[Callable[..., Cluster]]:
    """Return a function that makes a cluster; its arguments are the agent's parameters."""
    made: list[Cluster] = []

    def make(*, clients: int = 2, megabytes: int = 16, **parameters: str | None) -> Cluster:
        service = Service(world, Agent(**parameters), megabytes)
        made.append(Cluster(world, service, clients))
        return made[-1]

    yield make
    crashes = []
    for cluster in made:
        for machine in cluster.machines():
            if machine.alive():
                crashes += audit(machine)
                machine.power_off()
    assert not crashes, "\n".join(crashes)


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    """Two nodes and two clients that have mounted the service; nothing is started."""
    return new_cluster()


@pytest.fixture
def pair(new_cluster: Callable[..., Cluster]) -> Cluster:
    """Two nodes, no clients: for what needs nobody to be notified."""
    return new_cluster(clients=0)


def audit(machine: Machine) -> list[str]:
    """Return the Python tracebacks in the machine's logs: none is ever expected."""
    logs = machine.path("/var/log").rglob("*.log")
    texts = ((log.name, log.read_text(errors="replace")) for log in logs)
    return [f"{machine.name}: {name}:\n{text}" for name, text in texts if "Traceback" in text]
