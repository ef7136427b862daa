"""Entry of the command ``gradtrace`` and of ``python -m gradtrace``: the extra that it needs may be missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; one clear line and exit status 2 where its extra is not installed."""
    try:
        from gradtrace.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "gradtrace":
            raise
        sys.stderr.write(f"gradtrace: the command line needs {error.name}; pip install 'gradtrace[cli]'\n")
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
