#!/usr/bin/python3 -I
# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints ocf_flm_nfslock(7) from the agent's own declarations (man(7) macros)."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../lib"))

from nfslock import __version__, agent, params

_CODES = (
    ("0", "the lock records are kept"),
    ("1", "they are not: the propagator is dead or stuck, or the holding directory is not ours"),
    ("2", "something on this node prevents it, such as a filesystem that is not mounted"),
    ("5", "rpc.statd is not installed"),
    ("6", "the configuration is wrong on every node"),
    ("7", "cleanly stopped"),
    ("190", "degraded: the records are kept, but a person should look"),
)

_EXAMPLE = """\
pcs resource create locks ocf:flm:nfslock \\
    holding_dir=/srv/nfs/.locks propagate_interval=5s ip=192.0.2.10 \\
    op monitor interval=10s timeout=20s on-fail=fence \\
    op monitor interval=60s timeout=30s OCF_CHECK_LEVEL=10 \\
    --group nfs --after fs"""


def roff(text: str) -> str:
    """Text with what roff would take for requests or escapes made harmless."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    lines = text.splitlines()
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in lines)


def main() -> None:
    """Write the page to standard output."""
    built = agent.build()
    out = [f'.TH OCF_FLM_NFSLOCK 7 "" "nfslock {__version__}" "OCF resource agents"',
           ".SH NAME", f"ocf:flm:nfslock \\- {roff(built.shortdesc)}", ".SH SYNOPSIS",
           ".B /usr/lib/ocf/resource.d/flm/nfslock",
           "{start|stop|monitor|reload\\-agent|validate\\-all|meta\\-data}",
           ".SH DESCRIPTION", roff(built.longdesc).replace("\n\n", "\n.PP\n"), ".SH PARAMETERS"]
    for parameter in params.PARAMETERS:
        notes = ["required"] * parameter.required + ["reloadable"] * parameter.reloadable
        notes += [f"default {parameter.default}"] if parameter.default else []
        out += [".TP", f".B {parameter.name}", roff(parameter.longdesc)]
        out += [f"({roff(', '.join(notes))})"] if notes else []
    out += [".SH EXIT STATUS"]
    for code, meaning in _CODES:
        out += [".TP", f".B {code}", roff(meaning)]
    out += [".SH EXAMPLES", "In a group between its Filesystem, here fs, and nfsserver:", ".PP",
            ".nf", roff(_EXAMPLE), ".fi"]
    out += [".SH FILES", ".TP", ".I /run/nfslock/RESOURCE", "run\\-time state",
            ".TP", ".I HOLDING_DIR/owner.json",
            "who claimed the records last: node, generation, state number",
            ".TP", ".I HOLDING_DIR/sm", "monitor records in the form of rpc.statd, by client",
            ".TP", ".I HOLDING_DIR/notify", "clients that have not answered yet",
            ".SH SEE ALSO", ".BR nfslock (8),", ".BR rpc.statd (8),", ".BR sm\\-notify (8),",
            ".BR nfsd (7)"]
    print("\n".join(out))


main()
