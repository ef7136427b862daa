"""The command ``gradtrace``."""
