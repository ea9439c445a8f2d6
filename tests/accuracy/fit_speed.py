"""Fit the constants of core/speed.py to published rows and print the held-out error.

Each class of GPU has an efficiency and microseconds a layer; both are pulled towards the mean of
all classes, so that a class with one card does not follow its noise.

Run: python -m tests.accuracy.fit_speed
"""

from __future__ import annotations

import math
import statistics

import numpy as np

from infra_llm.core.speed import speed_class
from tests.accuracy.speed_rows import Row, single_gpu_rows

PRIOR_EFFICIENCY, PRIOR_US = math.log(0.8), math.log(40.0)
PULL = (0.8, 0.6)
STEPS = 60


def is_k(row: Row) -> bool:
    return "_K" in row.quant


def fit(rows: list[Row]) -> tuple[dict[str, tuple[float, float]], float]:
    """Gauss-Newton on log times: {class: (efficiency, layer us)}, and K-quants' extra us."""
    classes = sorted({speed_class(row.gpu) for row in rows})
    place = {name: 2 * n for n, name in enumerate(classes)}
    values = np.array([PRIOR_EFFICIENCY, PRIOR_US] * len(classes) + [math.log(15.0)])

    def parts(row: Row, x: np.ndarray) -> tuple[float, float, float]:
        at = place[speed_class(row.gpu)]
        rate = row.gpu.memory_bandwidth_gbs or 0.0
        return (
            row.weights / (math.exp(x[at]) * rate * 1e9),
            row.layers * math.exp(x[at + 1]) * 1e-6,
            row.layers * math.exp(x[-1]) * 1e-6 if is_k(row) else 0.0,
        )

    for _ in range(STEPS):
        matrix, rest = [], []
        for row in rows:
            read, launch, extra = parts(row, values)
            total = read + launch + extra
            line = np.zeros(len(values))
            at = place[speed_class(row.gpu)]
            line[at], line[at + 1], line[-1] = -read / total, launch / total, extra / total
            weight = 0.12
            miss = math.log(1 / row.decode) - math.log(total)
            scale = 1 / max(weight, abs(miss)) ** 0.5  # robust: large misses count less
            matrix.append(line * scale)
            rest.append(miss * scale)
        for at in place.values():
            for offset, prior in ((0, PRIOR_EFFICIENCY), (1, PRIOR_US)):
                line = np.zeros(len(values))
                line[at + offset] = 1 / PULL[offset]
                matrix.append(line)
                rest.append((prior - values[at + offset]) / PULL[offset])
        step = np.linalg.lstsq(np.array(matrix), np.array(rest), rcond=None)[0]
        values = values + np.clip(step, -0.3, 0.3)
    found = {name: (math.exp(values[at]), math.exp(values[at + 1])) for name, at in place.items()}
    return found, math.exp(values[-1])


def predict(row: Row, found: dict[str, tuple[float, float]], extra: float) -> float:
    efficiency, layer = found.get(speed_class(row.gpu), (0.8, 40.0))
    rate = (row.gpu.memory_bandwidth_gbs or 0.0) * 1e9
    us = layer + (extra if is_k(row) else 0.0)
    return 1 / (row.weights / (efficiency * rate) + row.layers * us * 1e-6)


def held_out() -> list[tuple[float, str, Row]]:
    """Predicted over measured for every row, its card left out of the fit."""
    rows = single_gpu_rows()
    found = []
    for card in sorted({row.gpu.name for row in rows}):
        rest, extra = fit([row for row in rows if row.gpu.name != card])
        found.extend(
            (predict(row, rest, extra) / row.decode, card, row)
            for row in rows
            if row.gpu.name == card
        )
    return found


def main() -> None:
    found, extra = fit(single_gpu_rows())
    for name, (efficiency, layer) in found.items():
        print(f'    "{name}": SpeedClass({efficiency:.2f}, {layer:.0f}, {extra:.0f}),')
    errors = held_out()
    for ratio, card, row in sorted(errors, key=lambda e: abs(math.log(e[0])))[-12:]:
        print(f"  {ratio:.2f} {card} {row.model} {row.quant} {row.decode}")
    misses = [abs(ratio - 1) for ratio, _, _ in errors]
    ratios = sorted(ratio for ratio, _, _ in errors)
    near = sum(miss <= 0.15 for miss in misses) / len(misses)
    print(
        f"{len(errors)} rows, a card left out: median {statistics.median(misses):.1%}, "
        f"within 15 %: {near:.0%}, 10th and 90th: "
        f"{ratios[len(ratios) // 10]:.2f} {ratios[-len(ratios) // 10]:.2f}"
    )


if __name__ == "__main__":
    main()
