"""A weight matrix as small integers with a scale per row, or per group of columns of a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class QuantisedMatrix:
    """The matrix `values * scales`, (out, in): its integers, and a scale for each group of columns of each row.

    Zero stands for zero exactly: quantisation is symmetric.
    """

    values: npt.NDArray[np.int8]  # (out, in)
    scales: npt.NDArray[np.float32]  # (out, groups): group g has the columns from g * in / groups on

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape  # type: ignore[return-value]

    def dense(self) -> npt.NDArray[np.float32]:
        """The matrix that the integers stand for, (out, in)."""
        rows, columns = self.shape
        groups = self.values.reshape(rows, self.scales.shape[1], -1)
        return np.multiply(groups, self.scales[:, :, None], dtype=np.float32).reshape(rows, columns)
