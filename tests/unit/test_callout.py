# SPDX-License-Identifier: GPL-2.0-or-later
"""statd's callout, the Python and the C form, against the real server end of a propagator."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nfslock import callout_server, nsm
from nfslock.errors import Error
from nfslock.runtime import Runtime
from nfslock.system import System
from tests.support.wait import wait_until

LIBRARY = Path(__file__).parents[2] / "lib/nfslock"
FORMS = ["python", *(["c"] if shutil.which("cc") else [])]
LONG = 20.0
SHORT = 0.5


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """callout.c for a run-time directory that is given in RUN as a relative path."""
    program = tmp_path_factory.mktemp("callout") / "callout"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", '-DRUN=getenv("NFSLOCK_RUN")']
    subprocess.run(["cc", *flags, "-o", program, LIBRARY / "callout.c"], check=True)
    return program


class Node:
    """A run-time directory, the services in it, and a form of the callout to be called."""

    def __init__(self, run: Path, argv: list[str]) -> None:
        self.run, self.argv = run, argv
        run.mkdir()
        self.sm = run.parent / "nfs"
        (self.sm / "sm").mkdir(parents=True)
        self.heard: list[tuple[str, str, str]] = []
        self.servers: list[callout_server.CalloutServer] = []
        self.threads: list[threading.Thread] = []
        self.ended = threading.Event()

    def service(
        self, name: str, keep: Callable[[str, str], None] = lambda mon, my: None,
        timeout: float = LONG, serve: bool = True,
    ) -> callout_server.CalloutServer:
        """The propagator's end of one service; with `serve` it answers in a thread."""
        system = System(str(self.run.parent))
        system.run_dir = "/run"

        def heard(mon_name: str, my_name: str) -> None:
            self.heard.append((name, mon_name, my_name))
            keep(mon_name, my_name)

        server = callout_server.CalloutServer(system, Runtime(system, name), "/nfs", heard)
        server.set_timeout(timeout)
        self.servers.append(server)
        if serve:
            thread = threading.Thread(target=self._serve, args=(server,))
            thread.start()
            self.threads.append(thread)
        return server

    def _serve(self, server: callout_server.CalloutServer) -> None:
        poll = select.poll()
        poll.register(server, select.POLLIN)
        while not self.ended.is_set():
            if poll.poll(20):
                try:
                    server.serve()
                except (Error, OSError, ValueError):
                    continue

    def end(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()
        for server in self.servers:
            server.close()

    def start(self, *words: str | bytes, **options: object) -> subprocess.Popen[bytes]:
        """Run the callout as statd would."""
        environment = {"NFSLOCK_RUN": str(self.run)}
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [*self.argv, *words], env=environment, cwd="/", **options)

    def call(self, *words: str | bytes) -> None:
        # Without a limit, which would make wait() look in steps of up to 50 ms; pytest has one.
        assert self.start(*words).wait() == 0

    def missed(self, name: str) -> int:
        return (self.run / name / "callout.missed").stat().st_size


@pytest.fixture(params=FORMS)
def node(
    request: pytest.FixtureRequest, tmp_path: Path, binary: Path
) -> Iterator[Node]:
    if request.param == "c":
        argv = [str(binary)]
    else:
        code = (f"import sys; sys.path.insert(0, {str(LIBRARY.parent)!r}); import os\n"
                "from nfslock import callout\n"
                "callout.posix_argv = [os.fsencode(one) for one in sys.argv]\n"
                "os.closerange(3, 1024)\n"
                "sys.exit(callout.main(callout.posix_argv, os.environ['NFSLOCK_RUN']))\n")
        script = tmp_path / "callout"
        script.write_text(code)
        argv = [sys.executable, "-I", "-S", str(script)]
    this = Node(tmp_path / "run", argv)
    yield this
    this.end()


