# SPDX-License-Identifier: GPL-2.0-or-later
"""Decisions: what was observed and what is wanted, to named steps. Pure; nothing here acts.

Every step may be killed and all of them run again, here or on another node: there is no journal,
the next start observes and plans anew. The order holds these rules:

1. Nothing is written to the holding directory before it is claimed with a larger generation.
2. The number to be announced is durable before anybody is notified, and larger than all before.
3. Records of this node are added before the list of clients to notify is made from all of them.
4. The list is durable before statd or the propagator starts: a client leaves it by its reply only.
5. sm-notify is held off before statd starts, and statd is down while its directory is merged into.
6. Nothing is deleted by a start or a stop. Deletions are the propagator's, and only when it has
   seen the record absent for a while, with the VIP and the same lockd in place all the time.
7. Nobody is told while the server still has the locks: a client would reclaim outside of grace,
   and lose them. For the same reason a server that runs already without them is stopped or refused.
8. NFSv4 records are in place before nfsd starts: it reads them then and never again. An nfsd that
   has to be stopped for this is stopped while statd is down, which would delete its records.
"""

from __future__ import annotations

from types import MappingProxyType

from . import nsm
from .named_tuple import NamedTuple
from .owner import Owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Lines = dict[tuple[str, str], bytes]


class Wanted(NamedTuple):
    """Who wants to start the service, and when (seconds since the epoch)."""

    service: str
    node: str
    boot_id: str
    epoch: int
    v4: bool = False


class Observed(NamedTuple):
    """What a start found: the holding directory and this node's statd."""

    exists: bool = False
    owner: Owner | None = None
    state: int | None = None
    node_state: int | None = None
    held: Mapping[str, bytes] = MappingProxyType({})
    pending: frozenset[str] = frozenset()
    local: Mapping[str, Lines] = MappingProxyType({})
    #: The NFS server still has the clients' locks: only the propagator is gone.
    standing: bool = False


class Step(NamedTuple):
    """One idempotent step: its name, its argument, and a line for the log."""

    name: str
    what: object = None
    text: str = ""


def start(observed: Observed, wanted: Wanted) -> list[Step]:
    """The steps that make this node the owner and prepare the notification of every client."""
    before = observed.owner
    seen = [observed.state or 0, before.state if before else 0]
    # The node's own number counts only while the service has none: stock agents randomise it.
    number = nsm.next_state(
        seen if any(seen) else [observed.node_state or 0], wanted.epoch)
    owner = Owner(wanted.service, wanted.node, wanted.boot_id,
                  (before.generation if before else 0) + 1, number)
    seed = additions(nsm.by_client(observed.local.values()), observed.held)
    clients = frozenset(observed.held) | frozenset(seed)
    due = frozenset() if observed.standing else clients - observed.pending
    steps = [
        Step("claim", owner, f"generation {owner.generation}, was "
             + (f"{before.generation} on {before.node}" if before else "unclaimed")),
        Step("write_state", number, f"state number {number}"),
        Step("seed", seed, f"{len(seed)} records of this node added"),
        Step("enlist", due, f"{len(observed.pending | due)} clients to notify"),
        Step("hold_off_sm_notify", None, "the stock sm-notify stays out"),
        Step("stop_statd", None, "rpc.statd down"),
        Step("stop_nfsd", before, "no nfsd but the service's own"),
        *([Step("merge_v4", before, "NFSv4 recovery records put in place")] if wanted.v4 else []),
        Step("merge", {**observed.held, **seed}, "records put in place for rpc.statd"),
        # First: the callout of a client that comes with statd finds it. And what systemd does for
        # the daemons then, which nobody waits for here, takes no time from it.
        Step("start_propagator", owner, "propagator started"),
        Step("await_propagator", owner, "propagator ready"),
        Step("start_statd", None, "rpc.statd up, and nfsdcld ahead of nfsd"),
        Step("start_nfsd", None, "nfsd up again if it was"),
    ]
    if not observed.exists:
        steps.insert(0, Step("create", None, "holding directory created"))
    return steps


def additions(local: Mapping[str, bytes], held: Mapping[str, bytes]) -> dict[str, bytes]:
    """What has to be written so that `held` has every name of `local`; lines only it has stay.

    A cookie that alone has changed is not worth a durable write: every client that reclaims has a
    new one, and the next kernel knows neither. A line made without one is replaced.
    """
    changed = {}
    for client, data in local.items():
        old = held.get(client, b"")
        if old == data:
            continue
        have = nsm.parse_record(old) if old else {}
        wanted = nsm.parse_record(data).keys()
        if any(key not in have or nsm.is_made(have[key]) for key in wanted):
            new = data + (nsm.missing_lines(wanted, old) if old else b"")
            if new != old:
                changed[client] = new
    return changed


def merges(local: Mapping[str, Lines], held: Mapping[str, bytes]) -> dict[str, bytes]:
    """Whole files to put into statd's directory: the lines it lacks, in files named by mon_name.

    A line that is there stays as it is (its cookie is this kernel's), in whatever file.
    """
    known = frozenset(key for lines in local.values() for key in lines)
    files = {}
    for client, data in held.items():
        new = nsm.missing_lines(known, data)
        if new:
            files[client] = b"".join(local.get(client, {}).values()) + new
    return files


def deletions(
    absent: Mapping[str, float], now: float, patience: float, settled_since: float | None
) -> list[str]:
    """Clients whose records may go: absent for `patience` seconds, all of them while settled."""
    if settled_since is None:
        return []
    return [client for client, since in absent.items()
            if now - max(since, settled_since) >= patience]


def patience(interval: float) -> float:
    """Seconds that a record must be absent: re-monitoring removes it for an instant only."""
    return max(2 * interval, 10.0)


def not_in(local: Iterable[tuple[str, str]], held: Mapping[str, bytes]) -> list[str]:
    """Clients with a line in statd's directory that the holding directory lacks."""
    known = {key for data in held.values() for key in nsm.parse_record(data)}
    return sorted({key[0] for key in local if key not in known})
