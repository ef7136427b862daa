"""What can happen to a file: bytes flipped, cut, repeated, swapped; sizes replaced; archives put together anew."""

import io
import json
import struct
import warnings
import zipfile

import numpy as np

SIZES = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 1 << 20, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
WORDS = (
    ",", ";", "\t", "\n", "\r", '"', "'", "\\", "\x00", " ", "nan", "NaN", "inf", "-inf", "1e309", "1e308",
    "-1e308", "1e-320", "1_000", "0x10", "-", "9" * 400, "9" * 19, "\xe9", "\ufeff", "\u0661", "None", "True",
    "x", "(", ")", "[", "]", "{", "}", ":", "<f8", ">f4", "|O", "<U3", "|b1", "L", "(0,)", "(1,)", "(2, 3)",
    "()", "null", "1.5", '"\\ud800"', "a,b,c\n",
)  # fmt: skip
FACTS = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    7.5,
    "",
    "x",
    "tanh",
    "all",
    [],
    [1],
    ["relu"],
    {},
    10**30,
    10**9,
    2**61,
    [[]],
    1e308,
    "float64",
)


def mutated(data, generator, text=False):
    """Give other bytes: one to four changes, most near the head, where sizes are, or the end, where archives begin.

    Text stays text in most cases.
    """
    changes = TEXT_CHANGES if text and generator.random() < 0.8 else CHANGES
    changed = bytearray(data)
    while bytes(changed) == data or not changed:
        changed = bytearray(data)
        for _ in range(min(int(generator.geometric(0.6)), 4)):
            at, other = (int(i) for i in generator.integers(0, len(changed) + 1, 2))
            where = generator.random()
            if where < 0.4:
                at %= 400
            elif where < 0.7:
                at = max(len(changed) - at % 200, 0)
            changes[int(generator.integers(len(changes)))](changed, at, other, generator)
            if not changed:
                break
    return bytes(changed)


def flip(data, at, other, generator):
    if data:
        data[at % len(data)] ^= 1 << int(generator.integers(8))


def write_byte(data, at, other, generator):
    if data:
        data[at % len(data)] = int(generator.integers(256))


def write_bytes(data, at, other, generator):
    data[at : at + 8] = generator.bytes(8)


def cut(data, at, other, generator):
    if generator.random() < 0.3:
        del data[at:]


def cut_out(data, at, other, generator):
    del data[at : at + int(generator.integers(1, 64))]


def repeat(data, at, other, generator):
    data[at:at] = data[other : other + int(generator.integers(1, 256))]


def swap(data, at, other, generator):
    size = int(generator.integers(1, 32))
    data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]


def write_size(data, at, other, generator):
    width = int(generator.choice([1, 2, 4, 8]))
    size = SIZES[int(generator.integers(len(SIZES)))] % (1 << 8 * width)
    data[at : at + width] = struct.pack("<Q", size)[:width]


def write_word(data, at, other, generator):
    word = WORDS[int(generator.integers(len(WORDS)))].encode()
    data[at : at + (len(word) if generator.random() < 0.5 else 0)] = word


CHANGES = (flip, write_byte, write_bytes, cut, cut_out, repeat, swap, write_size, write_word)


def write_cell(data, at, other, generator):
    """Put a word in the place of a cell of a table."""
    ends = [i for i, byte in enumerate(data) if byte in b",;\t\n"]
    if len(ends) > 1:
        cell = at % (len(ends) - 1)
        word = WORDS[int(generator.integers(len(WORDS)))]
        data[ends[cell] + 1 : ends[cell + 1]] = word.translate(dict.fromkeys(map(ord, ',;\t\n"'))).encode()


TEXT_CHANGES = (cut, cut_out, repeat, swap, write_word, *[write_cell] * 4)


# ---- archives whose checksums fit: what they hold is another thing


