"""Traces as tidy frames and as datasets with named axes."""

import math

import numpy as np
import pytest
from test_reading import an_lstm, deep_sigmoid

import gradtrace as gt


def test_tidy_frame_of_a_stack():
    pandas = pytest.importorskip("pandas")
    trace = deep_sigmoid(4)
    frame = trace.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == 5 * 20
    assert list(frame.columns[:3]) == ["layer", "sample", "activation"]
    row = frame[(frame.layer == 2) & (frame["sample"] == 7)].iloc[0]
    assert row.log2_delta == trace.log2_delta[2, 7]
    assert row.log2_activation == trace.log2_activation[3, 7]
    assert row.log2_input == trace.log2_activation[0, 7]
    assert row.saturated == trace.saturated[2]
    assert row.log2_grad_input == trace.log2_grad_input[7]
    assert set(frame.activation) == {"sigmoid", "linear"}


def test_tidy_frame_of_an_lstm():
    pytest.importorskip("pandas")
    trace = an_lstm(steps=10)
    frame = trace.to_dataframe()
    assert len(frame) == 2 * 11 * 4
    row = frame[(frame.layer == 1) & (frame.state == 3) & (frame["sample"] == 2)].iloc[0]
    assert row.log2_dc == trace.log2_dc[1, 3, 2]
    assert row.gate_mean_f == trace.gate_mean[1, 2, 1]
    assert row.log2_grad_weight_hh_step == trace.log2_grad_weight_hh_step[1, 2]
    assert row.log2_dx == trace.log2_dx[2, 2]
    assert math.isnan(frame[frame.state == 0].gate_mean_f.iloc[0])


def test_quantile_frames():
    pytest.importorskip("pandas")
    trace = deep_sigmoid(2, per_sample=False)
    frame = trace.to_dataframe()
    assert list(frame["quantile"][:7]) == list(trace.quantiles)


def test_datasets_have_named_axes():
    xarray = pytest.importorskip("xarray")
    trace = deep_sigmoid(4)
    data = trace.to_xarray()
    assert isinstance(data, xarray.Dataset)
    assert data.log2_delta.dims == ("layer", "sample")
    assert data.log2_delta.sel(layer=1)[3] == trace.log2_delta[1, 3]
    assert data.attrs["samples"] == 20
    data = an_lstm(steps=10).to_xarray()
    assert data.log2_dh.dims == ("layer", "state", "sample")
    assert data.gate_mean.dims == ("layer", "step", "gate")
    assert list(data.gate.values) == list("ifgo")
    assert data.forget_half_life_unit.dims == ("layer", "unit")
    for cell in (gt.GRU, gt.RNN):
        x = np.random.default_rng(0).standard_normal((6, 5, 3)).astype("float32")
        cell.random(3, 8).trace(x).to_xarray()
