"""Where people already look: a watch's figures in TensorBoard, W&B and MLflow, Lightning and Hugging Face.

`gradtrace.watch.Watch.log_to` writes to any of them; the callbacks open a watch and close it with the training. None of
these libraries is imported before it is asked for.
"""

from gradtrace.integrations.lightning_callback import LightningCallback
from gradtrace.integrations.trainer_callback import TrainerCallback

__all__ = ["LightningCallback", "TrainerCallback"]
