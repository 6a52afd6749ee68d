"""What a service counts, in Prometheus's text form."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

EDGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper edges of the latencies' classes [s]."""


class Meter:
    """Requests by route and status, and how long they took."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.requests: Counter[tuple[str, int]] = Counter()
        self.classes: dict[str, list[int]] = {}
        self.seconds: Counter[str] = Counter()

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests[route, status] += 1
        self.seconds[route] += seconds  # type: ignore[assignment]  # a counter of seconds
        row = self.classes.setdefault(route, [0] * (len(EDGES) + 1))
        row[bisect_left(EDGES, seconds)] += 1

    def text(self, gauges: Mapping[str, float]) -> str:
        """Everything counted, and gauges of the moment."""
        return "\n".join([*self._requests(), *self._latencies(), *_gauges(gauges)]) + "\n"

    def _requests(self) -> Iterator[str]:
        """Requests by route and status."""
        yield "# TYPE isoflop_requests_total counter"
        for (route, status), n in sorted(self.requests.items()):
            yield f'isoflop_requests_total{{route="{route}",status="{status}"}} {n}'

    def _latencies(self) -> Iterator[str]:
        """Latencies by route, cumulative."""
        yield "# TYPE isoflop_request_seconds histogram"
        for route, row in sorted(self.classes.items()):
            total = 0
            for edge, n in zip((*EDGES, "+Inf"), row, strict=True):
                total += n
                yield f'isoflop_request_seconds_bucket{{route="{route}",le="{edge}"}} {total}'
            yield f'isoflop_request_seconds_sum{{route="{route}"}} {self.seconds[route]:.6f}'
            yield f'isoflop_request_seconds_count{{route="{route}"}} {total}'


def resident_bytes() -> float:
    """Memory of this process; 0 where the platform does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _gauges(values: Mapping[str, float]) -> Iterator[str]:
    """Values of the moment; a name that ends in `_total` is a counter."""
    for name, value in values.items():
        yield f"# TYPE isoflop_{name} {'counter' if name.endswith('_total') else 'gauge'}"
        yield f"isoflop_{name} {value:.12g}"
