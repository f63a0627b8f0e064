# SPDX-License-Identifier: GPL-2.0-or-later
"""The judgement after every scenario, in one place: what must be true whatever was done.

Each audit looks at logs and machines and returns its complaints as sentences. None is ever switched
off by a scenario: what one expects on purpose it names in `allowed` lines of the journals.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from . import frames, layout

if TYPE_CHECKING:
    from .trial import Trial

#: Lines of any journal or console that no scenario may cause.
FORBIDDEN = re.compile(
    r"BUG:|WARNING: CPU|Oops|general protection|Call Trace|soft lockup|hung_task|"
    r"failed to reclaim|spurious grace period|reclaim failed|lost \d+ locks|"
    r"couldn't shutdown host module|using usermode helper|Traceback|"
    r"NFSD: Unable to|JBD2: .*error|EXT4-fs error|Out of memory|segfault"
)
#: A client that recovers counts the lock requests under way among the locks that it lost (Linux
#: fs/nfs/nfs4state.c, __nfs4_reclaim_open_state): a machine that holds no lock says it for nothing.
COUNTED = re.compile(r"NFS: \S+ lost \d+ locks")
#: What a kernel always says: before 6.4 lockd keeps what a client has locked when nfsd stops (Linux
#: fs/lockd/host.c, nlm_shutdown_hosts_net), and forgets it a moment later when it ends itself.
USUAL = {"6.1.": r"lockd: couldn't shutdown host module"}
#: Errors (priority 3 and worse) that the stock programs log in a healthy life.
HARMLESS = re.compile(
    r"Failed to read /var/lib/nfs/state: Success|rpc.statd already|"
    r"Failed to find module 'autofs4'|nfslock-callout|cannot unmonitor|"
    r"server .* not responding|server .* OK|"
    r"Failed to (stat|open) /var/lib/nfs|lockd: cannot monitor|"
    r"Error in connection setup .*Broken pipe|"  # a Pacemaker tool that has its answer
    r"99-nfs\.rules:\d+ Failed to write ATTR.*read_ahead_kb"  # a mount that is gone already
)


def exclusion(trial: Trial) -> list[str]:
    """No lock that a living client held was granted to anyone else, ever."""
    complaints = []
    for owner in trial.owners:
        end = owner.died_at or float("inf")
        for path in owner.paths:
            file = path.rsplit("/", 1)[1]
            locked = [e.at for e in owner.entries("locked") if e.file == path]
            start = locked[0] if locked else trial.locked_at
            released = [e.at for e in owner.entries("releasing") if e.file == path]
            until = min([end, *released])
            for rival in trial.rivals:
                for grant in rival.entries("granted"):
                    same = grant.file.rsplit("/", 1)[1] == file
                    if same and start <= grant.at < until:
                        complaints.append(
                            f"{file}: {rival.machine.name} was granted the lock that "
                            f"{owner.machine.name} held, {grant.at - trial.origin:.1f} s after "
                            "the fault"
                        )
                        break
    return complaints


def server_locks(trial: Trial, files: list[str]) -> dict[str, list[str]]:
    """The entries of /proc/locks on the active node, for each of these files of the export."""
    node = trial.active
    kinds = ("POSIX", "DELEG") if trial.delegations else ("POSIX",)
    new = [file for file in files if file not in trial.inodes]
    if new:
        inodes = node.out(f"cd {layout.DATA} && stat -c '%i' -- {' '.join(new)}").split()
        trial.inodes.update(zip(new, inodes))
    table: dict[str, list[str]] = {trial.inodes[file]: [] for file in files}
    for line in node.read("/proc/locks").splitlines():
        words = line.split()
        inode = next((w.rsplit(":", 1)[1] for w in words if w.count(":") == 2), "")
        waits = words[1] == "->"
        if inode in table and not waits and words[1] in kinds:
            table[inode].append(line)
    return {file: table[trial.inodes[file]] for file in files}


def not_held(trial: Trial) -> list[str]:
    """Files whose lock a living client should hold and that the active server does not know."""
    files = trial.held_files()
    if not files:
        return []
    return [file for file, entries in server_locks(trial, files).items() if not entries]


def held(trial: Trial) -> list[str]:
    """Every held lock is held (again) on the server: POSIX, or DELEG where nfsd may delegate."""
    lost = not_held(trial)
    return [f"not held on {trial.active.name}: {', '.join(lost)}"] if lost else []


def applications(trial: Trial) -> list[str]:
    """The lock owners saw no error, are alive, and wrote after the fault."""
    complaints = []
    for owner in trial.living_owners():
        errors = owner.entries("error")
        if errors:
            complaints.append(f"{owner.name}: {errors[0].errno} at {errors[0].file}")
        if owner.ended and not owner.entries("end"):
            complaints.append(f"{owner.name} ended by itself")
        if trial.fault_at and not owner.entries("wrote", "releasing", after=trial.fault_at + 0.5):
            complaints.append(f"{owner.name} did not write after the fault")
    return complaints


def address(trial: Trial) -> list[str]:
    """The VIP is on exactly one node, and since the takeover only that node said that it has it."""
    here = [
        node.name
        for node in trial.living_nodes()
        if f" {layout.VIP}/" in node.out("ip -o -4 addr show")
    ]
    complaints = []
    if here != [trial.active.name]:
        complaints.append(f"VIP on {here or 'no node'}, should be on {trial.active.name}")
    seen = frames.announcements(trial.rig.switch.frames, layout.VIP)
    others = {a.port for a in seen if trial.taken_over_at and a.at > trial.taken_over_at}
    others -= {f"{trial.active.name}/data"}
    if others:
        complaints.append(f"VIP announced after the takeover by {', '.join(sorted(others))}")
    return complaints


def journals(trial: Trial) -> list[str]:
    """No unexpected line: forbidden ones on any machine, errors on those that still run."""
    complaints = []
    kernel = trial.rig.image.versions["kernel"]
    usual = [said for version, said in USUAL.items() if kernel.startswith(version)]
    allowed = re.compile("|".join([*trial.allowed, *usual]) or r"(?!)")
    holders = {owner.machine.name for owner in trial.owners}
    for machine in trial.rig.machines.values():
        for line in (machine.journal_text() + machine.last_words()).splitlines():
            if COUNTED.search(line) and machine.name not in holders:
                continue
            said = f"{machine.name}: {line.strip()[:200]}"
            if FORBIDDEN.search(line) and not allowed.search(said):
                complaints.append(said)
        if not machine.alive or machine.frozen:
            continue
        for entry in machine.journal("-p", "3"):
            text = str(entry.get("MESSAGE", ""))[:200]
            said = f"{machine.name}: {entry.get('SYSLOG_IDENTIFIER', '?')}: {text}"
            if not (HARMLESS.search(text) or allowed.search(said)):
                complaints.append(said)
    return list(dict.fromkeys(complaints))


def told(trial: Trial) -> list[frames.Notification]:
    """The SM_NOTIFYs of the recording that did not come from a client that has rebooted."""
    clients = {role.addresses["data"] for role in layout.ROLES if not role.shared_disk}
    seen = frames.notifications(frames.calls(trial.rig.switch.frames))
    return [notice for notice in seen if notice.source not in clients]


def states(trial: Trial) -> list[str]:
    """The NSM state numbers that clients were told are odd and only grow."""
    complaints = []
    last = trial.last_state
    for notice in told(trial):
        if notice.state % 2 != 1:
            complaints.append(f"even NSM state {notice.state} told to {notice.target}")
        if notice.state < last:
            complaints.append(f"NSM state went back from {last} to {notice.state}")
        if notice.source != layout.VIP:
            complaints.append(f"notified from {notice.source}, which is not the VIP")
        last = max(last, notice.state)
    if "3" in trial.versions and trial.takeovers and last <= trial.last_state:
        complaints.append(f"NSM state did not grow: {trial.last_state} before, {last} now")
    return complaints


ALL = (exclusion, held, applications, address, journals, states)


def complaints(trial: Trial) -> list[str]:
    """Everything that is wrong."""
    return [f"{audit.__name__}: {text}" for audit in ALL for text in audit(trial)]