def test_every_service_on_the_node_confirms(node: Node) -> None:
    for name in ("one", "two", "x" * 200):
        node.service(name)
    (node.run / "stopped").mkdir()
    (node.run / "file").write_text("")
    node.call("add-client", "192.0.2.7", "nodeA")
    assert sorted(node.heard) == [
        (name, "192.0.2.7", "nodeA") for name in ("one", "two", "x" * 200)]
    assert [server.served for server in node.servers] == [1, 1, 1]
    assert not any(node.missed(name) for name in ("one", "two"))


def test_it_returns_only_after_the_answer(node: Node) -> None:
    may_go = threading.Event()
    node.service("one", lambda mon, my: may_go.wait(LONG) and None)
    process = node.start("add-client", "192.0.2.7", "nodeA")
    wait_until(lambda: node.heard, "the request heard")
    assert process.poll() is None
    may_go.set()
    assert process.wait() == 0
    assert node.missed("one") == 0


@pytest.mark.parametrize("words", [
    ("del-client", "192.0.2.7", "nodeA"), ("sm-notify", "192.0.2.7", "192.0.2.7", "3"),
    ("mount", "192.0.2.7", "/srv"), ("add-client", "192.0.2.7"), ("add-client",), ()])
def test_other_events_reach_nobody(node: Node, words: tuple[str, ...]) -> None:
    node.service("one")
    node.call(*words)
    node.call("add-client", "192.0.2.8", "nodeA")
    assert node.heard == [("one", "192.0.2.8", "nodeA")]


def test_a_node_without_services(node: Node) -> None:
    node.call("add-client", "192.0.2.7", "nodeA")
    node.run.rmdir()
    node.call("add-client", "192.0.2.7", "nodeA")


def test_a_propagator_that_hangs_is_counted_and_holds_nobody_for_ever(node: Node) -> None:
    node.service("hangs", serve=False, timeout=SHORT)
    node.service("well", timeout=SHORT)
    for number in (1, 2):
        node.call("add-client", f"192.0.2.{number}", "nodeA")
        assert node.missed("hangs") == number
    assert node.missed("well") == 0
    assert [one[1] for one in node.heard] == ["192.0.2.1", "192.0.2.2"]
    # When it comes back it hears of both, although nobody waits for the answer any more.
    node.servers[0].serve()
    assert len(node.heard) == 4


def test_a_propagator_that_cannot_keep_is_counted_at_once(node: Node) -> None:
    def fail(mon_name: str, my_name: str) -> None:
        raise Error("no space")

    node.service("full", fail)
    node.service("well")
    node.call("add-client", "192.0.2.7", "nodeA")
    assert (node.missed("full"), node.missed("well")) == (1, 0)
    assert [server.served for server in node.servers] == [0, 1]


def stale(node: Node, name: str) -> None:
    """Leave the socket of a propagator that was killed."""
    (node.run / name).mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(node.run / name / "callout.sock"))
    (node.run / name / "callout.missed").touch()


def test_a_propagator_that_is_being_restarted_is_waited_for(node: Node) -> None:
    stale(node, "one")
    (node.run / "one/callout.timeout").write_text("20000\n")
    process = node.start("add-client", "192.0.2.7", "nodeA")
    node.service("one")
    assert process.wait() == 0
    assert node.heard == [("one", "192.0.2.7", "nodeA")]
    assert node.missed("one") == 0


