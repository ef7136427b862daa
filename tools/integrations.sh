#!/usr/bin/env bash
# The tests against the real TensorBoard, W&B, MLflow, Lightning and transformers, in an environment of their own under
# build/, made anew: the extra `integrations` is in no other. Options of pip for PyTorch's CPU build go into TORCH_PIP,
# arguments to pytest. W&B runs offline; nothing is sent anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
place=build/integrations
rm -rf "$place"
python3 -m venv "$place"
python=$place/bin/python
"$python" -m pip install -q ${TORCH_PIP:-} 'torch==2.13.0' numpy
"$python" -c 'import torch; assert torch.version.cuda is None, "expected the CPU build of PyTorch; see TORCH_PIP"'
# Both names of Lightning, and the other SummaryWriter, are tested too.
"$python" -m pip install -q '.[integrations]' pytorch-lightning tensorboardX pytest hypothesis mpmath
"$python" -m pip list | grep -iE '^(torch|tensorboard|tensorboardX|wandb|mlflow|lightning|pytorch-lightning|transformers|accelerate) '
MLFLOW_DISABLE_TELEMETRY=true PYTHONDONTWRITEBYTECODE=1 \
    "$python" -m pytest -v -p no:cacheprovider tests/test_integrations_*.py "$@"
