"""No false zero, NaN or infinity in random recurrent traces whose states leave their format; the oracle, proven."""

import os
from collections import Counter
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
import range_cases
import recurrent_reference
import wide_reference
from portable_cases import Layer, Net, converted_net
from reference import to_mpmath
from tolerances import tolerance

TRACES = int(os.environ.get("GRADTRACE_RANGE_TRACES", "1000"))


@pytest.mark.parametrize("shape", [(5, 2, 2, 3, 1, False, True), (4, 2, 2, 2, 2, True, True)])
@pytest.mark.parametrize("kind", ["decaying", "shut"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_oracle_is_that_of_seven_hundred_digits(cell, kind, shape):
    layers, given, ends = range_cases.draw(np.random.default_rng(1), cell, kind, "float64", shape, 1)
    for layer in layers:
        for name in ("bias_ih", "bias_hh"):
            layer[name] /= 4  # sigma(-1000) against 1 in so many digits
    got = wide_reference.trace(cell, [SimpleNamespace(**layer) for layer in layers], *given.values(), ends, shape[5])
    net = Net(cell, [Layer(*(layer[n][0] for n in Layer._fields)) for layer in layers], bidirectional=shape[5])
    with mpmath.workdps(700), np.errstate(invalid="ignore"):
        want = recurrent_reference.trace(
            converted_net(net, to_mpmath), *(to_mpmath(a[0]) for a in given.values()), lengths=ends
        )
    for name, figure in got.items():
        exact = np.asarray(getattr(want, name), float)
        with np.errstate(invalid="ignore"):
            error = np.where((figure[0] == exact) | (np.isnan(figure[0]) & np.isnan(exact)), 0, abs(figure[0] - exact))
        assert np.all(error <= tolerance("recurrent", "log2", "float64")), name


def test_random_traces_have_no_false_zero():
    """A thousand of them; GRADTRACE_RANGE_TRACES=100000 for as many."""
    faults, places, count = Counter(), [], 4 if TRACES <= 1000 else 64
    for batch in range_cases.plan(TRACES, count):
        found = range_cases.compared(*batch, count, machines=0)
        faults += found.faults
        places += found.places
    assert not faults, (faults, places[:10])
