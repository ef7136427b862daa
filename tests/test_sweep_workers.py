"""Sweeps by workers of all kinds, and stores that were left half done: the same bytes, and no network twice."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

import gradtrace as gt
from gradtrace.ensembles import blocks, computing

GAINS = np.linspace(0.5, 2.0, 12)
ASKED = {"width": 12, "depth": 8, "gain": GAINS, "networks": 40, "samples": 2, "progress": False}
EXACT = {**ASKED, "figures": ["log2_delta", "similarity", "log2_grad_weight"]}
BINNED = {**EXACT, "width": 4, "depth": 3, "gain": [0.5, 1.0], "networks": 2500}


def bytes_of(sweep):
    """Everything that was found, bit by bit."""
    return {(name, kind): table.tobytes() for name, tables in sweep._tables.items() for kind, table in tables.items()}


@pytest.fixture(scope="module")
def alone():
    return {"exact": gt.sweep(**EXACT), "binned": gt.sweep(**BINNED)}


@contextmanager
def processes():
    with ProcessPoolExecutor(2) as pool:
        yield pool


@contextmanager
def some_threads():
    with ThreadPoolExecutor(3) as pool:
        yield pool


@contextmanager
def loky():
    pool = pytest.importorskip("loky").get_reusable_executor(2)
    yield pool
    pool.shutdown(wait=True)


@contextmanager
def plain():
    """Whose futures are no concurrent.futures.Future."""

    class Answer:
        def __init__(self, value):
            self._value = value

        def result(self):
            return self._value

    class Plain:
        def submit(self, function, *arguments):
            return Answer(function(*arguments))

    yield Plain()


@pytest.mark.parametrize("workers", [processes, some_threads, loky, plain])
def test_all_workers_find_the_same_bytes(workers, alone, tmp_path):
    with workers() as pool:
        for options, name in ((EXACT, "exact"), (BINNED, "binned")):
            found = gt.sweep(**options, executor=pool, store=tmp_path / name)
            assert bytes_of(found) == bytes_of(alone[name])
            assert found == alone[name]
    read = gt.sweep(**EXACT, store=tmp_path / "exact")
    assert read.drawn == 0
    assert bytes_of(read) == bytes_of(alone["exact"])


def test_threads_change_no_bit(alone):
    for count in (1, 2, 5):
        assert bytes_of(gt.sweep(**BINNED, threads=count)) == bytes_of(alone["binned"])


def test_a_dask_cluster_that_loses_a_worker(alone, tmp_path):
    distributed = pytest.importorskip("distributed")
    killed = []
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(2)
        pids = [int(pid) for pid in client.run(os.getpid).values()]
        assert os.getpid() not in pids

        def kill_one(at):
            if not killed and at.done >= 80:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(at.done)

        found = gt.sweep(**{**EXACT, "progress": kill_one}, executor=client, store=tmp_path / "s")
        assert killed
        assert killed[0] < at_all(EXACT)
        assert found.drawn == at_all(EXACT)
        assert bytes_of(found) == bytes_of(alone["exact"])
        again = gt.sweep(**EXACT, executor=client, store=tmp_path / "s")
        assert again.drawn == 0
        assert bytes_of(again) == bytes_of(alone["exact"])


def at_all(options):
    return len(options["gain"]) * options["networks"]


@pytest.fixture
def counted(monkeypatch):
    """Seeds that this process has drawn networks of."""
    seeds = []

    def counting(task):
        seeds.extend(map(int, task.seeds))
        return blocks.block_figures(task)

    monkeypatch.setattr(computing, "block_figures", counting)
    return seeds


def test_a_killed_process_is_gone_on_with(alone, tmp_path, counted):
    store = tmp_path / "store"
    code = f"""
