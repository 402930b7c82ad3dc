"""Speed of unpacking: MB/s of dense output of every form of a bundle, on one core.

    python benchmarks/unpacking.py
    python benchmarks/unpacking.py --json unpacking.json

Integers come back as int8, and a second figure is that of int8 made float32; everything else comes back as float32. Checks
are part of it, hashing and reading the disk are not. Times are CPU times of one thread, the best of `--rounds`
interleaved rounds over one random matrix of each sparsity.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgenetllm.edge.encoding import Form, decode, encode
from edgenetllm.edge.quantised import QuantisedMatrix

ROWS, COLUMNS = 4096, 1536
SPARSITIES = (0.4, 0.9)
TYPES = {"F32": None, "F16": None, "BF16": None, "I8": COLUMNS, "I4": 64}


def measure(rounds: int) -> list[dict[str, Any]]:
    """A row for each form and sparsity."""
    rows: list[dict[str, Any]] = []
    cases = []
    rng = np.random.default_rng(0)
    for sparsity in SPARSITIES:
        weight = rng.standard_normal((ROWS, COLUMNS), np.float32)
        weight[rng.random(weight.shape) < sparsity] = 0
        zeros = int((weight == 0).sum())
        for dtype, group in TYPES.items():
            for mask in ("bitmask", "delta", "none"):
                form = Form(dtype, mask, group)  # type: ignore[arg-type]
                cases.append((form, encode(weight, form), zeros))
                rows.append({"sparsity": sparsity, "values": dtype, "mask": mask, "seconds": float("inf")})
    for _ in range(rounds):
        for row, (form, parts, zeros) in zip(rows, cases, strict=True):
            began = time.process_time()
            matrix = decode(parts, form, (ROWS, COLUMNS), zeros)
            row["seconds"] = min(row["seconds"], time.process_time() - began)
            quantised = isinstance(matrix, QuantisedMatrix)
            row["output"] = "int8" if quantised else "float32"
            row["mb_per_s"] = ROWS * COLUMNS * (1 if quantised else 4) / row["seconds"] / 1e6
            if isinstance(matrix, QuantisedMatrix):
                matrix.dense()
                whole = time.process_time() - began
                row["float32_seconds"] = min(row.get("float32_seconds", float("inf")), whole)
                row["float32_mb_per_s"] = ROWS * COLUMNS * 4 / row["float32_seconds"] / 1e6
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rows = measure(arguments.rounds)
    for row in rows:
        text = f"{row['sparsity']:4.0%}  {row['values']:>4} {row['mask']:>7}  {row['mb_per_s']:7.0f} MB/s of {row['output']}"
        if "float32_mb_per_s" in row:
            text += f", {row['float32_mb_per_s']:.0f} MB/s of float32"
        print(text, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
