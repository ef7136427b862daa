"""Makes tests/exported.zip: small ONNX files of exporters that the tests do not install, with their sources' outputs.

Each part runs in an environment of its own and adds its files to the archive:

    python tools/export_files.py torch      # torch, onnxscript: the newer exporter
    python tools/export_files.py sklearn    # scikit-learn, skl2onnx
    python tools/export_files.py keras      # keras, torch, onnxscript; KERAS_BACKEND=torch
    python tools/export_files.py tensorflow # tensorflow-cpu, tf2onnx
"""

import io
import json
import os
import sys
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ARCHIVE = ROOT / "tests" / "exported.zip"


def data(name, shape, tokens=0):
    """Give the data of a case, the same in the tests."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return generator.integers(0, tokens, shape) if tokens else generator.standard_normal(shape).astype("float32")


class Archive:
    """What one part of this tool adds."""

    def __init__(self, part, versions):
        self.part, self.versions, self.files, self.cases = part, versions, {}, []

    def add(self, name, model, y, shape, **facts):
        """Add a model, its source's outputs on the case's data, and what it must give."""
        name = f"{self.part}/{name}"
        self.files[f"{name}.onnx"] = stripped(model)
        self.files[f"{name}.y"] = np.ascontiguousarray(y, "<f4").tobytes()
        facts = {key: value for key, value in facts.items() if value}
        self.cases.append({"name": name, "shape": list(shape), "outputs": list(np.shape(y)), **facts})

    def write(self):
        """Write the archive anew: other parts' files stay."""
        manifest = {"versions": {}, "cases": []}
        kept = {}
        if ARCHIVE.exists():
            with zipfile.ZipFile(ARCHIVE) as old:
                manifest = json.loads(old.read("manifest.json"))
                kept = {
                    one: old.read(one) for one in old.namelist() if not one.startswith((self.part + "/", "manifest"))
                }
        manifest["versions"][self.part] = self.versions
        manifest["cases"] = [
            one for one in manifest["cases"] if not one["name"].startswith(self.part + "/")
        ] + self.cases
        kept |= self.files | {"manifest.json": json.dumps(manifest, indent=0, sort_keys=True).encode()}
        with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for one in sorted(kept):
                archive.writestr(zipfile.ZipInfo(one, (2000, 1, 1, 0, 0, 0)), kept[one], zipfile.ZIP_DEFLATED, 9)
        print(f"{self.part}: {len(self.cases)} files, {ARCHIVE.stat().st_size} bytes in all")


