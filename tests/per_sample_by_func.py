"""Gradients of weights per sample by torch.func, which runs a module for each sample alone."""

import numpy as np
import torch
from tolerances import assert_close, tolerance

import gradtrace as gt

BITS = tolerance("per sample", "log2")


def by_func(module, x, u, name="weight", axis=0):
    """log2 of the norms of d(sum of u y)/d(weight), each sample on its own."""

    def loss(parameters, x, u):
        return (torch.func.functional_call(module, parameters, (x.unsqueeze(axis),)) * u.unsqueeze(axis)).sum()

    parameters = {key: one.detach() for key, one in module.named_parameters()}
    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, axis, axis))(parameters, x, u)
    return gradients[name].flatten(1).norm(dim=1).log2().numpy()


def watched(module, x, u, **options):
    with gt.watch(module, **{"per_sample": True} | options) as watch:
        (module(x) * u).sum().backward()
        return watch.trace()


def agrees(module, x, axis=0, limit=BITS, **options):
    module, x = module.double(), x.double()
    u = torch.randn_like(module(x))
    trace = watched(module, x, u, **options)
    (got,) = trace.per_sample.values()
    assert got.dtype == np.float64
    assert not got.flags.writeable
    assert trace.notes == ()
    assert_close(got, by_func(module, x, u, axis=axis), limit, repr(module))
