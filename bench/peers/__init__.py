"""The same traces in NumPy, PyTorch and JAX; `python -m bench.peers`."""
