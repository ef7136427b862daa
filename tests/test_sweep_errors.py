"""What a sweep refuses: one line that names the argument."""

import numpy as np
import pytest

import gradtrace as gt

SMALL = {"width": 4, "depth": 3, "networks": 2, "progress": False}
X = np.ones((3, 4), "float32")

WRONG = [
    ({"width": 0}, ValueError, "width: expected at least 1, got 0"),
    ({"width": [4, 2.5]}, TypeError, "width[1]: expected an integer, got float"),
    ({"width": []}, ValueError, "width: expected at least one value, got an empty list"),
    ({"gain": [1.0, 1]}, ValueError, "gain: expected each value once, got 1.0 twice"),
    ({"gain": np.ones((2, 2))}, ValueError, "gain: expected one value or a list of them, got shape (2, 2)"),
    ({"gain": np.nan}, ValueError, "gain: expected a finite number, got nan"),
    ({"gain": "1"}, TypeError, "gain: expected a number, got str"),
    ({"gain": {"a": 1}}, TypeError, "gain: expected a number, got dict"),
    ({"depth": True}, TypeError, "depth: expected an integer, got bool"),
    ({"activation": "swish"}, ValueError, "activation: expected one of linear, sigmoid,"),
    ({"activation": ["tanh", 3]}, TypeError, "activation[1]: expected"),
    ({"init": "he"}, ValueError, "init: expected one of glorot_normal,"),
    ({"bias_std": -1}, ValueError, "bias_std: expected 0 or more, got -1"),
    ({"residual": [1.0, 0.0]}, ValueError, "residual[1]: expected a scale other than 0, got 0.0; None is no skip"),
    ({"layer_norm": 2}, TypeError, "layer_norm: expected True or False, got int"),
    ({"dtype": "float16"}, TypeError, "dtype: expected float32 or float64, got float16"),
    ({"similarity": 1.5}, ValueError, "similarity: expected -1 to 1, got 1.5"),
    ({"similarity": 0.5, "samples": 3}, ValueError, "samples: expected an even number beside similarity, got 3"),
    ({"similarity": 0.5, "width": 1}, ValueError, "width: expected at least 2 beside similarity, got 1"),
    ({"similarity": 0.5, "inputs": X}, ValueError, "similarity: expected None beside inputs, got both"),
    ({"networks": 0}, ValueError, "networks: expected at least 1, got 0"),
    ({"networks": [1, 2]}, TypeError, "networks: expected an integer, got list"),
    ({"samples": 0}, ValueError, "samples: expected at least 1, got 0"),
    ({"seed": -1}, ValueError, "seed: expected 0 to 2**64 - 1, got -1"),
    ({"figures": "log2_delta"}, TypeError, "figures: expected a list of names, got str"),
    ({"figures": ["delta"]}, ValueError, "figures: expected one of log2_delta,"),
    ({"figures": []}, ValueError, "figures: expected at least one name, got none"),
    ({"figures": ["similarity"], "samples": 1}, ValueError, "samples: expected at least 2 for 'similarity', got 1"),
    ({"keep": "some"}, ValueError, "keep: expected one of quantiles, moments, all, got 'some'"),
    ({"keep": "all", "networks": 2**38}, MemoryError, "keep: every value needs"),
    ({"inputs": [[1.0]]}, TypeError, "inputs: expected a NumPy array, got list"),
    ({"inputs": X[0]}, ValueError, "inputs: expected shape (B, n), got (4,)"),
    ({"inputs": X, "width": [4, 5]}, ValueError, "inputs: expected shape (B, n) with width 5, got (3, 4)"),
    ({"inputs": X.astype("float64")}, TypeError, "inputs: expected dtype float32, got float64"),
    ({"inputs": X * np.nan}, ValueError, "inputs: expected finite values"),
    ({"inputs": np.asfortranarray(X)}, ValueError, "inputs: expected a C-contiguous array, got another layout"),
    ({"inputs": X, "samples": 2}, ValueError, "samples: expected 3 as inputs has, got 2"),
    ({"progress": 3}, TypeError, "progress: expected True, False or a function, got 3"),
    ({"threads": 0}, ValueError, "threads: expected at least 1, got 0"),
    ({"mixed": 1}, TypeError, "mixed: expected True or False, got int"),
    ({"steps": 5}, ValueError, "steps: expected only for recurrent networks, cell='lstm', got it for 'stacks'"),
    ({"cell": "elman"}, ValueError, "cell: expected one of lstm, gru, rnn"),
    ({"cell": [None, "lstm"]}, ValueError, "cell: expected names of recurrent cells, got None among them"),
    ({"cell": "gru", "forget_bias": 1.0}, ValueError, "forget_bias: expected only for an LSTM, got it for gru"),
    ({"cell": "lstm", "forget_bias": "chrono"}, ValueError, "forget_bias: expected a number, None or 'chrono:T'"),
    ({"cell": "lstm", "activation": "relu"}, ValueError, "activation: expected only for stacks and cell='rnn'"),
    ({"cell": "rnn", "activation": "selu"}, ValueError, "activation: expected one of tanh, relu, got 'selu'"),
    ({"cell": "rnn", "residual": True}, ValueError, "residual: expected only for stacks, got it for 'rnn'"),
    ({"cell": "rnn", "figures": ["log2_dc"]}, ValueError, "figures: expected one of log2_dh,"),
    ({"cell": ["rnn", "gru"], "figures": ["log2_dz"]}, ValueError, "figures: expected one that all cells have"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "kind", "message"), WRONG, ids=[str(case[0])[:40] for case in WRONG])
