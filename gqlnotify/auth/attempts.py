"""How many bad tokens an address may send.

A signature can't be guessed. This bounds the work of refusing, and the noise in the log.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

from gqlnotify.errors import TooManyAttempts
from gqlnotify.rate import Rate

MAX_ADDRESSES = 10_000
_MINUTE = 60.0
_IPV6_SITE = 64
_LONGEST_NAME = 64


class FailedAttempts:
    """So many failures of an address a minute, and so many at once: a leaky bucket for each.

    While it is full, no token of the address is checked, not even a good one: the check is the
    work that is bounded here, and its answer would tell which guess is right. Tokens that were
    verified before need no check. The bucket leaks steadily, so an address waits for seconds.

    Args:
        limit: failures a minute.
        max_addresses: how many are remembered; the one that failed least recently is forgotten.
        now: the clock, in seconds.
    """

    def __init__(
        self,
        limit: int,
        *,
        max_addresses: int = MAX_ADDRESSES,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._max_addresses = max_addresses
        self._now = now
        self._rates: OrderedDict[str, Rate] = OrderedDict()

    def check(self, address: str | None) -> None:
        """Refuse an address with too many failures. None means unknown and is never refused.

        Tokens that are still being verified are not counted yet, so a client that opens many
        connections at once can have one token verified on each.

        Raises:
            TooManyAttempts: it has; `extensions.retryAfter` says for how many seconds.
        """
        rate = self._rates.get(_site(address)) if address else None
        wait = 0.0 if rate is None else rate.wait(self._now())
        if wait > 0:
            raise TooManyAttempts(
                "Too many bad tokens came from this address", retryAfter=math.ceil(wait)
            )

    def failed(self, address: str | None) -> None:
        """Count a failure."""
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
    """Return what counts as one address: of IPv6 the network that a customer has, a /64."""
    try:
        ip = ip_address(address)
    except ValueError:
        # A proxy may pass on any name.
        return address[:_LONGEST_NAME]
    if not isinstance(ip, IPv6Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip_network((ip.packed, _IPV6_SITE), strict=False))
