"""Which addresses may be asked: by what a URL says, and by the IP address that is really connected to."""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

from yarl import URL

from smp_ray.fetch.outcome import Refused

#: IPv6 addresses that carry an IPv4 address in their last 32 bits (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddressError(OSError):
    """A name or a literal stands for an address that is not of the public internet."""


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet: not private, loopback, link-local, multicast or reserved."""
    ip = ipaddress.ip_address(address)
    inner: Any = None
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return is_public(str(inner)) if inner else ip.is_global and not ip.is_multicast and not ip.is_reserved


def public_socket(info: tuple[Any, ...]) -> socket.socket:
    """Socket factory of a connector: every address passes here, after DNS, and no other is connected to."""
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise PrivateAddressError("private, loopback, link-local or reserved address")
    return socket.socket(family, kind, protocol)


def parse(uri: str, base: URL | None = None) -> URL:
    """A URL of the data or of a redirect, percent-encoded where people paste spaces and umlauts.

    Raises:
        Refused: it is none.
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in uri):
        raise Refused("bad URL: it has control characters")
    try:
        url = URL(uri) if base is None else base.join(URL(uri))
        known = url.host and url.port
    except ValueError:  # its text may repeat what the URL holds
        raise Refused("bad URL: its host or port cannot be read") from None
    if not known:
        raise Refused("bad URL: no host")
    return url


def check(url: URL, schemes: Sequence[str], hosts: Sequence[str] | None) -> None:
    """Refuse a URL, also one that a redirect names, that the config does not allow."""
    if url.scheme not in schemes or url.scheme not in ("http", "https"):
        raise Refused("its scheme is not one of features.images.schemes")
    if "@" in url.raw_authority:
        raise Refused("credentials in a URL are refused")
    host = str(url.host).rstrip(".").lower()
    if hosts is not None and not any(host == name or host.endswith(f".{name}") for name in hosts):
        raise Refused(f"the host {host} is not one of features.images.hosts")
