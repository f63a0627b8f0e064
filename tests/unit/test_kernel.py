# SPDX-License-Identifier: GPL-2.0-or-later
"""The NFS server as its own tables show it: what is exported, and which versions it offers."""

from pathlib import Path

import pytest

from nfslock import kernel
from nfslock.system import System

MOUNTS = """\
20 1 8:1 / / rw - ext4 /dev/sda1 rw
30 20 8:16 / /srv/data rw - ext4 /dev/sdb rw
31 20 8:32 / /srv/state rw - ext4 /dev/sdc rw
32 20 0:50 /one /srv/one rw - btrfs /dev/sdd rw
33 20 0:50 /two /srv/two rw - btrfs /dev/sdd rw
"""
STATE, DATA = "/srv/state/locks", "/srv/data"


@pytest.fixture
def system(tmp_path: Path) -> System:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(MOUNTS)
    (tmp_path / "proc/fs/nfsd").mkdir(parents=True)
    (tmp_path / "var/lib/nfs").mkdir(parents=True)
    return System(str(tmp_path))


@pytest.mark.parametrize(("line", "paths", "found"), [
    ("/srv/state\t*(rw,nocrossmnt)", [STATE], True),
    ("/srv/state/a\\040b\t*(rw)", [STATE], True),
    ("/srv/data\t*(rw)", [STATE], False),
    ("/srv/data\t*(rw)", [STATE, DATA], True),  # the records lie on a filesystem of their own
    ("/srv/one\t*(rw)", ["/srv/two/.locks"], True),  # another subvolume
    ("/srv\t*(rw,crossmnt,fsid=0)", [STATE], True),
    ("/\t*(rw,crossmnt)", [STATE], True),
    ("/srv\t*(rw,nocrossmnt)", [STATE], False),
    ("/srv/sta\t*(rw,crossmnt)", [STATE], False),
    ("", [STATE], False),
])
def test_what_is_exported(
    system: System, tmp_path: Path, line: str, paths: list[str], found: bool
) -> None:
    (tmp_path / system.etab.lstrip("/")).write_text(f"{line}\n")
    assert bool(kernel.exported(system, paths)) is found


@pytest.mark.parametrize(("text", "v3"), [
    ("-2 +3 +4 +4.1 +4.2\n", True), ("-3 +4 +4.0 +4.1 +4.2\n", False), (None, True)])
def test_whether_nfsv3_is_offered(
    system: System, tmp_path: Path, text: "str | None", v3: bool
) -> None:
    if text is not None:
        (tmp_path / "proc/fs/nfsd/versions").write_text(text)
    assert kernel.offers_v3(system) is v3
