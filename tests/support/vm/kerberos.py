# SPDX-License-Identifier: GPL-2.0-or-later
"""Kerberos on the rig: a KDC on `rival`, the service's key on both nodes, one for each client.

The nodes have the key of the *service's* name, whichever of them serves. Clients speak with their
machine's credentials, so that the principal that nfsd sees is host/CLIENT.
"""

from __future__ import annotations

from . import layout
from .machine import Machine
from .rig import Rig

REALM = "RIG"
KDC = layout.RIVAL
CLIENTS = (layout.CLIENT.name, layout.RIVAL.name)
_CONF = f"""\
[libdefaults]
default_realm = {REALM}
dns_lookup_kdc = false
dns_canonicalize_hostname = false
rdns = false
spake_preauth_groups = edwards25519
[realms]
{REALM} = {{
  kdc = {KDC.addresses["data"]}
}}
"""
_KEYTAB = "/etc/krb5.keytab"


def set_up(rig: Rig) -> None:
    """Make the realm, hand out the keys, and start the daemons that speak for the kernels."""
    kdc = rig[KDC.name]
    rig.each(lambda machine: machine.write("/etc/krb5.conf", _CONF))
    kdc.run(f"kdb5_util create -s -P rig -r {REALM} && krb5kdc", timeout=120)
    service = _key(kdc, f"nfs/{layout.SERVICE}")
    keys = {name: _key(kdc, f"host/{name}") for name in CLIENTS}

    def begin(machine: Machine) -> None:
        key = keys.get(machine.name, service)
        # -n: with any key of the keytab, which has none for the node's own name.
        daemon = "rpc.gssd" if machine.name in keys else "rpc.svcgssd -n"
        machine.run(f"echo {key} | base64 -d > {_KEYTAB} && chmod 600 {_KEYTAB} && sync && "
                    f"modprobe rpcsec_gss_krb5 && systemctl start run-rpc_pipefs.mount && {daemon}")

    rig.each(begin)


def _key(kdc: Machine, principal: str) -> str:
    """The keytab of a new principal, in base64."""
    file = "/run/keytab"
    return kdc.out(
        "sh", "-c", f"(rm -f {file}; kadmin.local addprinc -randkey {principal}; "
        f"kadmin.local ktadd -k {file} {principal}) >&2 && base64 -w0 {file}", timeout=120)