def reassembled(data, generator):
    """Give an archive of changed members, checksums and all."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at, other = (int(i) for i in generator.integers(0, len(members), 2))
    REASSEMBLIES[int(generator.integers(len(REASSEMBLIES)))](members, at, other, generator)
    file = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if generator.random() < 0.5 else zipfile.ZIP_STORED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that stands twice is what we want
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, content in members:
                archive.writestr(name, content)
    return file.getvalue()


def change_member(members, at, other, generator):
    members[at] = (members[at][0], mutated(members[at][1], generator))


def drop_member(members, at, other, generator):
    del members[at]


def rename_member(members, at, other, generator):
    names = (members[other][0], "x.npy", "", "../x.npy", members[at][0] + "x", members[at][0].upper())
    members[at] = (names[int(generator.integers(len(names)))] or "y.npy", members[at][1])


def exchange_members(members, at, other, generator):
    members[at], members[other] = (members[at][0], members[other][1]), (members[other][0], members[at][1])


def reshape_member(members, at, other, generator):
    name, content = members[at]
    array = np.load(io.BytesIO(content))
    dtypes = ("f2", "f4", "f8", ">f8", "i4", "i8", "u1", "?", "c8", "U3", "S2", "M8[s]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = (array, array[None], array[..., None], array.reshape(-1), array.reshape(-1)[:1], array.reshape(-1)[:0])
        new = shapes[int(generator.integers(len(shapes)))]
        if generator.random() < 0.5 and array.dtype.kind in "fiub":
            values = (
                new if generator.random() < 0.5 else generator.choice([np.nan, np.inf, -np.inf, 0, 1e308], new.shape)
            )
            new = np.nan_to_num(values).astype(dtypes[int(generator.integers(len(dtypes)))])
        elif array.dtype.kind == "f":
            new = generator.choice([np.nan, np.inf, -np.inf, 0, 1e308, -1e308, 1e-300], array.shape).astype(array.dtype)
    file = io.BytesIO()
    np.save(file, new)
    members[at] = (name, file.getvalue())


def change_facts(members, at, other, generator):
    """Replace a fact of a saved trace by another value; another member of an archive that has none."""
    places = [i for i, (name, _) in enumerate(members) if name.endswith("facts.json.npy")]
    if not places:
        return reshape_member(members, at, other, generator)
    name, content = members[places[at % len(places)]]
    facts = json.loads(str(np.load(io.BytesIO(content))))
    key = sorted(facts)[int(generator.integers(len(facts)))]
    value = FACTS[int(generator.integers(len(FACTS)))]
    if isinstance(facts[key], list) and facts[key] and generator.random() < 0.5:
        facts[key][int(generator.integers(len(facts[key])))] = value
    elif generator.random() < 0.2:
        del facts[key]
    else:
        facts[key] = value
    file = io.BytesIO()
    np.save(file, np.array(json.dumps(facts)))
    members[places[at % len(places)]] = (name, file.getvalue())
    return None


REASSEMBLIES = (change_member, drop_member, rename_member, exchange_members, reshape_member, change_facts)


# ---- graphs that parse: what they say is another thing

OPERATORS = (
    "Gemm", "MatMul", "Add", "Tanh", "Relu", "LeakyRelu", "Softplus", "Identity", "Reshape", "Flatten", "Squeeze",
    "Transpose", "LSTM", "GRU", "RNN", "Constant", "Cast", "Softmax", "Mul", "Sub", "Div", "Sigmoid", "Erf", "Clip",
    "LayerNormalization", "Slice", "Concat", "Gather", "Shape", "Loop", "If", "Unknown", "",
)  # fmt: skip


def rewired(data, generator):
    """Give an ONNX model of one to three changes that its format allows."""
    import onnx

    model = onnx.load_model_from_string(data)
    for _ in range(int(generator.integers(1, 4))):
        REWIRINGS[int(generator.integers(len(REWIRINGS)))](model.graph, generator)
    return model.SerializeToString()


def one_of(entries, generator):
    return entries[int(generator.integers(len(entries)))] if len(entries) else None


def change_operator(graph, generator):
    if (node := one_of(graph.node, generator)) is not None:
        node.op_type = one_of(OPERATORS, generator)


def change_name(graph, generator):
    names = [name for node in graph.node for name in (*node.input, *node.output)] + ["", "x", "none"]
    if (node := one_of(graph.node, generator)) is not None:
        wires = one_of((node.input, node.output), generator)
        if len(wires):
            wires[int(generator.integers(len(wires)))] = one_of(names, generator)


def change_attribute(graph, generator):
    import onnx

    if (node := one_of(graph.node, generator)) is None:
        return
    names = ["transA", "transB", "alpha", "beta", "axis", "axes", "direction", "hidden_size", "layout", "activations"]
    values = (0, 1, -1, 2**62, 0.5, float("nan"), "bidirectional", [0], [1, 2], ["Tanh"], ["Relu"] * 2, [2**40], "x")
    names += [attribute.name for attribute in node.attribute]
    node.attribute.append(onnx.helper.make_attribute(one_of(names, generator), one_of(values, generator)))


def change_tensor(graph, generator):
    if (tensor := one_of(graph.initializer, generator)) is None:
        return
    choice = generator.integers(4)
    if choice == 0:
        tensor.data_type = int(generator.integers(0, 25))
    elif choice == 1:
        del tensor.dims[:]
        tensor.dims.extend(SIZES[int(i)] % 2**63 for i in generator.integers(0, len(SIZES), generator.integers(0, 5)))
    elif choice == 2 and len(tensor.raw_data):
        tensor.raw_data = mutated(tensor.raw_data, generator)
    else:
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", one_of(("m.onnx", "../m", "/dev/zero", "none", ""), generator)
        tensor.data_location = 1


def change_input(graph, generator):
    if (value := one_of(graph.input, generator)) is not None:
        shape = value.type.tensor_type.shape
        if len(shape.dim):
            one_of(shape.dim, generator).dim_value = SIZES[int(generator.integers(len(SIZES)))] % 2**63


def drop_part(graph, generator):
    parts = one_of((graph.node, graph.initializer, graph.input, graph.output), generator)
    if len(parts):
        del parts[int(generator.integers(len(parts)))]


def repeat_part(graph, generator):
    parts = one_of((graph.node, graph.initializer), generator)
    if len(parts):
        parts.append(one_of(parts, generator))


REWIRINGS = (
    change_operator, change_name, change_attribute, change_tensor, change_tensor, change_input, drop_part, repeat_part,
)  # fmt: skip
