"""Numbers that strict JSON has no word for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["json_ready"]


def json_ready(value: Any) -> Any:
    """Replace what strict JSON has no word for.

    Parameters
    ----------
    value : object
        Numbers, text, arrays, and lists and dicts of these.

    Returns
    -------
    object
        Zero norms read ``"-inf"``, overflown ones ``"inf"``, undefined figures (NaN) null.
    """
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
