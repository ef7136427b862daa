"""Oracles are slow and asked the same for every instruction set: an answer that was given stays."""

import functools
import pickle
from collections import OrderedDict
from hashlib import blake2b

import mpmath as mp


def remembered(most):
    """Keep the `most` results used last of a pure function, by the content of its arguments; callers get copies."""

    def decorate(function):
        results = OrderedDict()

        @functools.wraps(function)
        def ask(*args, **options):
            key = blake2b(pickle.dumps((args, options, mp.mp.dps))).digest()
            if key not in results:
                results[key] = pickle.dumps(function(*args, **options))
                if len(results) > most:
                    results.popitem(last=False)
            results.move_to_end(key)
            return pickle.loads(results[key])

        return ask

    return decorate
