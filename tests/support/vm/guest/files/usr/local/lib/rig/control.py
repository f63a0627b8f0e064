#!/usr/bin/python3 -IS
# SPDX-License-Identifier: GPL-2.0-or-later
"""Control agent of a machine: takes JSON lines from the host over a virtio-serial port.

Requests carry an `id` that their answer repeats, and run at the same time as each other. Lines that
spawned programs print, and their ends, go to the host as events. Times are CLOCK_MONOTONIC of this
machine. The network has no part in it, so that a test can cut the network off.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time


def port_device(name):
    """Device of the virtio-serial port `name`; sysfs knows it before udev made the link."""
    base = "/sys/class/virtio-ports"
    while True:
        for entry in os.listdir(base) if os.path.isdir(base) else ():
            try:
                with open(os.path.join(base, entry, "name")) as file:
                    if file.read().strip() == name:
                        return "/dev/" + entry
            except OSError:
                continue
        time.sleep(0.05)


class Agent:
    def __init__(self):
        self.fd = os.open(port_device("rig.control"), os.O_RDWR | os.O_CLOEXEC)
        self.lock = threading.Lock()
        self.programs = {}

    def send(self, **message):
        data = (json.dumps(message) + "\n").encode()
        with self.lock:
            while data:
                data = data[os.write(self.fd, data) :]

    def serve(self):
        self.send(event="hello", t=time.monotonic())
        pending = b""
        while True:
            got = os.read(self.fd, 65536)
            if not got:  # nobody is connected at the host's side
                time.sleep(0.05)
                continue
            *lines, pending = (pending + got).split(b"\n")
            for line in lines:
                try:
                    request = json.loads(line)
                except ValueError:
                    continue
                threading.Thread(target=self.answer, args=(request,), daemon=True).start()

    def answer(self, request):
        try:
            result = getattr(self, "do_" + request["do"])(request)
        except Exception as error:  # the host must always get an answer
            result = {"error": f"{type(error).__name__}: {error}"}
        self.send(id=request["id"], t=time.monotonic(), **result)

    def do_time(self, request):
        return {}

    def do_read(self, request):
        with open(request["path"], "rb") as file:
            return {"data": base64.b64encode(file.read()).decode()}

    def do_write(self, request):
        os.makedirs(os.path.dirname(request["path"]), exist_ok=True)
        with open(request["path"], "wb") as file:
            file.write(base64.b64decode(request["data"]))
        os.chmod(request["path"], request["mode"])
        return {}

    def do_run(self, request):
        process = subprocess.Popen(
            request["argv"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=dict(os.environ, **request.get("env", {})),
            start_new_session=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=request["limit"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            # A program that left a daemon with our pipe keeps it open: do not wait for that.
            try:
                out, err = process.communicate(timeout=1)
            except subprocess.TimeoutExpired:
                out, err = b"", b""
            return {"error": "timeout", "out": out.decode("utf-8", "replace"),
                    "err": err.decode("utf-8", "replace")}  # fmt: skip
        return {
            "rc": process.returncode,
            "out": out.decode("utf-8", "replace"),
            "err": err.decode("utf-8", "replace"),
        }

    def do_spawn(self, request):
        process = subprocess.Popen(
            request["argv"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=dict(os.environ, **request.get("env", {})),
            start_new_session=True,
        )  # fmt: skip
        self.programs[request["name"]] = process
        threading.Thread(target=self.follow, args=(request["name"], process), daemon=True).start()
        return {"pid": process.pid}

    def follow(self, name, process):
        for line in process.stdout:
            self.send(event="line", name=name, line=line.decode("utf-8", "replace").rstrip("\n"))
        self.send(event="exit", name=name, rc=process.wait(), t=time.monotonic())

    def do_tell(self, request):
        program = self.programs[request["name"]]
        program.stdin.write(request["line"].encode() + b"\n")
        program.stdin.flush()
        return {}

    def do_signal(self, request):
        os.killpg(self.programs[request["name"]].pid, request["signal"])
        return {}


def network():
    """Addresses from the kernel command line: rig.eth0=10.9.0.11/24 ..."""
    with open("/proc/cmdline") as file:
        words = file.read().split()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    for word in words:
        if word.startswith("rig.eth"):
            device, address = word[4:].split("=")
            subprocess.run(["ip", "addr", "add", address, "dev", device], check=False)
            subprocess.run(["ip", "link", "set", device, "up"], check=False)


if __name__ == "__main__":
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    network()
    sys.exit(Agent().serve())
