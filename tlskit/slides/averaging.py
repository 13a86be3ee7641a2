"""The inner loops of area averaging, compiled by numba when they are first used (kept beside the module after that)."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["weighted_sums"]

_int = np.int32  # numba counts in 64 bits unless it is told, and a register holds half as many of those


def _compiled(function):
    """The function as machine code, from a file where it has been compiled for this processor before."""
    how = {"signature_or_function": "void(u1[:, ::1], i4[::1], i4[:, ::1], i4[::1], i4[:, ::1], u1[:, ::1])"}
    try:
        return numba.njit(**how, nogil=True, cache=True)(function)
    except Exception:  # nowhere to keep it (an installation and a home that are read only), no room, a damaged file
        return numba.njit(**how, nogil=True)(function)


@_compiled
def weighted_sums(source, first_rows, row_weights, first_columns, column_weights, out):
    """Rows of `out` as weighted sums of rows of `source`, then along them, rounded half up.

    Parameters
    ----------
    source : (h, w) uint8
        Rows of numbers, three (the colours) to a pixel.
    first_rows : (rows,) int32
        First row of `source` under each row of `out`.
    row_weights : (rows, taps) int32
        Weights of it and the rows below it: they sum to 2**16. `taps` is a multiple of three, here and below.
    first_columns : (columns,) int32
        First number of a row under each number of a row of `out`.
    column_weights : (taps, columns) int32
        Weights of it and of every third number after it: they sum to 2**12.
    out : (rows, columns) uint8
        Where the result goes. Rows' sums are rounded half to even to 12 bits (1/16 grey level) on the way.
    """
    line = np.empty(source.shape[1], np.int32)
    total = np.empty(out.shape[1], np.int32)
    for i in range(len(out)):
        line[:] = 0
        for tap in range(0, row_weights.shape[1], 3):
            y = first_rows[i] + tap
            one, two, three = source[y], source[y + 1], source[y + 2]
            a, b, c = row_weights[i, tap], row_weights[i, tap + 1], row_weights[i, tap + 2]
            for k in range(len(line)):
                line[k] += one[k] * a + two[k] * b + three[k] * c
        for k in range(len(line)):
            half = _int(2047) + _int(_int(line[k] >> _int(12)) & _int(1))
            line[k] = _int(line[k] + half) >> _int(12)
        total[:] = 2**15
        for tap in range(0, len(column_weights), 3):
            one, two, three = line[3 * tap :], line[3 * tap + 3 :], line[3 * tap + 6 :]
            a, b, c = column_weights[tap], column_weights[tap + 1], column_weights[tap + 2]
            for k in range(len(total)):
                at = np.uint32(first_columns[k])
                total[k] += one[at] * a[k] + two[at] * b[k] + three[at] * c[k]
        for k in range(len(total)):
            out[i, k] = total[k] >> _int(16)
