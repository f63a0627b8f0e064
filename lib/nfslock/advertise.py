# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells the neighbours on the link at which interface an address is now, unasked.

IPaddr2 and the kernel do so when the address comes; where that was lost, clients go on sending to
the dead node until their neighbour entry ages. An ARP announcement for IPv4 (RFC 5227 section 3),
an unsolicited neighbour advertisement for IPv6 (RFC 4861 section 7.2.6). It changes nothing here.
"""

from __future__ import annotations

import struct

from . import sockets as socket
from .values import address_family

#: linux/if_ether.h and if_arp.h; linux/in6.h.
_ETH_P_ARP, _ETH_P_IP, _ARPHRD_ETHER = 0x0806, 0x0800, 1
_ARP_REQUEST, _NEIGHBOUR_ADVERTISEMENT, _TARGET_LINK_LAYER = 1, 136, 2
_OVERRIDE = 0x20000000
_BROADCAST = b"\xff" * 6
_ALL_NODES = "ff02::1"


def arp(mac: bytes, address: str) -> bytes:
    """An ARP announcement: a request for the address, from the address (pure)."""
    packed = socket.inet_pton(socket.AF_INET, address)
    head = struct.pack(">HHBBH", _ARPHRD_ETHER, _ETH_P_IP, len(mac), len(packed), _ARP_REQUEST)
    return head + mac + packed + bytes(len(mac)) + packed


def neighbour(mac: bytes, address: str) -> bytes:
    """A neighbour advertisement that overrides; the kernel fills in the checksum (pure)."""
    packed = socket.inet_pton(socket.AF_INET6, address)
    head = struct.pack(">BBHI", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _OVERRIDE)
    return head + packed + struct.pack(">BB", _TARGET_LINK_LAYER, 1) + mac


def advertise(address: str, interface: int) -> bool:
    """Send one, on the interface with that index; False where the link is not Ethernet.

    OSError as the kernel gives it: no such interface, link down, no CAP_NET_RAW.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as link:
        name = socket.if_indextoname(interface)
        link.bind((name, 0))
        _, _, _, kind, mac = link.getsockname()
        if kind != _ARPHRD_ETHER:
            return False
        if address_family(address) == socket.AF_INET:
            link.sendto(arp(mac, address), (name, _ETH_P_ARP, 0, 0, _BROADCAST))
            return True
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        # Receivers drop an advertisement that a router may have forwarded.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.bind((address, 0, 0, interface))
        sock.sendto(neighbour(mac, address), (_ALL_NODES, 0, 0, interface))
    return True
