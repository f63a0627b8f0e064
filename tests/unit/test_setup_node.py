# SPDX-License-Identifier: GPL-2.0-or-later
"""Setting a node up on fake trees as three distributions ship them, and taking it back."""

import os
from pathlib import Path

import pytest

from nfslock import setup_node
from nfslock.errors import Error
from nfslock.system import System

CONF = "etc/nfs.conf.d/nfslock.conf"
UNITS = "etc/systemd/system"
NOTIFY = f"{UNITS}/rpc-statd-notify.service"
STATD = f"{UNITS}/rpc-statd.service.d/nfslock.conf"
SERVER = f"{UNITS}/nfs-server.service.d/nfslock.conf"
BOOT = f"{UNITS}/multi-user.target.wants/nfs-server.service"
OTHER = f"{UNITS}/multi-user.target.wants/pacemaker.service"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A freshly installed node: units, links, an nfs.conf with comments and sections."""
    vendor = tmp_path / "lib/systemd/system"
    for directory in (vendor, tmp_path / UNITS / "multi-user.target.wants",
                      tmp_path / "etc/nfs.conf.d", tmp_path / "usr/sbin"):
        directory.mkdir(parents=True)
    for unit in ("nfs-server.service", "rpc-statd.service", "rpc-statd-notify.service",
                 "pacemaker.service"):
        (vendor / unit).write_text("[Unit]\n")
    for link in (BOOT, OTHER):
        (tmp_path / link).symlink_to(f"/lib/systemd/system/{os.path.basename(link)}")
    (tmp_path / "etc/nfs.conf").write_text(
        "#\n[general]\npipefs-directory=/run/rpc_pipefs\n[statd]\n# port=0\n")
    callout = tmp_path / "usr/sbin/nfslock-callout"
    callout.write_text("")
    callout.chmod(0o755)
    return tmp_path


def snapshot(root: Path) -> "dict[str, str]":
    """Every file and link below the root but our own record."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file() and not name.startswith("var/lib/nfslock"):
            found[name] = f"{path.stat().st_mode & 0o777:o} {path.read_text()}"
    return found


def run(root: Path, *options: str) -> int:
    return setup_node.run(
        System(str(root)), "check" in options, "undo" in options, "apply" in options)


def test_a_dry_run_shows_all_and_changes_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(root)
    assert run(root) == 0
    text = capsys.readouterr().out
    assert "+ha-callout=/usr/sbin/nfslock-callout" in text
    assert "+lift-grace=n" in text
    assert "+(symbolic link to /dev/null)" in text
    assert "-(symbolic link to /lib/systemd/system/nfs-server.service)" in text
    assert "pacemaker.service" not in text
    assert "takes --apply" in text
    assert snapshot(root) == before
    assert not (root / "var").exists()


def test_apply_is_what_check_asks_for(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "check") == 1
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert run(root, "apply") == 0
    assert run(root, "check") == 0
    after = snapshot(root)
    assert after[NOTIFY] == "-> /dev/null"
    assert "\nExecStart=\nExecStart=/usr/sbin/rpc.statd $NFSLOCK_STATD\n" in after[STATD]
    assert "\nExecStartPost=/usr/bin/unshare --uts " in after[SERVER]
    assert BOOT not in after
    assert OTHER in after
    assert after[CONF].startswith("644 #")
    capsys.readouterr()
    assert run(root, "apply") == 0
    assert capsys.readouterr().out == "nothing to change\n"
    assert snapshot(root) == after


def test_undo_gives_back_what_was_there(root: Path) -> None:
    (root / NOTIFY).write_text("[Unit]\nDescription=mine\n")
    before = snapshot(root)
    run(root, "apply")
    run(root, "apply")
    run(root, "undo")
    assert snapshot(root) != before, "a dry run"
    run(root, "undo", "apply")
    assert snapshot(root) == before
    run(root, "undo", "apply")
    assert snapshot(root) == before


def test_undo_leaves_alone_what_others_changed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(root, "apply")
    (root / CONF).write_text("[statd]\nport=32765\n")
    run(root, "undo", "apply")
    assert (root / CONF).read_text() == "[statd]\nport=32765\n"
    assert f"/{CONF} was changed" in capsys.readouterr().out
    assert (root / BOOT).is_symlink()


def test_a_second_apply_does_not_forget_the_beginning(root: Path) -> None:
    before = snapshot(root)
    run(root, "apply")
    (root / CONF).write_text("damaged")
    run(root, "apply")
    run(root, "undo", "apply")
    assert snapshot(root) == before


def test_an_interrupted_apply_can_be_finished_or_undone(root: Path) -> None:
    """As after a kill between any two of its changes: the record is written first."""
    before = snapshot(root)
    run(root, "apply")
    done = snapshot(root)
    (root / CONF).unlink()
    (root / BOOT).symlink_to("/lib/systemd/system/nfs-server.service")
    run(root, "apply")
    assert snapshot(root) == done
    (root / CONF).unlink()
    run(root, "undo", "apply")
    assert {k: v for k, v in snapshot(root).items() if k != CONF} == before


@pytest.mark.parametrize(("main", "drop_in", "said"), [
    ("", "", "has no [statd] ha-callout"),
    ("[statd]\nha-callout=/usr/sbin/nfslock-callout\n", "", ""),
    ("[statd]\nha-callout = /nowhere\n", "", "ha-callout=/nowhere in nfs.conf is no program"),
    ("[statd]\nha-callout=/usr/sbin/other\n", "", "is not nfslock's"),
    ("[statd]\nha-callout=/usr/sbin/other\n",
     "[statd]\nha-callout=/usr/sbin/nfslock-callout\n", ""),
])
def test_the_callout_is_judged_by_its_effect(
    root: Path, main: str, drop_in: str, said: str
) -> None:
    other = root / "usr/sbin/other"
    other.write_text("")
    other.chmod(0o755)
    (root / "etc/nfs.conf").write_text(main)
    (root / "etc/nfs.conf.d/site.conf").write_text(drop_in)
    found = [line for line in setup_node.missing(System(str(root))) if "callout" in line]
    assert len(found) == bool(said)
    assert not said or said in found[0]


def test_a_node_without_systemd_and_a_checkout(tmp_path: Path) -> None:
    run(tmp_path, "apply")
    assert list(snapshot(tmp_path)) == [CONF]
    assert f"ha-callout={setup_node.callout_program(System(str(tmp_path)))}" in (
        tmp_path / CONF).read_text()


def test_a_damaged_record_is_said(root: Path) -> None:
    run(root, "apply")
    for text in ("", "[]", '{"/x": 1}', '{"/x": {"before": null}}'):
        (root / "var/lib/nfslock/setup-node.json").write_text(text)
        with pytest.raises(Error, match="damaged"):
            run(root, "undo", "apply")
