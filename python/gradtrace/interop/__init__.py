"""Networks from elsewhere: PyTorch modules, state dicts, safetensors, ONNX; and as PyTorch modules."""

from gradtrace.interop.files import load
from gradtrace.interop.torch_build import to_torch
from gradtrace.interop.torch_modules import from_torch

__all__ = ["from_torch", "load", "to_torch"]