def test_bad_arguments_are_named(wrong, kind, message):
    with pytest.raises(kind) as error:
        gt.sweep(**{**SMALL, **wrong})
    text = str(error.value)
    assert text.startswith(message)
    assert "\n" not in text
    assert type(error.value) is kind


def test_bad_questions_are_named():
    sweep = gt.sweep(**SMALL, gain=[1.0, 2.0])
    for call, kind, message in (
        (lambda: sweep.quantile("log2"), ValueError, "name: expected one of log2_delta"),
        (lambda: sweep.quantile("log2_delta", 0.3), ValueError, "q: expected one of 0.01, 0.05"),
        (lambda: sweep.moments(over="all"), ValueError, "over: expected one of values, networks"),
        (lambda: sweep.network(0), TypeError, "gain: expected one of its values, got none"),
        (lambda: sweep.network(0, gain=3.0), ValueError, "gain: expected one of 1.0, 2.0, got 3.0"),
        (lambda: sweep.network(0, width=4, gain=1.0), ValueError, "point: expected one of gain, got 'width'"),
        (lambda: sweep.network(2, gain=1.0), ValueError, "i: expected 0 to 1, got 2"),
        (lambda: sweep.critical(), ValueError, "gain: expected at least 4 of the sweep"),
        (lambda: sweep.plot(x="width"), ValueError, "x: expected one of gain, layer, got 'width'"),
        (lambda: sweep.plot(y="delta"), ValueError, "y: expected one of bits_per_layer"),
        (lambda: sweep.plot(y="log2_delta", layer=9), ValueError, "layer: expected 0 to 2, got 9"),
    ):
        with pytest.raises(kind) as error:
            call()
        assert str(error.value).startswith(message)


def test_none_is_no_argument_of_others():
    """What has a meaning for stacks alone, or for an LSTM alone, may be None everywhere."""
    others = ("bias_std", "residual", "layer_norm", "similarity", "output_activation")
    asked = {"width": 4, "steps": 3, "networks": 2, "progress": False}
    assert gt.sweep(cell="gru", **asked, **dict.fromkeys(others), forget_bias=None) == gt.sweep(cell="gru", **asked)
    own = gt.sweep(cell=["gru", "lstm"], **asked, forget_bias=None)  # and says of an LSTM what it says alone
    alone = gt.sweep(cell="lstm", **asked, forget_bias=None)
    assert own.seeds(cell="lstm").tolist() == alone.seeds().tolist()
    assert own.seeds(cell="lstm").tolist() != gt.sweep(cell="lstm", **asked).seeds().tolist()


def test_inputs_are_kept_as_they_were():
    x = X.copy()
    sweep = gt.sweep(**SMALL, inputs=x)
    x[:] = 7
    np.testing.assert_array_equal(sweep.inputs, X)
    with pytest.raises(ValueError, match="read-only"):
        sweep.inputs[0] = 7
    drawn = sweep.network(0)
    assert drawn.network.trace(drawn.x, cotangent=drawn.cotangent).log2_delta.shape == (3, 3)


def test_questions_that_numbers_alone_answer():
    sweep = gt.sweep(**{**SMALL, "width": [2, 3, 4]}, gain=[0.5, 1.0, 1.5, 2.0], activation=["tanh", "relu"],
                     bias_std=[0.0, 0.1, 0.2], keep="all")  # fmt: skip
    critical = sweep.critical()
    for call, kind, message in (
        (lambda: sweep.quantile("log2_delta", -0.5), ValueError, "q: expected 0 to 1, got -0.5"),
        (lambda: sweep.quantile("log2_delta", 1.5), ValueError, "q: expected 0 to 1, got 1.5"),
        (lambda: sweep.quantile("log2_delta", np.nan), ValueError, "q: expected a finite number, got nan"),
        (lambda: sweep.quantile("log2_delta", "a"), TypeError, "q: expected a number, got str"),
        (lambda: sweep.quantile("log2_delta", [0.1, 0.2]), TypeError, "q: expected a number, got list"),
        (lambda: sweep.critical(start="a"), TypeError, "start: expected a number, got str"),
        (lambda: sweep.critical(start=0.9), ValueError, "start: expected 0 to 0.875, got 0.9"),
        (lambda: critical.extrapolated("gain"), ValueError, "axis: expected one of width, activation, bias_std"),
        (lambda: critical.extrapolated("activation"), ValueError, "axis: expected an argument of numbers greater"),
        (lambda: critical.extrapolated("bias_std"), ValueError, "axis: expected an argument of numbers greater"),
        (lambda: sweep.seeds(gain=[0.5, 1.0], width=2, activation="relu", bias_std=0), TypeError,
         "gain: expected one of its values, got a list"),
    ):  # fmt: skip
        with pytest.raises(kind) as error:
            call()
        assert str(error.value).startswith(message)


def test_defaults_leave_out_what_one_sample_does_not_have():
    assert gt.sweep(**SMALL, samples=1).names == ("log2_delta", "log2_grad_weight", "log2_activation")
