"""Fuzzers of our own: `files` mutates what readers take, `api` what calls take; each gives the seed of a finding."""

import os
import re
import resource

#: A sanitizer's own map of the memory takes terabytes of addresses, and it tells of every allocation that it refuses.
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
_REFUSALS = re.compile(r"^==\d+==WARNING: AddressSanitizer failed to allocate 0x[0-9a-f]+ bytes\n", re.MULTILINE)


def limit_memory(size):
    """Let this process map so many bytes; not under a sanitizer."""
    if not SANITIZED:
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def printed(text):
    """Give what a child wrote to the standard error but for what a sanitizer says of refused allocations."""
    return _REFUSALS.sub("", text) if SANITIZED else text
