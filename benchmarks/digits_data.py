"""Makes the digits data set: scikit-learn's digits with a fixed split, in one file.

    python benchmarks/digits_data.py --out digits.npz

`data: {name: digits}` reads the file that this script made, distill/data/sources/digits.npz, and spares a run
the import of scikit-learn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.project import argument_parser

HELD_OUT = 360
"""Number of held-out images."""


def split_digits() -> dict[str, np.ndarray]:
    """Return grey levels from 0 to 16, (n, 8, 8), and labels, (n,), of both splits, in bytes.

    Both have the same shares of the ten classes.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = train_test_split(
        np.arange(len(digits.target)), test_size=HELD_OUT, stratify=digits.target, random_state=0
    )
    return {
        f"{split}_{name}": values[chosen].astype(np.uint8)
        for split, chosen in zip(("train", "held_out"), rows, strict=True)
        for name, values in (("images", digits.images), ("labels", digits.target))
    }


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file to write, .npz")
    np.savez_compressed(parser.parse_args(arguments).out, **split_digits())


if __name__ == "__main__":
    main(sys.argv[1:])
