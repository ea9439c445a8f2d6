"""Layers over uneven GPUs: contiguous ranges, solved exactly by dynamic programming."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

Score = tuple[float, float]
"""(seconds a token, fill of the fullest card): less is better, the fill breaks ties."""
EVEN = 1e-6
"""Seconds below which two splits count as equally fast."""


def split_layers(
    sizes: Sequence[int],
    seconds: Sequence[Sequence[float]],
    capacity: Sequence[int],
) -> list[int] | None:
    """Layers for each device, or None where no contiguous split fits.

    `sizes`: bytes of each layer (the output layer is the last). `seconds[d][l]`: what device d
    takes for layer l. `capacity[d]`: bytes that device d has for layers. The result is the fastest
    split, and among equally fast ones the most even.
    """
    count, devices = len(sizes), len(capacity)
    total = [0, *accumulate(sizes)]
    times = [[0.0, *accumulate(row)] for row in seconds]
    # best[l]: score and ranges for the first l layers on the devices so far.
    best: list[tuple[Score, tuple[int, ...]] | None] = [None] * (count + 1)
    best[0] = ((0.0, 0.0), ())
    for device in range(devices):
        after: list[tuple[Score, tuple[int, ...]] | None] = [None] * (count + 1)
        room = capacity[device]
        for first in range(count + 1):
            before = best[first]
            if before is None:
                continue
            (spent, fullest), ranges = before
            for last in range(first, count + 1):
                used = total[last] - total[first]
                if used > room and last > first:
                    break
                fill = max(fullest, used / room if room > 0 else 0.0)
                time = spent + times[device][last] - times[device][first]
                score = (round(time / EVEN) * EVEN, fill)
                known = after[last]
                if known is None or score < known[0]:
                    after[last] = (score, (*ranges, last - first))
        best = after
    found = best[count]
    return list(found[1]) if found else None
