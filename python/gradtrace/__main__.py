"""Entry of the command ``gradtrace`` and of ``python -m gradtrace``: the extra that it needs may be missing."""

from __future__ import annotations

import sys

from gradtrace import start
from gradtrace.cli.streams import OutputError, give_up_output, prepare_streams

_LOST = 1


def main() -> None:
    """Run the command line and exit.

    The status is 0, 2 on bad input, 130 on Ctrl-C, and 1 where the output cannot be written: in silence where its
    reader has gone.
    """
    status = start.INTERRUPTED
    try:
        try:
            prepare_streams()
            status = _run()
        finally:
            start.leave_on_interrupts()
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        status = _LOST
        give_up_output()
    except OutputError as error:
        status = _LOST
        give_up_output()
        sys.stderr.write(f"gradtrace: the output cannot be written; {error.strerror}\n")
    start.leave_on_interrupts()
    sys.exit(status)


def _run() -> int:
    try:
        from gradtrace.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "gradtrace":
            raise
        sys.stderr.write(f"gradtrace: the command line needs {error.name}; pip install 'gradtrace[cli]'\n")
        return 2
    start.hear_interrupts()
    try:
        run()
    except SystemExit as done:
        sys.stdout.flush()  # here, where it can still be said that it does not work
        return done.code if isinstance(done.code, int) else 0
    return 0


if __name__ == "__main__":
    main()
