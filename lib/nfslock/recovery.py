# SPDX-License-Identifier: GPL-2.0-or-later
"""NFSv4 recovery records: who may reclaim after a restart of nfsd, whatever form it is kept in.

Pure. A record is the client's owner id (co_ownerid, RFC 8881 18.35: 1 to 1024 opaque bytes) and the
SHA-256 of its Kerberos principal, if it has one. The oldest form keeps only the MD5 of the id, as
the name of a directory; nfsdcld has a spelling for such a client too, which is used here for all.
"""

from __future__ import annotations

try:  # Python's own: hashlib loads OpenSSL, for which every takeover would wait
    from _md5 import md5  # type: ignore[import-not-found]
except ImportError:  # built without, as Fedora's and Red Hat's are
    md5 = None

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    #: Owner id to principal hash, b"" for none.
    Clients = dict[bytes, bytes]

#: Largest co_ownerid (NFS4_OPAQUE_LIMIT).
MAX_ID = 1024
#: Digits in the name of a client's directory (fs/nfsd/nfs4recover.c, HEXDIR_LEN).
NAME_LENGTH = 32
#: nfsdcld's id for a client of which only the directory name is known (utils/nfsdcld/legacy.c).
_HASHED, _END = b"hash:", b"\0"
_HEX = frozenset("0123456789abcdef")
#: Keeps nfsd's grace period from being skipped or cut short; no client has this id.
PLACEHOLDER = b"nfslock: the grace period of this start is for NFSv3 clients, too"


def usable(owner: object, principal: object = b"") -> bool:
    """Whether a row may be passed on: nfsdcld reads beyond the end of others.

    Up to 2.8.1 it forwards an empty id, and it copies 32 bytes of any principal hash.
    """
    return (isinstance(owner, bytes) and 0 < len(owner) <= MAX_ID
            and isinstance(principal, bytes) and len(principal) in (0, 32))


def is_name(name: str) -> bool:
    """Whether this is the directory name of a client: MD5 in lower-case hexadecimal."""
    return len(name) == NAME_LENGTH and _HEX.issuperset(name)


def hashed(name: str) -> bytes:
    """The id that stands for a client of which only the directory name is known."""
    return _HASHED + name.encode() + _END


def is_hashed(owner: bytes) -> bool:
    """Whether this id only stands for a directory name."""
    return (owner.startswith(_HASHED) and owner.endswith(_END)
            and is_name(owner[len(_HASHED) : -1].decode("latin-1")))


def name_of(owner: bytes) -> str:
    """The client's directory name (fs/nfsd/nfs4recover.c, nfs4_make_rec_clidname)."""
    if is_hashed(owner):
        return owner[len(_HASHED) : -1].decode()
    if md5 is not None:
        return str(md5(owner).hexdigest())
    import hashlib

    return hashlib.md5(owner, usedforsecurity=False).hexdigest()


def by_name(clients: Mapping[bytes, bytes]) -> dict[str, tuple[bytes, bytes]]:
    """The clients by directory name: the one key that all forms have. A full id wins."""
    found: dict[str, tuple[bytes, bytes]] = {}
    for owner, principal in clients.items():
        name = name_of(owner)
        known = found.get(name)
        if known is None or is_hashed(known[0]):
            found[name] = (owner, principal or (known[1] if known else b""))
    return found


def union(*several: Mapping[bytes, bytes]) -> Clients:
    """All clients, each once, with its full id and principal where one of them has these.

    The principal of the last one that knows it counts.
    """
    merged: dict[str, tuple[bytes, bytes]] = {}
    for clients in several:
        for name, (owner, principal) in by_name(clients).items():
            known = merged.get(name)
            if known is None:
                merged[name] = (owner, principal)
            else:
                full = known[0] if is_hashed(owner) else owner
                merged[name] = (full, principal or known[1])
    return dict(merged.values())


def heirs(
    held: Mapping[bytes, bytes] | None, local: Mapping[bytes, bytes] | None,
    removed: Iterable[bytes] = (), *, was_here: bool,
) -> Clients:
    """Who may reclaim from the nfsd that is about to start on this node.

    `held`: what the holding directory says, None when it has no NFSv4 history, and `removed` who
    was taken out of it while the service stood; `local`: what this node's own store says, None when
    it has none; `was_here`: whether this node owned the service last.

    A client that lost its lease, and whose locks went to somebody else, must not come back through
    an old record that this node has kept (RFC 8881 8.4.3): once the service has lived elsewhere,
    only the holding directory counts. After a crash or a stop here both do. The copy may lag by
    milliseconds; nfsdcld's last seconds may be undone by a power cut (tracking_sqlite.use_wal); and
    a stop expires clients on purpose (older kernels release locks that way).
    """
    if held is None:
        return union(local or {})
    if not was_here or local is None:
        return union(held)
    gone = {name_of(owner) for owner in removed}
    return union(held, {o: p for o, p in local.items() if name_of(o) not in gone})


def difference(
    before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]
) -> tuple[Clients, list[bytes]]:
    """(new or changed clients, ids that are no more) from `before` to `after`."""
    changed = {owner: principal for owner, principal in after.items()
               if before.get(owner) != principal}
    return changed, [owner for owner in before if owner not in after]


def chunks(owners: Iterable[bytes], size: int = 500) -> list[list[bytes]]:
    """The ids in portions (SQLite limits the parameters of one statement)."""
    everything = list(owners)
    return [everything[start : start + size] for start in range(0, len(everything), size)]
