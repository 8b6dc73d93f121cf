"""A network of its own, with a way out on which everything is seen and nothing arrives."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

# sched.h
_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 0x0003
_PACKET_OUTGOING = 4

_SET_UP = """
mount --make-rprivate /
mount --bind {resolv_conf} /etc/resolv.conf
ip link set lo up
ip link add out0 type veth peer name out1
ip link set out0 arp off
ip link set out1 up
ip address add 192.0.2.10/24 dev out0
ip -6 address add 2001:db8::10/64 dev out0 nodad
ip link set out0 up
ip route add default via 192.0.2.1
ip -6 route add default via 2001:db8::1
"""


class Outside:
    """What was sent to the outside, as ``protocol address:port`` lines."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._socket.bind(("out0", 0))
        self._socket.setblocking(False)  # noqa: FBT003

    def seen(self) -> list[str]:
        """Give every TCP and UDP packet since the last call."""
        lines: list[str] = []
        while True:
            try:
                packet, address = self._socket.recvfrom(65535)
            except BlockingIOError:
                return lines
            if address[2] == _PACKET_OUTGOING and (line := _describe(packet)):
                lines.append(line)

    def close(self) -> None:
        self._socket.close()


def _describe(packet: bytes) -> str | None:
    """Read addresses and ports; None for what the kernel says by itself, such as ICMPv6."""
    version = packet[0] >> 4
    if version == 4:
        protocol, start = packet[9], (packet[0] & 15) * 4
        address = socket.inet_ntop(socket.AF_INET, packet[16:20])
    elif version == 6:
        protocol, start = packet[6], 40
        address = socket.inet_ntop(socket.AF_INET6, packet[24:40])
    else:
        return None
    name = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}.get(protocol)
    if name is None:
        return None
    (port,) = struct.unpack("!H", packet[start + 2 : start + 4])
    return f"{name} {address}:{port}"


def _unshare() -> None:
    """Give the calling thread a network and a table of mounts of its own, see unshare(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def in_own_network(directory: Path, body: Callable[[Outside], None]) -> None:
    """Run ``body`` in a thread with a network and a DNS server of its own, which never answer.

    Processes and sockets that the thread starts are in that network. ``directory`` is for files.
    """
    resolv_conf = directory / "resolv.conf"
    resolv_conf.write_text("nameserver 192.0.2.53\noptions timeout:1 attempts:1\n")
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _unshare()
            script = _SET_UP.format(resolv_conf=resolv_conf)
            subprocess.run(["sh", "-ec", script], check=True)
            outside = Outside()
            try:
                body(outside)
            finally:
                outside.close()
        except BaseException as error:  # noqa: BLE001 - it is raised again by the caller
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
