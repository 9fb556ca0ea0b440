"""Fits the sixteen integers of the 4-bit format (`Q4_VALUES` in src/encoding.rs).

    python tools/fit_q4_values.py

needs numpy; takes a few minutes. Lloyd's algorithm over groups of 32 weights, three quarters of them normal and one quarter
Laplacian, as trained matrices mostly are: every group gets the signed scale with the least squared error among many, every
weight its nearest value, then every value becomes the weighted mean of its weights. The largest is held at -127. Prints
the table and, on fresh groups, its error beside that of plain rounding to 16 equal steps.
"""

import numpy as np

GROUP, GROUPS, ROUNDS, SEED = 32, 40000, 40, 3
# What the largest weight of a group may be in the table: tried for every group.
SIZES = list(np.linspace(-150, -90, 13)) + list(np.linspace(70, 140, 13))
START = np.array([-127, -104, -84, -67, -51, -36, -22, -10, 2, 14, 26, 39, 54, 71, 90, 114], np.float32)


def groups(seed, count):
    """Three quarters normal, one quarter Laplacian, of one variance."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((count * 3 // 4, GROUP))
    laplace = rng.laplace(size=(count // 4, GROUP)) / np.sqrt(2)
    return np.concatenate([normal, laplace]).astype(np.float32)


def choose(x, values, sizes):
    """The best scale of each group, `[groups, 1]`, and the index of each weight's value."""
    largest = x[np.arange(len(x)), np.abs(x).argmax(1)]
    middles = (values[1:] + values[:-1]) / 2
    best, scale = np.full(len(x), -np.inf), np.zeros(len(x), np.float32)
    for size in sizes:
        q = values[np.searchsorted(middles, x * (size / largest)[:, None])]
        product, square = (x * q).sum(1), (q * q).sum(1)
        better = product ** 2 / square > best
        best = np.where(better, product ** 2 / square, best)
        scale = np.where(better, product / square, scale)
    return scale[:, None], np.searchsorted(middles, x / scale[:, None])


def error(x, values, sizes):
    """Squared error over the sum of squares."""
    scale, index = choose(x, values, sizes)
    return float(((x - scale * values[index]) ** 2).sum() / (x * x).sum())


def main():
    """Fits and prints."""
    x, values = groups(SEED, GROUPS), START.copy()
    for _ in range(ROUNDS):
        scale, index = choose(x, values, SIZES)
        scale = scale.repeat(GROUP, 1)
        pick = [index == i for i in range(16)]
        values = np.array([(scale[p] * x[p]).sum() / (scale[p] ** 2).sum() for p in pick], np.float32)
        values *= 127 / np.abs(values).max()
        if -values[0] < values[-1]:
            values = -values[::-1]
    table = np.round(values).astype(int)
    print("values", table.tolist())
    fresh = groups(SEED + 1, 4000)
    print("relative squared error", error(fresh, table.astype(np.float32), SIZES))
    print("of 16 equal steps     ", error(fresh, np.arange(-8, 8, dtype=np.float32), [-8, 8]))


if __name__ == "__main__":
    main()
