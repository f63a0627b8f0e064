# SPDX-License-Identifier: GPL-2.0-or-later
"""What systemd runs after it has started nfsd, run here with files in place of the kernel's."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from nfslock import scope

PLACES = {
    "host name": "/proc/sys/kernel/hostname",
    "threads": "/proc/fs/nfsd/threads",
    "stock": scope.STOCK,
    "scope": "/run/systemd/system/nfs-server.service.d/nfslock-scope",
}


def post(folder: Path, **files: str) -> dict[str, str]:
    """Run the drop-in's command with these files; what the kernel's two say afterwards."""
    for name, text in files.items():
        (folder / name).write_text(text)
    (line,) = [line for line in scope.drop_in().splitlines() if line.startswith("ExecStartPost=")]
    # systemd.service(5): words are quoted as in a shell, and $$ is a dollar.
    words = shlex.split(line.partition("=")[2])
    for name, path in sorted(PLACES.items(), key=lambda item: -len(item[1])):
        words = [word.replace(path, str(folder / name.replace(" ", "_"))) for word in words]
    subprocess.run([word.replace("$$", "$") for word in words], check=True)
    return {
        name: (folder / name).read_text() if (folder / name).exists() else ""
        for name in ("host_name", "threads")
    }


@pytest.mark.parametrize(
    ("files", "host_name"),
    [
        ({"scope": "192.0.2.10\n"}, "192.0.2.10\n"),
        ({}, ""),  # no service is here
        ({"scope": "192.0.2.10\n", "stock": "NFS_SERVER_SCOPE=x\n"}, ""),  # nfsserver does it
    ],
)
def test_the_count_is_written_again_under_the_scope(
    tmp_path: Path, files: dict[str, str], host_name: str
) -> None:
    after = post(tmp_path, threads="8\n", **files)
    assert after == {"host_name": host_name, "threads": "8\n"}
