"""Where in the graph of a call its inputs are used: what goes back to an input by this module alone."""

from __future__ import annotations

from typing import Any

import torch

from gradtrace.watch.modules import is_recurrent

__all__ = ["edge_of", "is_in_place", "uses_of_inputs"]

_MOST_NODES = 512  # of one call: a recurrent cell over long sequences has thousands, and is left out

Uses = list[tuple[Any, int, int]]


def uses_of_inputs(module: Any, inputs: list[Any], outputs: list[Any]) -> Uses:
    """Find the nodes between a call's outputs and its inputs that take an input.

    A tensor's own hook sees what comes from all that use it; these nodes are of this call alone.

    Parameters
    ----------
    module : torch.nn.Module
    inputs, outputs : list of Tensor
        Of the call.

    Returns
    -------
    list of (node, int, int)
        The node, the place of the input among what it sends back, and the number of the input. Empty where there are
        too many nodes, or where an output is an input.
    """
    if is_recurrent(module):  # whose inputs have nodes of their own
        return [(one.grad_fn, 0, number) for number, one in enumerate(inputs) if one.grad_fn is not None]
    wanted: dict[tuple[Any, int], int] = {}
    for number, tensor in enumerate(inputs):
        if not tensor.requires_grad:
            continue
        if any(tensor is one for one in outputs):
            return [(tensor.grad_fn, 0, 0)] if is_in_place(module, tensor) else []
        wanted.setdefault(edge_of(tensor), number)
    ends = {node for node, _ in wanted}
    # Python's objects of nodes are those of before only while they are held.
    waiting = [one.grad_fn for one in outputs if one.grad_fn is not None] if wanted else []
    seen, found = set(waiting), []
    while waiting:
        node = waiting.pop()
        for place, (after, number) in enumerate(node.next_functions):
            if (after, number) in wanted:
                found.append((node, place, wanted[after, number]))
            elif after is not None and after not in seen and after not in ends:
                seen.add(after)
                waiting.append(after)
        if len(seen) > _MOST_NODES:
            return []
    return found


def edge_of(tensor: Any) -> tuple[Any, int]:
    """Give the node that a tensor comes from, and as which of its outputs."""
    node = tensor.grad_fn
    if node is not None:
        return node, tensor.output_nr
    edge = torch.autograd.graph.get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def is_in_place(module: Any, tensor: Any) -> bool:
    """Whether a tensor that a call gives back was overwritten: its node is then the call's own, and named as it is.

    It is another's where nothing was done, as by dropout in evaluation, or where the input was a view.
    """
    node, kind = tensor.grad_fn, type(module).__name__.lower()
    return node is not None and node.name().lower().startswith(f"{kind}backward")
