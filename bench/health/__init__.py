"""Health by training: networks drawn by seed, trained in PyTorch, and what the diagnosis said of them beforehand."""
