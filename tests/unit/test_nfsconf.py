# SPDX-License-Identifier: GPL-2.0-or-later
"""nfs.conf as nfs-utils reads it."""

from pathlib import Path

import pytest

from nfslock import nfsconf
from nfslock.system import System


@pytest.mark.parametrize("text", [
    "[statd]\nport=1\n  ha-callout=/x\n",  # indented: a line of its own, not more of `port`
    "[statd]\nport\n  ha-callout=/x\n",
    "  [statd]\r\n\tha-callout=/x\r\n",
    '[statd]\nha-callout = "/x"\n',
    "[statd]\nha-callout=/y\n[nfsd]\n[statd]\nha-callout=/x\n",
])
def test_the_callout_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nfs.conf").write_bytes(text.encode())
    assert nfsconf.setting(System(str(tmp_path)), "statd", "ha-callout") == "/x"


@pytest.mark.parametrize(("main", "included"), [
    ("include = -/etc/nfs.conf.local\n", "[statd]\nha-callout=/x\n"),  # SUSE's
    ("[general]\ninclude=nfs.conf.local\n[statd]\nport=1\n", "[statd]\nha-callout=/x # ours\n"),
    ("[statd]\nINCLUDE = \"nfs.conf.l*\"\n", "ha-callout='/x'\n"),
    ("[statd]\nha-callout=/y\ninclude=nfs.conf.local\n", "ha-callout=/x\n"),
    ("[statd]\ninclude=nfs.conf.local\nha-callout=/x\n", "[nfsd]\nha-callout=/y\n"),
    ("include=nfs.conf\n[statd]\nha-callout=/x\n", ""),  # itself
    ("include=missing\ninclude=mis*/*\n[statd]\nha-callout=/x;y\n", ""),
])
def test_included_files_count(tmp_path: Path, main: str, included: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nfs.conf").write_text(main)
    (tmp_path / "etc/nfs.conf.local").write_text(included)
    assert nfsconf.setting(System(str(tmp_path)), "statd", "ha-callout") == "/x"


@pytest.mark.parametrize("text", [
    "stray\n=x\n[STATD]\nHA-Callout=/x\n",
    "[statd]\nha-callout=/x\nha-callout=\nha-callout: /y\n#ha-callout=/y\n; ha-callout=/y\n",
    "[environment]\nWHERE=/x\n[statd]\nha-callout=$WHERE\n",
])
def test_lines_are_read_as_nfs_utils_reads_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "usr/etc").mkdir(parents=True)
    (tmp_path / "usr/etc/nfs.conf").write_text("[statd]\nha-callout=/vendor\n")
    assert nfsconf.setting(System(str(tmp_path)), "statd", "ha-callout") == "/vendor"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nfs.conf").write_text(text)
    assert nfsconf.setting(System(str(tmp_path)), "statd", "ha-callout") == "/x"


def test_what_stands_before_the_first_section_counts_for_none(tmp_path: Path) -> None:
    (tmp_path / "etc/nfs.conf.d").mkdir(parents=True)
    (tmp_path / "etc/nfs.conf").write_text("ha-callout=/y\n[statd]\nha-callout=/y\n")
    (tmp_path / "etc/nfs.conf.d/1.conf").write_text("[statd]\nha-callout=/x\n")
    assert nfsconf.setting(System(str(tmp_path)), "statd", "ha-callout") == "/x"
