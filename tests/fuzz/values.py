"""Values that nobody should pass, and good ones made a little wrong."""

import numpy as np


class Sub(np.ndarray):
    """An array of a class of its own."""


class Odd:
    """An object that knows nothing."""

    def __repr__(self):
        return "odd"


def _huge(shape, dtype="float32"):
    """A view of one number that stands for terabytes."""
    return np.broadcast_to(np.ones((), dtype), shape)


_SCALARS = (
    None, True, False, 0, 1, -1, 2, 7, 255, 10**4, 2**31, 2**63, -(2**63), 2**64, 10**30, 0.0, -0.0, 0.5, -1.5, 1e-320,
    1e300, float("nan"), float("inf"), -float("inf"), 1j, complex("nan"), np.float32(0.5), np.float64("nan"),
    np.int64(3), np.uint8(3), np.bool_(True), np.longdouble(2), np.datetime64("2020-01-01"), Ellipsis, NotImplemented,
    int, np.float32,
)  # fmt: skip
_TEXTS = (
    "", " ", "x", "tanh", "relu", "elu:0.5", "elu:", "leaky_relu:nan", "leaky_relu:1e400", "mse", "cross_entropy",
    "float16", "last", "all", "chrono:", "chrono:9", "chrono:-3", "chrono:1e9", "\0", "é" * 70, "a" * 10_000, "\ud800",
    b"tanh", bytearray(b"x"),
)  # fmt: skip


def _containers(generator):
    numbers = generator.standard_normal(3)
    return [
        [], (), {}, set(), [1], [1, 2.5, "x"], (3, 4), [None], [[]], [numbers], [numbers, None], (numbers,) * 2,
        {"a": 1}, frozenset({"deltas"}), range(3), iter([numbers]), (n for n in numbers), numbers.tolist(),
        [[1.0, 2.0], [3.0]],
        memoryview(numbers), [Odd()], ["tanh"] * 3, ["deltas"], ["dh", "dh"], [3, 4, 2], [3, -4, 2], [3, 10**10, 2],
        [10**9] * 3, [0, 3], [3.0, 4.0], [True, False], Odd(), lambda *_: None, Exception("x"),
    ]  # fmt: skip


def _arrays(generator):
    numbers = generator.standard_normal((4, 3))
    masked = np.ma.masked_array(numbers.astype("float32"), numbers > 0)
    return [
        np.zeros(0, "float32"), np.zeros((0, 3), "float32"), np.zeros((3, 0, 2), "float32"),
        np.float32(1) * np.ones(()),
        numbers, numbers.astype("float32"), numbers.astype("float16"), numbers.astype("longdouble"),
        numbers.astype("complex64"), numbers.astype("int32"), numbers.astype(">f4"), numbers.astype("float32").T,
        numbers.astype("float32")[::-1], numbers.astype("float32")[:, ::2],
        np.asfortranarray(numbers.astype("float32")),
        numbers.astype("float32").view(Sub), masked, np.array([None, 1], object), np.array(["a", "b"]),
        np.array([(1, 2.0)], "i4,f8"), numbers > 0, np.full((4, 3), np.nan, "float32"), np.full(4, np.inf),
        np.arange(4), np.arange(4, dtype="uint64"), np.arange(4, dtype="int32"), np.array([-1, 2, 3, 2**62]),
        np.array(["2020"], "datetime64[D]"), _huge((10**12, 3)), _huge((3, 10**12)), _huge((10, 10**11, 3)),
        _huge((10**12,), "int64"), np.ones((1,) * 40 if int(np.__version__[0]) > 1 else (1,) * 30, "float32"),
        np.ones((2, 3, 4, 5), "float32"),
    ]  # fmt: skip


def junk(generator):
    """Draw a value that may fit nowhere."""
    which = generator.random()
    if which < 0.35:
        return _SCALARS[generator.integers(len(_SCALARS))]
    if which < 0.55:
        return _TEXTS[generator.integers(len(_TEXTS))]
    values = _containers(generator) if which < 0.75 else _arrays(generator)
    return values[generator.integers(len(values))]


def spoilt(value, generator):
    """Change a good value: an array's dtype, layout, shape or numbers; an entry of a list; anything else by one."""
    if isinstance(value, np.ndarray):
        return _spoilt_array(value, generator)
    if isinstance(value, (list, tuple)) and value:
        at = int(generator.integers(len(value)))
        entry = spoilt(value[at], generator) if generator.random() < 0.6 else junk(generator)
        changed = [*value[:at], entry, *value[at + 1 :]]
        return [changed, tuple(changed), changed[:-1], [*changed, entry]][int(generator.integers(4))]
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return [value + 1, value - 1, -value, value * 40, float(value), np.int32(min(value, 2**30)), str(value)][
            int(generator.integers(7))
        ]
    if isinstance(value, float):
        return [-value, value * 1e30, np.float32(value), complex(value), str(value), [value]][
            int(generator.integers(6))
        ]
    if isinstance(value, str):
        return [value.upper(), value + "x", value[:1], value.encode(), [value]][int(generator.integers(5))]
    return junk(generator)


def _layouts(value):
    readonly = value.copy()
    readonly.flags.writeable = False
    return [
        np.asfortranarray(value), value.T, value[::-1], value[..., ::-1], np.repeat(value, 2, axis=0)[::2], readonly,
        value.view(Sub), np.ma.masked_array(value), value.tolist(), memoryview(value), value[None], value[..., None],
        value.reshape(-1), value[:0], value[:1], np.concatenate([value, value]), value[..., :-1].copy(),
        np.stack([value] * 2), value.astype(value.dtype.newbyteorder()), np.array(value.tolist(), object),
    ]  # fmt: skip


def _spoilt_array(value, generator):
    if value.ndim == 0 or value.size == 0:
        return junk(generator)
    which = generator.random()
    if which < 0.5:
        choices = _layouts(value)
        return choices[int(generator.integers(len(choices)))]
    if which < 0.7:
        names = (
            "float16",
            "float32",
            "float64",
            "longdouble",
            "complex64",
            "int8",
            "int32",
            "int64",
            "uint8",
            "bool",
            "U3",
        )
        with np.errstate(all="ignore"):
            return value.astype(names[int(generator.integers(len(names)))])
    changed = value.copy()
    flat = changed.reshape(-1)
    place = int(generator.integers(flat.size))
    with np.errstate(all="ignore"):
        if value.dtype.kind == "f":
            if which < 0.85:
                flat[place] = (np.nan, np.inf, -np.inf)[int(generator.integers(3))]
            else:  # good, and far from the usual
                changed *= value.dtype.type((0.0, 1e-42, 1e-30, 1e15, 1e30)[int(generator.integers(5))])
        elif value.dtype.kind == "i":
            flat[place] = (-1, 2**62, flat[place] + 5, 0)[int(generator.integers(4))]
    return changed
