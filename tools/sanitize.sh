#!/usr/bin/env bash
# The tests over a core built with a sanitizer: `tools/sanitize.sh address` (with undefined behaviour) or
# `tools/sanitize.sh thread`, then what pytest is to run (all tests; the tests of threads). PYTHON names an environment
# with the extra `test`, .venv's unless it is set; an editable gradtrace in it would be taken instead. What the sanitizer
# reports ends the run and is printed.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:?address or thread}
shift
case $kind in
    address)
        flags="-fsanitize=address,undefined -fno-sanitize-recover=all"
        libraries="libasan.so libubsan.so"
        tests=(tests)
        # Python keeps what it allocates until it ends, and leaks of other libraries are not ours to mend.
        export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
        export UBSAN_OPTIONS=print_stacktrace=1
        ;;
    thread)
        flags="-fsanitize=thread"
        libraries="libtsan.so"
        tests=(tests/test_stack_threads.py tests/test_recurrent_threads.py)
        export OPENBLAS_NUM_THREADS=1  # its threads are not built with the sanitizer, which sees none of their locks
        export TSAN_OPTIONS="halt_on_error=1:suppressions=$PWD/tools/tsan.supp"
        ;;
    *)
        echo "expected address or thread, got $kind" >&2
        exit 2
        ;;
esac
[ $# -gt 0 ] && tests=("$@")
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
# Lines of code stand in the report.
CXXFLAGS="$flags -fno-omit-frame-pointer -g1" LDFLAGS="$flags" "$python" -m pip install -q --no-deps --upgrade \
    --target "build/sanitizers/$kind/site" --config-settings=build-dir="build/sanitizers/$kind/objects" ${SANITIZE_PIP:-} .
preload=$(for library in $libraries; do ${CXX:-c++} -print-file-name="$library"; done | paste -sd ' ')
PYTHONPATH=$PWD/build/sanitizers/$kind/site LD_PRELOAD=$preload PYTHONDONTWRITEBYTECODE=1 \
    "$python" -m pytest -s -q -p no:cacheprovider "${tests[@]}"  # -s: reports are written past pytest
