"""Networks from elsewhere: PyTorch modules, state dicts, safetensors, ONNX."""

from gradtrace.interop.files import load
from gradtrace.interop.torch_modules import from_torch

__all__ = ["from_torch", "load"]
