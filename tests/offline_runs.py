"""Runs of W&B that were never sent: their files, read with its own messages."""

import json
import struct


def records(path):
    """Give the records of a file of a run: a log of blocks of 32 KiB, whose records may go over several."""
    data, at, parts = path.read_bytes(), 7, []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 0 < -at % 32768 < 7:  # no room for a header: padding
            at += -at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield b"".join(parts)
            parts = []


def read_offline(folder):
    """Give the rows of a run, and the definitions of its metrics."""
    from wandb.proto import wandb_internal_pb2

    rows, metrics = [], {}
    (path,) = folder.rglob("run-*.wandb")
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append(items | {"_step": record.history.step.num})
        if record.WhichOneof("record_type") == "metric":
            metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    return rows, metrics