import os, signal, numpy as np, gradtrace as gt
def progress(at):
    if at.done >= 200:
        print("at", at.done, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
asked = {EXACT | {"gain": list(map(float, GAINS)), "progress": None}!r}
gt.sweep(**asked | {{"progress": progress}}, store={str(store)!r})
"""
    process = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert process.returncode == -signal.SIGKILL
    assert process.stdout == "at 200\n"
    done = len(list(store.glob("*.npz")))
    assert done == 5
    found = gt.sweep(**EXACT, store=store)
    assert found.drawn == len(counted) == len(set(counted)) == at_all(EXACT) - 200
    assert bytes_of(found) == bytes_of(alone["exact"])
    assert found.notes == ()


@pytest.mark.parametrize("damage", ["byte", "cut", "empty", "other", "text"])
def test_a_damaged_part_is_drawn_again(damage, alone, tmp_path, counted):
    store = tmp_path / "store"
    gt.sweep(**EXACT, store=store)
    counted.clear()
    files = sorted(store.glob("*.npz"))
    data = bytearray(files[3].read_bytes())
    if damage == "byte":
        data[len(data) // 2] ^= 4
    files[3].write_bytes(
        {"byte": data, "cut": data[:-100], "empty": b"", "other": files[4].read_bytes(), "text": b"none" * 99}[damage]
    )
    found = gt.sweep(**EXACT, store=store)
    assert found.drawn == len(counted) == 40
    assert bytes_of(found) == bytes_of(alone["exact"])
    assert found.notes == ("Damaged files in the store, drawn again: 1.",)
    assert gt.sweep(**EXACT, store=store).drawn == 0


def test_every_byte_of_a_file_is_guarded(tmp_path):
    """Whatever byte is changed, the result is the same: found and drawn again, or of no account."""
    small = {"width": 2, "depth": 1, "networks": 3, "samples": 1, "figures": ["log2_delta"], "progress": False}
    store = tmp_path / "store"
    good = gt.sweep(**small, store=store)
    (file,) = store.glob("*.npz")
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.choice(len(data), 150, replace=False):
        wrong = bytearray(data)
        wrong[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(wrong)
        assert bytes_of(gt.sweep(**small, store=store)) == bytes_of(good)


def test_a_store_serves_sweeps_that_share_points(tmp_path, counted):
    store = tmp_path / "store"
    gt.sweep(**EXACT, store=store)
    counted.clear()
    more = gt.sweep(**{**EXACT, "gain": [*GAINS[3:6], 7.0]}, store=store)
    assert more.drawn == len(counted) == 40
    other = gt.sweep(**{**EXACT, "figures": ["log2_delta"]}, store=store)
    assert other.drawn == at_all(EXACT)


def test_ctrl_c_keeps_what_is_done(alone, tmp_path, counted):
    def interrupt(at):
        if at.done == 160:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            gt.sweep(**{**EXACT, "progress": interrupt}, store=tmp_path / "s")
    finally:
        signal.signal(signal.SIGINT, before)
    counted.clear()
    found = gt.sweep(**EXACT, store=tmp_path / "s")
    assert found.drawn == len(counted) == at_all(EXACT) - 160
    assert bytes_of(found) == bytes_of(alone["exact"])


def test_an_error_leaves_no_block_in_a_pool():
    futures = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *arguments):
            futures.append(super().submit(*arguments))
            return futures[-1]

    def stop(at):
        raise ZeroDivisionError

    with Pool(1) as pool:
        with pytest.raises(ZeroDivisionError):
            gt.sweep(**{**EXACT, "progress": stop}, executor=pool)
        assert len(futures) < len(GAINS)
    assert all(future.done() for future in futures)


def test_what_a_worker_raises_comes_through():
    class Broken:
        def submit(self, *_):
            future = Future()
            future.set_exception(OSError("no room"))
            return future

    with pytest.raises(OSError, match="no room"):
        gt.sweep(**EXACT, executor=Broken())


def test_workers_that_draw_otherwise_are_refused():
    """A worker of another version: here one that the number of this one changes under."""
    task = []

    class Pool:
        def submit(self, function, *arguments):
            task.append((function, arguments))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gt.sweep(**EXACT, executor=Pool())
    (function, (block, caller, generator, mixed)) = task[0]
    assert block.threads == 1
    with pytest.raises(RuntimeError, match=r"^executor: expected workers that draw as version 0 does, got version"):
        function(block, "another process", generator - generator, mixed)
    strange = dataclasses.replace(block, isa="sve")
    with pytest.raises(RuntimeError, match=r"^executor: expected workers with the instruction set sve, got one with"):
        function(strange, "another process", generator, mixed)
    before = gt.isa.active(), gt.get_num_threads()
    part, isa = function(strange, "another process", generator, True)
    assert isa == gt.isa.active()
    assert (gt.isa.active(), gt.get_num_threads()) == before
    assert set(part) == {*EXACT["figures"], "bits_per_layer"}
    assert caller != "another process"


def submitted(**options):
    """What a sweep submits for its first block: the function and its arguments, as a worker elsewhere has them."""
    found = []

    class Pool:
        def submit(self, function, block, caller, *rest):
            found.append((function, (block, "another process", *rest)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gt.sweep(**EXACT, executor=Pool(), **options)
    return found[0]


def test_threads_of_a_worker_keep_to_the_instruction_set_of_their_block(monkeypatch):
    """Blocks of two instruction sets and precisions, in a worker of several threads: each on its own."""
    function, (block, *rest) = submitted()
    sets = gt.isa.supported()[:2]
    seen = []

    def traced(task):
        first = gt.isa.active(), gt.precision().name
        time.sleep(0.002)
        seen.append((first, (gt.isa.active(), gt.precision().name), (task.isa, task.precision)))
        return blocks.block_figures(task)

    monkeypatch.setattr(computing, "block_figures", traced)
    before = gt.isa.active(), gt.precision().name
    tasks = [dataclasses.replace(block, isa=name, precision=as_) for name in sets for as_ in ("high", "highest")]
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(function, task, *rest) for task in tasks * 8]
        assert [one.result()[1] for one in done] == [task.isa for task in tasks * 8]
    assert len(seen) == 8 * len(tasks)
    assert all(first == last == wanted for first, last, wanted in seen)
    assert (gt.isa.active(), gt.precision().name) == before


def test_threads_of_a_worker_leave_the_thread_limit_that_was_there(threads):
    function, arguments = submitted()
    threads(3)
    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(function, *arguments) for _ in range(16)]:
            one.result()
    assert gt.get_num_threads() == 3


def test_sweeps_at_once_leave_the_thread_limit_that_was_there(threads):
    threads(3)
    small = {**EXACT, "gain": [1.0], "networks": 4}
    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(gt.sweep, **small, threads=1 + i % 2) for i in range(40)]:
            one.result()
    assert gt.get_num_threads() == 3


@pytest.mark.filterwarnings("ignore:This process")  # of several threads, may deadlock in the child: it shall not
def test_a_worker_that_was_forked_within_a_sweep_is_free():
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    with computing.thread_limit(2), computing._process.arithmetic(gt.isa.active(), "highest"):
        before = computing._process._free
        child = multiprocessing.get_context("fork").Process(target=_at_work_in_a_child)
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert computing._process._free is before


def _at_work_in_a_child():
    with computing._process.arithmetic(gt.isa.active(), "high"):
        assert gt.precision().name == "high"


def test_a_bounded_number_of_blocks_is_under_way():
    open_now, most = [0], [0]

    class Slow(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])

            def work():
                time.sleep(0.002)
                try:
                    return function(*arguments)
                finally:
                    open_now[0] -= 1

            return super().submit(work)

    with Slow(2) as pool:
        gt.sweep(**{**EXACT, "gain": np.linspace(0.5, 2, 40), "networks": 5}, executor=pool)
    assert most[0] <= 6


# What a store refuses -------------------------------------------------------------------------------------------------


def test_another_instruction_set_is_refused_unless_mixed(tmp_path):
    store, here = tmp_path / "store", gt.isa.active()
    others = [name for name in gt.isa.supported() if name != here]
    if not others:
        pytest.skip("one instruction set only")
    gt.sweep(**EXACT, store=store)
    try:
        gt.isa.use(others[0])
        with pytest.raises(ValueError, match=f"^store: .*instruction set {others[0]}, got {here}"):
            gt.sweep(**EXACT, store=store)
        mixed = gt.sweep(**{**EXACT, "gain": [*GAINS, 3.0]}, store=store, mixed=True)
        assert mixed.isa == tuple(sorted([here, others[0]]))
        assert mixed.drawn == 40
    finally:
        gt.isa.use(here)


def test_another_precision_is_refused_unless_mixed(tmp_path):
    gt.sweep(**EXACT, store=tmp_path / "s")
    with gt.precision("high"):
        with pytest.raises(ValueError, match=r"^store: .*precision high, got highest"):
            gt.sweep(**EXACT, store=tmp_path / "s")
        assert gt.sweep(**EXACT, store=tmp_path / "s", mixed=True).drawn == 0


@pytest.mark.parametrize("name", ["format", "generator"])
def test_another_version_is_refused(name, tmp_path):
    gt.sweep(**EXACT, store=tmp_path / "s")
    manifest = tmp_path / "s" / "sweep.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(facts | {name: 99}))
    with pytest.raises(ValueError, match=rf"^store: expected {name} .*, got 99; use another folder"):
        gt.sweep(**EXACT, store=tmp_path / "s", mixed=True)


def test_what_killed_processes_left_is_taken_away(tmp_path):
    store = tmp_path / "s"
    gt.sweep(**EXACT, store=store)
    old, new = store / f".{'a' * 36}.{'0' * 16}.part", store / f".{'b' * 36}.{'0' * 16}.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 1e6,) * 2)
    assert gt.sweep(**EXACT, store=store).drawn == 0
    assert not old.exists()
    assert new.exists()


def test_a_lost_manifest_is_written_again(tmp_path):
    gt.sweep(**EXACT, store=tmp_path / "s")
    manifest = tmp_path / "s" / "sweep.json"
    before = manifest.read_text()
    manifest.write_text("{")
    assert gt.sweep(**EXACT, store=tmp_path / "s").drawn == 0
    assert manifest.read_text() == before


def test_sweeps_that_begin_at_once_share_a_new_folder(tmp_path):
    small = {"width": 2, "depth": 1, "networks": 3, "samples": 1, "progress": False}
    alone = gt.sweep(**small)
    with ThreadPoolExecutor(4) as pool:
        for turn in range(20):
            at_once = threading.Barrier(4)

            def begin(store=tmp_path / str(turn), at_once=at_once):
                at_once.wait()
                return gt.sweep(**small, store=store)

            assert all(one.result() == alone for one in [pool.submit(begin) for _ in range(4)])


def test_folders_that_are_no_store_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"^store: expected an empty folder or a store of sweeps"):
        gt.sweep(**EXACT, store=tmp_path)
    with pytest.raises(ValueError, match=r"^store: expected a folder, got the file"):
        gt.sweep(**EXACT, store=tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"^store: expected a folder that exists"):
        gt.sweep(**EXACT, store=tmp_path / "no" / "such")
    with pytest.raises(TypeError, match=r"^store: "):
        gt.sweep(**EXACT, store=3)


def test_executors_that_are_none_are_refused():
    with pytest.raises(TypeError, match=r"^executor: expected an object with submit"):
        gt.sweep(**EXACT, executor=4)
