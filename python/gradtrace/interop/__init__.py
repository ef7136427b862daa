"""Networks from elsewhere: PyTorch modules, state dicts, ONNX; and a watch over any PyTorch model."""

from gradtrace.interop.files import load
from gradtrace.interop.torch_modules import from_torch
from gradtrace.interop.watch import Watch, watch

__all__ = ["Watch", "from_torch", "load", "watch"]