def stripped(model):
    """Take out what no reader needs: traces of the exporter's own source, types in between."""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]
    del model.graph.value_info[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    return model.SerializeToString()


def versions(*names):
    from importlib.metadata import version

    return {name: version(name) for name in names}


def torch_files():
    """Put the cases of the tests through PyTorch's newer exporter."""
    import onnx
    import torch

    sys.path.insert(0, str(ROOT / "tests"))
    from exported_models import torch_cases

    archive = Archive("torch", versions("torch", "onnx", "onnxscript"))
    for case in torch_cases():
        if not case.newer:
            continue
        torch.manual_seed(zlib.crc32(case.name.encode()))
        module, x = case.make().eval(), torch.from_numpy(data(f"torch/{case.name}", case.shape, case.tokens))
        if case.name == "double":
            x = x.double()
        program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
        buffer = io.BytesIO()
        program.save(buffer)
        with torch.no_grad():
            y = module(x)
        y = y[0] if isinstance(y, tuple) else y
        facts = {"place": case.place, "end": case.end, "tokens": case.tokens, "refused": case.refused}
        archive.add(case.name, onnx.load_from_string(buffer.getvalue()), y.numpy(), case.shape, **facts)
    archive.write()


def sklearn_files():
    """Classifiers, regressors and pipelines with a scaler in front."""
    from skl2onnx import to_onnx
    from sklearn import linear_model, preprocessing
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline

    archive = Archive("sklearn", versions("scikit-learn", "skl2onnx", "onnx"))
    r = np.random.default_rng(0)
    x = (r.standard_normal((60, 4)) * 3 + 1).astype("float32")
    two, three, values = (x[:, 0] > 1).astype(int), np.digitize(x[:, 1], [0, 2]), x @ r.standard_normal(4)
    small = {"hidden_layer_sizes": (5, 4), "max_iter": 30, "random_state": 0}

    def add(name, model, y, end="", **options):
        model.fit(x, y)
        given = data(f"sklearn/{name}", (6, 4))
        out = model.predict_proba(given) if hasattr(model, "predict_proba") else model.predict(given).reshape(6, -1)
        archive.add(name, to_onnx(model, x[:1], **options), out, given.shape, end=end)

    scalers = [
        preprocessing.StandardScaler(),
        preprocessing.MinMaxScaler(),
        preprocessing.MaxAbsScaler(),
        preprocessing.RobustScaler(),
    ]
    for name in ("relu", "tanh", "logistic", "identity"):
        add(f"regressor-{name}", MLPRegressor(activation=name, **small), values)
        add(f"classifier-{name}", MLPClassifier(activation=name, **small), three, "softmax")
        add(f"binary-{name}", MLPClassifier(activation=name, **small), two, "classifier")
    for scaler in scalers:
        kind = type(scaler).__name__
        add(f"{kind}-classifier", make_pipeline(scaler, MLPClassifier(**small)), three, "softmax")
        add(f"{kind}-regressor", make_pipeline(scaler, MLPRegressor(**small)), values)
    add("two-values", MLPRegressor(**small), np.stack([values, values * 2], 1))
    add("arrays", MLPClassifier(**small), three, "softmax", options={"zipmap": False})
    add("columns", MLPClassifier(**small), three, "softmax", options={"zipmap": "columns"})
    add("words", MLPClassifier(**small), three.astype(str), "softmax")
    add("many-labels", MLPClassifier(**small), np.stack([two, x[:, 2] > 1], 1).astype(int), options={"zipmap": False})
    add("linear", linear_model.LinearRegression(), values)
    add("ridge", linear_model.Ridge(), np.stack([values, values * 2], 1))
    for opset in (9, 11, 13, 15, 17, 19):
        target = {"": opset, "ai.onnx.ml": 1 if opset < 13 else 3}
        add(f"opset-{opset}", make_pipeline(scalers[0], MLPClassifier(**small)), three, "softmax", target_opset=target)
    archive.write()


KERAS_ACTIVATIONS = ("relu", "tanh", "sigmoid", "selu", "elu", "softplus", "silu", "leaky_relu", "hard_tanh", "linear")


def keras_models(keras):
    """Give name, model, shape, end, place, refusal of what Keras' users export."""
    layers, sequential = keras.layers, keras.Sequential

    def mlp(*between, shape=(5,), last=None):
        return sequential([layers.Input(shape), *between, layers.Dense(3, last)])

    for kind in KERAS_ACTIVATIONS:
        yield f"mlp-{kind}", mlp(layers.Dense(6, kind), layers.Dense(6, kind)), (5,), "", "", ""
    yield "softmax", mlp(layers.Dense(6, "relu"), last="softmax"), (5,), "softmax", "", ""
    yield "sigmoid", mlp(layers.Dense(6, "relu"), last="sigmoid"), (5,), "", "", ""
    exact = layers.Activation(lambda z: keras.activations.gelu(z, approximate=False))
    yield "gelu", mlp(layers.Dense(6), exact), (5,), "", "", ""
    form = layers.Activation(lambda z: keras.activations.gelu(z, approximate=True))
    yield "gelu-tanh", mlp(layers.Dense(6), form), (5,), "", "", "no activation of gradtrace"
    yield "relu6", mlp(layers.Dense(6, "relu6")), (5,), "", "", "no activation of gradtrace"
    yield "leaky-03", mlp(layers.Dense(6), layers.LeakyReLU(0.3)), (5,), "", "", ""
    yield "elu-05", mlp(layers.Dense(6), layers.ELU(0.5)), (5,), "", "", ""
    yield "layernorm", mlp(layers.Dense(6), layers.LayerNormalization(), layers.ReLU()), (5,), "", "", ""
    yield "layernorm-behind", mlp(layers.Dense(6, "relu"), layers.LayerNormalization()), (5,), "", "", ""
    yield "batchnorm", mlp(layers.Dense(6), layers.BatchNormalization(), layers.ReLU()), (5,), "", "", ""
    yield (
        "batchnorm-behind",
        mlp(layers.Dense(6, "relu"), layers.BatchNormalization(), layers.Dropout(0.5)),
        (5,),
        "",
        "",
        "",
    )
    yield (
        "flatten",
        mlp(layers.Rescaling(1 / 255.0), layers.Flatten(), layers.Dense(6, "relu"), shape=(3, 4, 1)),
        (3, 4, 1),
        "",
        "",
        "",
    )
    known = layers.Normalization(mean=np.arange(5.0), variance=np.arange(5.0) + 1)
    yield "normalization", mlp(known, layers.Dense(6, "tanh")), (5,), "", "", ""
    yield "rank-3", mlp(layers.Dense(6, "tanh"), shape=(7, 5)), (7, 5), "", "", ""


def keras_recurrent(keras):
    """Give recurrent models, of which TensorFlow's exporter makes LSTM, GRU and RNN nodes."""
    layers, sequential = keras.layers, keras.Sequential
    for kind in ("GRU", "SimpleRNN"):  # of Keras 3, tf2onnx makes LSTM nodes only
        loop = [layers.Input((7, 4)), getattr(layers, kind)(5), layers.Dense(3)]
        yield f"{kind.lower()}-loop", sequential(loop), (7, 4), "", "last", "that holds a graph"
    for units in (5, 6):
        cell, name = layers.LSTM, f"lstm-{units}"
        yield f"{name}-head", sequential([layers.Input((7, 4)), cell(units), layers.Dense(3)]), (7, 4), "", "last", ""
        yield (
            f"{name}-all",
            sequential([layers.Input((7, 4)), cell(units, return_sequences=True)]),
            (7, 4),
            "",
            "all",
            "",
        )
        stacked = [layers.Input((7, 4)), cell(6, return_sequences=True), cell(units), layers.Dense(3, "softmax")]
        yield f"{name}-stacked", sequential(stacked), (7, 4), "softmax", "last", ""
        both = [layers.Input((7, 4)), layers.Bidirectional(cell(units)), layers.Dense(3)]
        yield f"{name}-both", sequential(both), (7, 4), "", "last", ""


def randomised(model):
    """Move weights and statistics away from what an untrained model has."""
    r = np.random.default_rng(0)
    for variable in model.variables:
        if "seed" in variable.name or "count" in variable.name:
            continue
        value = variable.numpy() if hasattr(variable, "numpy") else np.asarray(variable.value.detach())
        if variable.name.endswith(("variance", "gamma")):
            variable.assign(r.uniform(0.5, 1.5, value.shape))
        elif variable.name.endswith(("bias", "beta", "mean")):
            variable.assign(0.3 * r.standard_normal(value.shape))
    return model


def keras_files():
    """Keras' own export, on PyTorch."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import onnx

    archive = Archive("keras", versions("keras", "torch", "onnx"))
    for name, model, shape, end, place, refused in keras_models(keras):
        x = data(f"keras/{name}", (2, *shape))
        y = np.asarray(randomised(model).predict(x, verbose=0))
        model(x)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.onnx"
            options = {"opset_version": 18} if name.startswith("layernorm") else {}
            try:
                model.export(str(path), format="onnx", verbose=False, **options)
            except Exception as error:  # what this version of Keras does not export is no case
                print(name, type(error).__name__, str(error)[:100])
                continue
            archive.add(name, onnx.load(str(path)), y, x.shape, end=end, place=place, refused=refused)
    archive.write()


def tensorflow_files():
    """Keras on TensorFlow through tf2onnx."""
    import keras
    import tensorflow
    import tf2onnx

    archive = Archive("tensorflow", versions("tensorflow-cpu", "keras", "tf2onnx", "onnx"))
    for name, model, shape, end, place, refused in [*keras_models(keras), *keras_recurrent(keras)]:
        if name in ("gelu", "normalization"):  # exact gelu has no operator there, constants become inputs
            continue
        x = data(f"tensorflow/{name}", (2, *shape))
        y = np.asarray(randomised(model).predict(x, verbose=0))
        function = tensorflow.function(
            lambda x, model=model: model(x), input_signature=[tensorflow.TensorSpec((None, *shape), "float32")]
        )
        try:
            made, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=15)
        except Exception as error:  # what this version of tf2onnx does not export is no case
            print(name, type(error).__name__, str(error)[:100])
            continue
        archive.add(name, made, y, x.shape, end=end, place=place, refused=refused)
    archive.write()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"torch": torch_files, "sklearn": sklearn_files, "keras": keras_files, "tensorflow": tensorflow_files}[
        sys.argv[1]
    ]()
