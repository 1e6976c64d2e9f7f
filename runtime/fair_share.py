"""What the model has computed for each tenant, so that the least served can go first."""

from __future__ import annotations

from collections import Counter


class FairShare:
    """Tokens computed for the tenants with requests in the engine.

    The virtual token counter of Sheng et al., arXiv:2401.00588: a tenant that comes (back) starts
    at the least of those present, so that idle time earns nothing, and keeps what it is ahead by.
    A prompt's token and an output token weigh the same; what a cache already held weighs nothing.
    """

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._requests: Counter[str] = Counter()  # no tenant with 0

    def enter(self, tenant: str) -> None:
        """Note a request of a tenant."""
        if tenant not in self._requests:
            self._served[tenant] = max(self._served.get(tenant, 0), self._least())
        self._requests[tenant] += 1

    def leave(self, tenant: str) -> None:
        """Note that a request of a tenant is gone; forgets the tenants that are ahead of none."""
        self._requests[tenant] -= 1
        if not self._requests[tenant]:
            del self._requests[tenant]
            self._forget()

    def charge(self, tenant: str, tokens: int) -> None:
        """Add tokens that were computed for a tenant with a request here."""
        self._served[tenant] += tokens

    def served(self, tenant: str) -> int:
        """Return the counter of a tenant with a request here."""
        return self._served[tenant]

    def check(self) -> None:
        """Check that every tenant present has a counter, and none has where nobody is present."""
        assert all(count > 0 for count in self._requests.values()), self._requests
        assert set(self._requests) <= set(self._served)
        assert self._requests or not self._served

    def _forget(self) -> None:
        """Forget the absent tenants that are ahead of none; all when nobody is here."""
        least = self._least()
        self._served = {
            name: served
            for name, served in self._served.items()
            if name in self._requests or (self._requests and served > least)
        }

    def _least(self) -> int:
        return min((self._served[name] for name in self._requests), default=0)
