"""Limits how many bad tokens an address may send.

A signature can't be guessed. The limit bounds the work of refusing tokens, and the size of the log.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

from gqlnotify import clock
from gqlnotify.errors import TooManyAttempts
from gqlnotify.rate import Rate

MAX_ADDRESSES = 10_000
_MINUTE = 60.0
_IPV6_SITE = 64
_LONGEST_NAME = 64


class FailedAttempts:
    """Counts the failures of each address in a leaky bucket.

    While the bucket of an address is full, no token from it is checked, not even a good one: the
    limit bounds the work of checking, and the answer would tell which guess is right. Tokens that
    were verified before need no check. The bucket leaks steadily, so an address waits for seconds,
    not for a minute.

    Args:
        limit: Failures per minute, and the size of the bucket.
        max_addresses: The number of buckets. When it is exceeded, the bucket of the address that
            failed least recently is dropped.
        now: The clock, in seconds.
    """

    def __init__(
        self,
        limit: int,
        *,
        max_addresses: int = MAX_ADDRESSES,
        now: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._limit = limit
        self._max_addresses = max_addresses
        self._now = now
        self._rates: OrderedDict[str, Rate] = OrderedDict()

    def check(self, address: str | None) -> None:
        """Refuse an address with too many failures. None, an unknown address, is never refused.

        Tokens that are still being verified do not count yet. So a client that opens many
        connections at once can have one token verified on each.

        Raises:
            TooManyAttempts: The bucket of the address is full. `extensions.retryAfter` is the
                number of seconds to wait.
        """
        rate = self._rates.get(_site(address)) if address else None
        wait = 0.0 if rate is None else rate.wait(self._now())
        if wait > 0:
            seconds = math.ceil(wait)
            raise TooManyAttempts(
                f"Too many bad tokens from this address: try again in {seconds} s",
                retryAfter=seconds,
            )

    def failed(self, address: str | None) -> None:
        """Count a failure of the address."""
        if not address:
            return
        site = _site(address)
        rate = self._rates.pop(site, None) or Rate(self._limit / _MINUTE, self._limit)
        rate.count(self._now())
        self._rates[site] = rate
        if len(self._rates) > self._max_addresses:
            self._rates.popitem(last=False)

    def __len__(self) -> int:
        return len(self._rates)


def _site(address: str) -> str:
    """Return what counts as one address. For IPv6 this is a /64, the network of one customer."""
    try:
        ip = ip_address(address)
    except ValueError:
        # Not an IP address: a proxy can report any text as the client's address.
        return address[:_LONGEST_NAME]
    if not isinstance(ip, IPv6Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip_network((ip.packed, _IPV6_SITE), strict=False))
