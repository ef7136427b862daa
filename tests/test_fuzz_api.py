"""Calls with wrong arguments, at random; GRADTRACE_FUZZ_CALLS makes the run longer than a few seconds."""

import os

import numpy as np
import pytest
from fuzz import api, calls

CALLS = int(os.environ.get("GRADTRACE_FUZZ_CALLS", "1500"))

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def test_calls_with_wrong_arguments():
    report = api.run(CALLS, first=100)
    assert report["findings"] == []
    counts = report["counts"]
    assert counts["accepted"] + counts["refused"] == CALLS
    assert counts["refused"] > CALLS / 4  # what is wrong is felt
    assert counts["accepted"] > CALLS / 8  # and good calls are among them


def test_every_call_is_good_before_it_is_made_wrong():
    calls.write_files()
    try:
        for name, make in calls.MAKERS.items():
            if name in ("watch", "from_torch", "to_torch") and not calls.torch_is_there():
                continue
            for seed in range(4):
                small = calls.Small(np.random.default_rng(seed))
                call = make(small)
                arguments = call.arguments
                if call.name == "compare":
                    arguments = {"after": call.function.__self__}
                calls.used(call.function(*arguments.values()) if call.positional else call.function(**arguments), small)
    finally:
        calls.remove_files()


@pytest.mark.parametrize("kind", ["crash", "hang", "printed"])
def test_the_fuzzer_sees_what_it_looks_for(kind):
    report = api.run(4, first=100, seconds=2.0, spoiled=kind)
    assert [finding["kind"] for finding in report["findings"]] == [kind]
    if kind != "printed":
        assert report["findings"][0]["seed"] == 102
