# SPDX-License-Identifier: GPL-2.0-or-later
"""A failover that can be watched: `make demo`, or `python -m tests.host.demo` as root.

Two server nodes and two clients in namespaces of this machine. The story is told twice, without
lock migration and with it. Exit code 0 means that each client's real rpc.statd accepted the
notification in the second part, from the floating address and with a new state, and heard nothing
in the first. Nothing of it is left behind. It tests nothing else.
"""

from __future__ import annotations

import os
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [ROOT, f"{ROOT}/lib"]

from tests.support.machine import World  # noqa: E402
from tests.support.service import (  # noqa: E402
    COMMAND,
    HOLDING,
    MOUNT_POINT,
    VIP,
    Agent,
    Cluster,
    Service,
    ip_of,
)
from tests.support.wait import wait_until  # noqa: E402

BEGAN = time.time()
INTRODUCTION = f"""\
An NFS service moves from nodeA, which loses its power, to nodeB. Two clients hold locks.

  real         network, rpcbind and rpc.statd on all four machines, each with its own namespaces;
               the shared disk (ext4), the agent as Pacemaker calls it, SM_MON, SM_NOTIFY
  stood in for the kernels' nfsd and lockd: they answer, but hold no locks
  addresses    {VIP} is the service's own and moves with it
"""


class Failure(Exception):
    """The demonstration did not show what it should."""


def tell(who: str, what: str, at: float | None = None) -> None:
    """Print a line with the seconds since the beginning."""
    print(f"{(time.time() if at is None else at) - BEGAN:7.2f} s  {who:8} {what}", flush=True)


def heading(text: str) -> None:
    """Print the title of a part."""
    print(f"\n{text}\n", flush=True)


def begin(cluster: Cluster) -> None:
    """Start the service on nodeA and have the clients take their first locks."""
    cluster.service.bring_up(cluster.a)
    tell("nodeA", f"runs the service: {MOUNT_POINT}, nfslock, nfsd, lockd, export, {VIP}")
    cluster.lock(cluster.a)
    for client in cluster.clients:
        tell(client.name, f"({ip_of(client)}) takes a lock: rpc.statd on nodeA makes a record")


def fail_over(cluster: Cluster) -> float:
    """Cut nodeA's power, start the service on nodeB; return when nodeB began."""
    cluster.a.power_off()
    tell("nodeA", "loses its power; its memory, and with it every lock, is gone")
    began = time.time()
    cluster.service.bring_up(cluster.b)
    tell("nodeB", f"has taken the service over, after {time.time() - began:.2f} s")
    return began


def without(cluster: Cluster) -> None:
    """The failover as it is without the product."""
    heading("1. Without: lock_migration=no")
    begin(cluster)
    fail_over(cluster)
    for client in cluster.clients:
        client.run("rpcinfo", "-T", "udp", VIP, "100021", "4")
        heard = client.notified()
        tell(client.name, f"reaches nodeB's lockd at {VIP}; told to reclaim: {len(heard)} times")
    tell("", "The clients believe that they hold their locks. Nobody else knows of them.")
    cluster.service.bring_down(cluster.b)
    cluster.reboot(cluster.a)


def with_migration(cluster: Cluster) -> None:
    """The failover with the product."""
    heading(f"2. With: lock_migration=yes, holding_dir={HOLDING}")
    service = cluster.service
    service.agent.parameters["lock_migration"] = "yes"
    begin(cluster)
    service.durable(cluster.a, *map(ip_of, cluster.clients))
    state = service.state(cluster.a)
    tell("nodeA", f"nfslock has both records on the shared disk, and state number {state}")
    began = fail_over(cluster)
    for client in cluster.clients:
        wait_until(client.accepted, f"{client.name} accepts the notification", timeout=20)
    lines = []
    for client in cluster.clients:
        heard, accepted = client.notified()[0], client.accepted()[0]
        said = f'"{heard.name} has restarted, state {heard.state}" from {heard.address}'
        lines.append((heard.at, client.name, f"rpc.statd hears SM_NOTIFY {said}"))
        news = f"new to rpc.statd: it has its lockd reclaim the locks at {accepted.mon_name}"
        lines.append((accepted.at, client.name, news))
    for at, who, what in sorted(lines):
        tell(who, what, at)
    check(cluster, state)
    last = max(client.accepted()[0].at for client in cluster.clients)
    wait_until(
        lambda: service.told(cluster.b).get("notify_left") == "0", "nobody is left to notify"
    )
    heading(
        f"Every client was told {last - began:.2f} s after nodeB began to take over.\n"
        "Without lock migration none was."
    )
    print("`nfslock status` on nodeB:\n\n" + cluster.b.run(COMMAND, "status").stdout)


def check(cluster: Cluster, before: int) -> None:
    """Raise Failure unless the witnesses say what the exit code promises."""
    state = cluster.service.state(cluster.b)
    if not state > before:
        raise Failure(f"state {state} is not larger than {before}")
    for client in cluster.clients:
        told = {(one.address, one.state) for one in client.notified()}
        if told != {(VIP, state)}:
            raise Failure(f"{client.name} heard {told}, expected only {VIP} with state {state}")
        accepted = [(one.mon_name, one.state) for one in client.accepted()]
        if accepted != [(VIP, state)]:
            raise Failure(f"{client.name} accepted {accepted}, expected once {VIP}, {state}")


def main() -> int:
    """Tell the story; return the exit code."""
    cluster: Cluster | None = None
    world = None
    try:
        world = World()
        print(INTRODUCTION)
        cluster = Cluster(world, Service(world, Agent(lock_migration="no")))
        tell("", "four machines are up; both clients have mounted from the service's address")
        without(cluster)
        with_migration(cluster)
    except (AssertionError, Failure, RuntimeError) as error:
        print(f"\nThe demonstration failed: {error}", file=sys.stderr)
        for node in (cluster.a, cluster.b) if cluster else ():
            if node.alive():
                print(f"\nlog of {node.name}:\n{cluster.service.log(node)}", file=sys.stderr)
        return 1
    finally:
        if world:
            world.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