def test_a_propagator_that_dies_with_the_request_in_hand(node: Node) -> None:
    """Its successor is asked again: nobody knows how far the first one came."""
    (node.run / "one").mkdir()
    (node.run / "one/callout.timeout").write_text("20000\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
        first.bind(str(node.run / "one/callout.sock"))
        first.listen()
        process = node.start("add-client", "192.0.2.7", "nodeA")
        first.settimeout(LONG)
        peer, _ = first.accept()
        with peer:
            assert peer.recv(100) == b"add-client\x00192.0.2.7\0nodeA"
    node.service("one")
    assert process.wait() == 0
    assert node.heard == [("one", "192.0.2.7", "nodeA")]
    assert node.missed("one") == 0


def test_a_dead_propagator_is_counted(node: Node) -> None:
    stale(node, "one")
    (node.run / "one/callout.timeout").write_text("50\n")
    node.call("add-client", "192.0.2.7", "nodeA")
    assert node.missed("one") == 1


def test_a_service_that_stops_meanwhile_misses_nothing(node: Node) -> None:
    stale(node, "one")
    (node.run / "one/callout.timeout").write_text("20000\n")
    process = node.start("add-client", "192.0.2.7", "nodeA")
    (node.run / "one/callout.sock").unlink()
    assert process.wait() == 0
    assert node.missed("one") == 0


@pytest.mark.parametrize("name", [
    b"a b", b"a\nb", b"../../etc/passwd", b".hidden", b"-rf", b"\xff\xfe", "\u00fc".encode(),
    b"%n%s%n", b"$(reboot)", b"x" * 256, b"x" * 3000, b"x" * 9000, b"a\x1b[2J", b""])
def test_hostile_names_reach_no_file(node: Node, name: bytes) -> None:
    made: list[bytes] = []
    node.service("one", lambda mon, my: made.append(nsm.format_line(mon, my)), timeout=SHORT)
    for words in ((name, b"nodeA"), (b"192.0.2.7", name)):
        node.call("add-client", *words)
    for line in made:
        ((mon_name, my_name),) = nsm.parse_record(line)
        assert "/" not in mon_name + my_name
    assert len(made) == (2 if name in (b"%n%s%n", b"$(reboot)") else 0)
    assert sorted(path.name for path in node.run.rglob("*")) == [
        "callout.missed", "callout.sock", "callout.timeout", "one"]


def test_what_statd_has_open_is_closed_while_it_waits(node: Node) -> None:
    """Otherwise a restarted statd could not bind its ports (it then stays deaf on TCP)."""
    node.service("hangs", serve=False)
    reader, writer = os.pipe()
    process = node.start("add-client", "192.0.2.7", "nodeA", pass_fds=(writer,))
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert process.poll() is None
    process.kill()
    process.wait()


def test_a_symbolic_link_in_place_of_the_count_is_not_followed(node: Node) -> None:
    node.service("hangs", serve=False, timeout=0.05)
    counter = node.run / "hangs/callout.missed"
    victim = node.run.parent / "victim"
    victim.write_text("")
    counter.unlink()
    counter.symlink_to(victim)
    node.call("add-client", "192.0.2.7", "nodeA")
    assert victim.read_text() == ""


@pytest.mark.parametrize("text", ["", "x", "-5", "0", "99999999999999999999", "1e3"])
def test_a_damaged_timeout_is_no_hang(node: Node, text: str) -> None:
    node.service("one")
    (node.run / "one/callout.timeout").write_text(text)
    node.call("add-client", "192.0.2.7", "nodeA")
    assert node.missed("one") == 0


def test_the_socket_is_for_statd_and_root(node: Node) -> None:
    node.service("one", serve=False)
    for name in ("callout.sock", "callout.missed"):
        status = (node.run / "one" / name).stat()
        assert status.st_mode & 0o777 == 0o600
        assert status.st_uid == (node.sm / "sm").stat().st_uid


def test_a_silent_peer_does_not_hold_the_propagator_up(node: Node) -> None:
    server = node.service("one", serve=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(node.run / "one/callout.sock"))
        server.serve()
        assert silent.recv(100) == b""
    for rubbish in (b"", b"x", b"\0" * 9, b"add-client\0a", b"x" * 8000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(str(node.run / "one/callout.sock"))
            peer.send(rubbish)
            server.serve()
            assert peer.recv(100) in (b"failed", b"")
    assert node.heard == []


def test_it_runs_as_it_is(tmp_path: Path) -> None:
    """The file itself, as statd executes it: no library in reach, nothing on any output."""
    done = subprocess.run(
        [LIBRARY / "callout.py", "add-client", "192.0.2.7", "nodeA"], env={}, cwd="/",
        capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
