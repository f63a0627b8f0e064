# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's parameters, declared once: metadata, parsing and help are made from here.

Pure, and read by every monitor: it may import nothing but values and errors.
"""

from __future__ import annotations

from .errors import ConfigError
from .values import (
    one_of,
    parse_addresses,
    parse_bool,
    parse_callout_timeout,
    parse_directories,
    parse_directory,
    parse_names,
    parse_scope,
    parse_seconds,
    parse_versions,
    parse_window,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Parameter:
    """One parameter: its name, OCF content type, default (None: none), texts and parser."""

    __slots__ = ("default", "kind", "longdesc", "name", "parse", "reloadable", "required",
                 "shortdesc", "unique")

    def __init__(
        self, name: str, kind: str, default: str | None, shortdesc: str, longdesc: str,
        parse: Callable[[str], object], *, unique: bool = False, required: bool = False,
        reloadable: bool = False,
    ) -> None:
        self.name, self.kind, self.default, self.parse = name, kind, default, parse
        self.shortdesc, self.longdesc = shortdesc, longdesc
        self.unique, self.required, self.reloadable = unique, required, reloadable


PARAMETERS = (
    Parameter(
        "holding_dir", "string", None, "Holding directory",
        "Directory in which the lock records of this service are kept. It must lie on a filesystem "
        "that fails over with the service, be used by this resource alone, and be empty at first; "
        "a missing one is created (mode 0700) when its parent is on that filesystem. "
        "Serviceguard NFS toolkit: NFS_FLM_HOLDING_DIR.",
        parse_directory, unique=True, required=True,
    ),
    Parameter(
        "propagate_interval", "string", None, "Time between two full sweeps",
        "How often all of rpc.statd's records are compared with the holding directory: 5, 5s, "
        "500ms, 1m. New records are copied as they appear; the sweep is the net below that. There "
        "is no default: with lock_migration=yes it must be set. "
        "Serviceguard NFS toolkit: PROPAGATE_INTERVAL.",
        parse_seconds, reloadable=True,
    ),
    Parameter(
        "lock_migration", "boolean", "yes", "Keep locks over a failover",
        "yes: records are kept and clients are told to reclaim their locks. no: the resource "
        "starts and stops and touches nothing. Serviceguard NFS toolkit: LOCK_MIGRATION.",
        parse_bool,
    ),
    Parameter(
        "ip", "string", None, "Floating addresses of the service",
        "The address or addresses (IPv4, IPv6, comma separated) that clients mount from. Clients "
        "are notified from each of them, once all are up on this node. Must be set with "
        "lock_migration=yes. Serviceguard NFS toolkit: the package IP.",
        parse_addresses,
    ),
    Parameter(
        "nfs_versions", "string", "3,4", "NFS versions whose locks are kept",
        "3 keeps the locks of NFSv2 and NFSv3 clients (rpc.statd); 3,4 those of NFSv4 clients, "
        "too (nfsd's recovery records). 3 is for servers that do not offer NFSv4; with 3,4 a "
        "server may offer NFSv4 alone.",
        parse_versions,
    ),
    Parameter(
        "v4_tracking", "string", "auto", "Where nfsd keeps its NFSv4 recovery records",
        "auto finds it out: nfsdcld (its database), nfsdcltrack (the older helper's) or v4recovery "
        "(nfsd's own directory).",
        one_of("auto", "nfsdcld", "nfsdcltrack", "v4recovery"),
    ),
    Parameter(
        "v4_records", "string", "mirror", "How NFSv4 recovery records get to the holding directory",
        "mirror copies each within milliseconds after nfsd has made it. direct has nfsdcld work in "
        "the holding directory itself, which leaves no window at all; for services that own the "
        "node's NFS server.",
        one_of("mirror", "direct"),
    ),
    Parameter(
        "takeover_running_nfsd", "string", "refuse", "When nfsd already runs at the start",
        "nfsd reads its recovery records only when it starts. refuse: the start fails and says "
        "so. restart: nfsd is restarted, which gives every client of the node a grace period.",
        one_of("refuse", "restart"),
    ),
    Parameter(
        "server_scope", "string", None, "NFSv4 server scope",
        "What every node announces as server scope (RFC 8881): clients of NFSv4.1 and later "
        "reclaim their locks only from a server of the same scope. Default: the first address in "
        "ip. When this is not set, nfsserver's nfs_server_scope counts.",
        parse_scope,
    ),
    Parameter(
        "statd_dir", "string", None, "State directory of rpc.statd",
        "Directory that holds statd's sm directory and state file. By default it is found on the "
        "node: what nfs.conf says, /var/lib/nfs/statd (Red Hat) or /var/lib/nfs (Debian, SUSE).",
        parse_directory,
    ),
    Parameter(
        "notify_timeout", "string", "15m", "How long clients are notified",
        "Clients that have not answered after this time are reported (the monitor returns "
        "degraded) and tried again at the next start.",
        parse_seconds, reloadable=True,
    ),
    Parameter(
        "notify_window", "integer", "2048", "How many clients are asked at the same time",
        "At most so many datagrams to clients are on the way at one moment. Fewer spare a slow "
        "network, and take longer. A change counts from the next takeover on.",
        parse_window, reloadable=True,
    ),
    Parameter(
        "notify_names", "string", None, "Names by which the service is announced",
        "Host names (comma separated) that clients may have mounted from, told to them besides "
        "each address. By default the first that this node's resolver has for the address (hosts "
        "file, DNS), if it answers within a second: set it where nodes resolve differently.",
        parse_names,
    ),
    Parameter(
        "tickle", "boolean", "yes", "Wake the clients' old TCP connections after a takeover",
        "yes: the clients' connections are recorded, and after a takeover each is sent a bare "
        "segment, so that the client notices at once that its server has changed and connects "
        "anew, instead of after the pauses of TCP's retransmissions.",
        parse_bool,
    ),
    Parameter(
        "callout_timeout", "string", "2s", "How long a client's first lock waits for its record",
        "rpc.statd's callout waits at most this long until a new client's record is durable in "
        "the holding directory (normally some milliseconds). Then the lock is granted all the "
        "same, and the monitor returns degraded until a sweep has caught up. At most 30s. Of "
        "several services on a node the longest counts.",
        parse_callout_timeout, reloadable=True,
    ),
    Parameter(
        "filesystems", "string", None, "Further filesystems of the service",
        "Mount points (comma separated) whose NFS locks are released when the service stops, so "
        "that they can be unmounted; the one that holds holding_dir always is. They start before "
        "this resource.",
        parse_directories,
    ),
    Parameter(
        "lockd_kill", "string", "auto", "SIGKILL to lockd when the service stops",
        "It drops every NFSv3 lock of the node, the node's own as an NFS client, too; kernels from "
        "6.6 on ignore it. never. auto: only where lockd honours it, locks of the service are "
        "left without it, no other service of this kind is on the node and the node holds no NFS "
        "locks of its own. always: at every stop, as the Serviceguard NFS toolkit does.",
        one_of("never", "auto", "always"), reloadable=True,
    ),
    Parameter(
        "nfs_client", "string", "warn", "When the node is an NFS client itself",
        "NFSv2/3 mounts with locks keep lockd from entering grace at a takeover, and mounts of the "
        "service's own address hang when it leaves. warn: start logs them and the monitor of "
        "level 10 returns degraded. refuse: the start fails.",
        one_of("warn", "refuse"), reloadable=True,
    ),
)


class Config:
    """The parsed parameters of one resource; read-only once made by parse()."""

    __slots__ = ("callout_timeout", "filesystems", "holding_dir", "ip", "lock_migration",
                 "lockd_kill", "nfs_client", "nfs_versions", "notify_names", "notify_timeout",
                 "notify_window", "propagate_interval", "server_scope", "statd_dir",
                 "takeover_running_nfsd", "tickle", "v4_records", "v4_tracking")

    holding_dir: str
    propagate_interval: float
    lock_migration: bool
    ip: tuple[str, ...]
    nfs_versions: tuple[int, ...]
    statd_dir: str | None
    notify_timeout: float
    notify_window: int
    notify_names: tuple[str, ...]
    tickle: bool
    callout_timeout: float
    filesystems: tuple[str, ...]
    lockd_kill: str
    nfs_client: str
    v4_tracking: str
    v4_records: str
    takeover_running_nfsd: str
    server_scope: str


#: What a parameter that has neither a value nor a default is parsed to.
_ABSENT: dict[str, object] = {
    "holding_dir": "", "propagate_interval": 0.0, "ip": (), "statd_dir": None, "notify_names": (),
    "filesystems": (),
    "server_scope": "",
}
_NEEDED = {
    "holding_dir": "name a directory on the service's shared filesystem",
    "propagate_interval": "it has no default: set it, for example propagate_interval=5s",
    "ip": "name the floating address that clients mount from",
}


def parse(values: Mapping[str, str]) -> Config:
    """Config from raw texts by parameter name; ConfigError names the first wrong one.

    Unknown names are ignored, empty texts count as unset (as in the OCF shell agents).
    """
    config = Config()
    for parameter in PARAMETERS:
        text = values.get(parameter.name, "").strip() or parameter.default
        try:
            value = _ABSENT[parameter.name] if text is None else parameter.parse(text)
        except ValueError as error:
            raise ConfigError(f"{parameter.name}={text}: {error}") from None
        setattr(config, parameter.name, value)
    if config.lock_migration:
        for name, advice in _NEEDED.items():
            if not getattr(config, name):
                raise ConfigError(f"{name} is not set although lock_migration=yes: {advice}")
    return config
