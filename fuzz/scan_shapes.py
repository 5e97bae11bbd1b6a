"""Fuzzer for the scan of untrusted ONNX files: compares the shapes that it derives with those of onnxruntime.

    python fuzz/scan_shapes.py [--graphs 20000] [--seed 0] [--nodes 8] [--first 0] [--smoke] [--json]

A random graph grows node by node from the operators that the scan accepts. Inputs and attributes come from the ONNX
schema of the operator, so the generator shares no table with the scan. onnxruntime runs the graphs that the scan
accepts, without optimization, and must compute tensors with the type, shape and integer values that the scan derived. A
graph depends only on the seed and its number: `--first N --graphs 1` repeats graph N. The fuzzer needs onnx and Linux.
The exit status is 1 if the scan and onnxruntime differ.
"""

import argparse
import dataclasses
import functools
import json
import math
import multiprocessing
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx.defs
import onnxruntime as ort
from onnx import NodeProto, helper, numpy_helper

from cvae.conditions import label_condition
from cvae.runtime.scan import graph as scanner
from cvae.runtime.scan.operators import OPERATORS
from cvae.spec import KEY, Spec

BATCH = 7
"""Batch size with which onnxruntime runs a graph."""

MAX_ELEMENTS = 2**20
"""Maximum number of values in all tensors of a graph, at batch size 1."""

MAX_MEMORY = 2**32
"""Address space of a process that runs onnxruntime, in bytes."""

CHUNK = 500
"""Maximum number of graphs per process."""

SMOKE_GRAPHS = 300
"""Number of graphs with --smoke."""

FLOAT, INT64, BOOL, HALF = 1, 7, 9, 10
DTYPES = {FLOAT: "float32", INT64: "int64", BOOL: "bool", HALF: "float16"}
SIDES = (1, 1, 2, 2, 3, 4, 4, 5, 6, 8, 9)  # never the batch size, so that a side can't be mistaken for it
INTS = (-3, -2, -1, 0, 1, 2, 3, 4, 7, 8, 16, 2**31, 2**63 - 1, -(2**63))
FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-5, 1e30, math.nan, math.inf, -math.inf)
STRINGS = {
    "auto_pad": "NOTSET SAME_UPPER SAME_LOWER VALID",
    "DepthToSpace.mode": "DCR CRD",
    "Gelu.approximate": "none tanh",
    "Pad.mode": "constant reflect edge wrap",
    "Resize.mode": "nearest linear cubic",
    "Resize.nearest_mode": "round_prefer_floor round_prefer_ceil floor ceil simple",
    "Resize.keep_aspect_ratio_policy": "stretch not_larger not_smaller",
    "Resize.coordinate_transformation_mode": "half_pixel half_pixel_symmetric pytorch_half_pixel align_corners "
    "asymmetric tf_crop_and_resize tf_half_pixel_for_nn",
}
"""Values of string attributes, as documented by ONNX or onnxruntime."""

RANKS = {"Gemm": 2, "Conv": 4, "ConvTranspose": 4, "DepthToSpace": 4, "MaxPool": 4, "Resize": 4}
Report = Counter[tuple[str, str]]  # counts by kind (accepted, rejected, failed, difference, tensors) and text
schema = functools.cache(onnx.defs.get_schema)
ort.set_default_logger_severity(4)


class Graph:
    """Decoder that computes an image and contains random nodes, with the tensors that the scan derives for it."""

    def __init__(self, seed: int, number: int, report: Report) -> None:
        self.label, self.report, self.rng = f"seed {seed} graph {number}", report, random.Random(f"{seed}/{number}")
        self.opset = self.rng.choice((18, 19, 20, 20, 20, 20))
        self.latent, *self.image = self.rng.choices(SIDES[:-2], k=4)
        self.classes = tuple("abcde"[: self.rng.randint(1, 5)]) if self.rng.random() < 0.5 else None
        required = (f.name for f in dataclasses.fields(Spec) if f.default is f.default_factory is dataclasses.MISSING)
        values: dict[str, Any] = dict.fromkeys(required, "fuzz") | {"role": "decoder", "weights": "0" * 64}
        values |= {
            "latent_dim": self.latent,
            "image_shape": tuple(self.image),
            "conditions": label_condition(self.classes),
        }
        self.spec = Spec(**values | {"likelihood": "bernoulli", "prior": "normal"})
        self.constants = {"weight": np.ones((self.latent, math.prod(self.image)), np.float32)}
        self.constants |= {"shape": np.array([-1, *self.image])}
        nodes = (("MatMul", ["noise", "weight"], ["flat"]), ("Reshape", ["flat", "shape"], ["image"]))
        self.nodes = [helper.make_node(*node) for node in nodes]
        self.tensors = scanner.infer(self.serialize(self.nodes, self.constants), self.spec)[1]

    def serialize(
        self, nodes: Sequence[NodeProto], constants: dict[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> bytes:
        """Return a file with these nodes. The outputs of its graph are `outputs`, or the image if there are none."""
        values = {"noise": (FLOAT, [self.latent]), "image": (FLOAT, self.image), "label": (INT64, [])}
        noise, image, label = (helper.make_tensor_value_info(n, t, ["batch", *s]) for n, (t, s) in values.items())
        inputs = [noise, label] if self.classes else [noise]
        results = [onnx.ValueInfoProto(name=name) for name in outputs] or [image]
        weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
        graph = helper.make_graph(nodes, "decoder", inputs, results, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        helper.set_model_props(model, {KEY: self.spec.to_json()})
        return bytes(model.SerializeToString())

    def grow(self, size: int) -> None:
        """Add nodes that the scan accepts, until there are `size` nodes or four times as many have been proposed."""
        for _ in range(4 * size):
            if len(self.nodes) >= size + 2:
                break
            proposal = Proposal(self)
            nodes, constants = [*self.nodes, *proposal.nodes], self.constants | proposal.constants
            try:
                cost, tensors = scanner.infer(self.serialize(nodes, constants), self.spec)
                if cost.elements > MAX_ELEMENTS:
                    raise ValueError("the graph is too large to run")
            except ValueError:
                self.report["rejected", proposal.operator] += 1
            except Exception as error:
                self.report["difference", f"{self.describe(proposal.nodes[-1])}: the scan raises {error!r}"] += 1
            else:
                self.report.update(("accepted", node.op_type) for node in proposal.nodes)
                self.nodes, self.constants, self.tensors = nodes, constants, tensors

    def compute(self, nodes: Sequence[NodeProto]) -> dict[str, np.ndarray]:
        """Return all tensors that onnxruntime computes."""
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level, options.enable_cpu_mem_arena = 1, 4, False
        names = [name for node in nodes for name in node.output]
        inputs = {"noise": np.ones((BATCH, self.latent), np.float32)}
        inputs |= {"label": np.arange(BATCH) % len(self.classes)} if self.classes else {}
        session = ort.InferenceSession(self.serialize(nodes, self.constants, names), options, ["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, inputs), strict=True))

    def find_problem(self, nodes: Sequence[NodeProto]) -> tuple[str, str] | None:
        """Return the kind and the description of a problem with the nodes, or None if there is none.

        The kind is "failed" if only onnxruntime rejects the nodes, and "difference" otherwise.
        """
        try:
            actual = self.compute(nodes)
        except Exception as error:  # the exceptions of onnxruntime have no common base class
            text = re.sub(r"\b[tc]\d\w*|\d+", "", re.split(" : | , |Message: ", str(error).strip())[-1])[-150:]
            too_large = re.search("MemoryError|bad_alloc|[Ff]ailed to allocate|SafeInt", repr(error))
            return "difference" if too_large else "failed", f"onnxruntime raises {type(error).__name__}: {text}"
        for tensor, array in ((self.tensors[name], array) for name, array in actual.items()):
            scanned = format_tensor(DTYPES.get(tensor.type), tensor.shape, tensor.values)
            computed = format_tensor(
                array.dtype, array.shape, None if tensor.values is None else array.ravel().tolist()
            )
            if scanned != computed:
                return "difference", f"scan {scanned}, onnxruntime {computed}"
        return None

    def check(self) -> None:
        """Compare all tensors. If there is a problem, compare node by node, and drop the nodes with a problem."""
        nodes, computed = self.nodes, {"", "noise", "label", *self.constants}
        if self.find_problem(nodes):
            nodes = []
            for node in self.nodes:
                if not computed.issuperset(node.input):  # the node that computes one of the inputs was dropped
                    continue
                if problem := self.find_problem([*nodes, node]):
                    description = self.describe(node) if problem[0] == "difference" else node.op_type
                    self.report[problem[0], f"{description}: {problem[1]}"] += 1
                else:
                    nodes.append(node)
                    computed.update(node.output)
        self.report["tensors", ""] += sum(len(node.output) for node in nodes)

    def describe(self, node: NodeProto) -> str:
        tensors = [(name, self.tensors.get(name)) for name in node.input]
        inputs = [format_tensor(DTYPES.get(t.type), t.shape, t.values) if t else name or "-" for name, t in tensors]
        inputs += [f"{a.name}={helper.get_attribute_value(a)!r}" for a in node.attribute]
        return f"{self.label}: {node.op_type}({', '.join(inputs)}) of opset {self.opset}"


def format_tensor(dtype: Any, shape: Sequence[int | None], values: Sequence[int | None] | None = None) -> str:
    sizes, numbers = ([BATCH if n is None else n for n in row or ()] for row in (shape, values))
    return f"{dtype} {sizes}" if values is None else f"{dtype} {sizes} = {numbers}"


class Proposal:
    """Node with a random operator, and the constants and helper nodes that it needs."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.rng = graph, graph.rng
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.tensors = {name: (tensor.type, tuple(tensor.shape)) for name, tensor in graph.tensors.items()}
        self.operator = self.rng.choice([op for op in sorted(OPERATORS) if op != "Gelu" or graph.opset == 20])
        self.schema = schema(self.operator, graph.opset)
        self.outputs = self.schema.min_output + (self.rng.random() < 0.02)
        inputs, attributes = self.draft_inputs() if self.rng.random() < 0.9 else (self.random_inputs(), {})
        while len(inputs) > self.schema.min_input and self.rng.random() < 0.2:
            inputs.pop()
        kinds = self.schema.attributes
        attributes = {k: value for k, value in attributes.items() if kinds[k].required or self.rng.random() < 0.65}
        if self.rng.random() < 0.1:  # drop, replace or append an input
            position = self.rng.randint(0, len(inputs))
            inputs[position : position + 1] = self.rng.choice(([], [""], self.random_inputs()[:1]))
        for name in self.rng.sample(sorted(kinds), min(len(kinds), self.rng.choice((0, 0, 0, 1, 1, 2)))):
            attributes[name] = self.random_value(name)
        self.add(self.operator, inputs, attributes, self.outputs)

    def add(self, operator: str, inputs: list[str], attributes: dict[str, Any], outputs: int = 1) -> str:
        """Append a node and return the name of its first output."""
        names = [f"t{len(self.graph.tensors)}_{len(self.nodes)}_{i}" for i in range(outputs)]
        node, kinds = helper.make_node(operator, inputs, names), schema(operator, self.graph.opset).attributes
        for name, value in attributes.items():
            node.attribute.append(helper.make_attribute(name, value, attr_type=kinds[name].type.value))
        self.nodes.append(node)
        return names[0]

    def random_value(self, name: str) -> Any:
        """Return a random value of an attribute."""
        rng, kind = self.rng, self.schema.attributes[name].type.name
        if kind == "STRING":
            return rng.choice([*STRINGS.get(name, STRINGS.get(f"{self.operator}.{name}", "")).split(), "unknown"])
        if kind == "INTS":
            mixed = rng.choices((0, 1, 1, 2, 2, 3, *INTS), k=rng.choice((1, 2, 2, 4, 4)))
            return rng.choice(([], [0] * len(mixed), [1] * len(mixed), [2] * len(mixed), mixed, mixed))
        if kind == "TENSOR":
            return numpy_helper.from_array(np.ones(rng.choice((1, 2)), rng.choice((np.float32, np.int64))))
        return rng.choice(FLOATS if kind == "FLOAT" else INTS)

    @np.errstate(all="ignore")
    def add_constant(self, array: np.ndarray) -> str:
        """Add a constant, sometimes with a wrong value, length, shape or type, and return its name."""
        name = f"c{len(self.graph.constants) + len(self.constants)}"
        self.tensors[name] = helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        if self.rng.random() < 0.03:
            flat, kinds = array.flatten(), (array.dtype, array.dtype, *DTYPES.values())
            flat[:1] = self.rng.choice(INTS)
            shapes = flat, flat[1:], np.append(flat, flat[:1]), flat[:, None], flat.reshape(array.shape), array.T
            array = self.rng.choice(shapes).astype(self.rng.choice(kinds))
        self.constants[name] = array
        return name

    def make_floats(self, *shape: int | None, like: str = "") -> str:
        """Return an existing tensor or a new constant of this shape, with the type of the tensor `like`, if any."""
        kind = self.tensors[like][0] if like else self.rng.choice((FLOAT, FLOAT, FLOAT, FLOAT, HALF))
        names = [name for name, tensor in self.tensors.items() if tensor == (kind, shape)]
        if names and self.rng.random() < 0.5:
            return self.rng.choice(names)
        return self.add_constant(np.full([size or 1 for size in shape], self.rng.choice((0.5, 1, 2)), DTYPES[kind]))

    def make_ints(self, *values: int) -> str:
        return self.add_constant(np.array(values, np.int64))

    def random_inputs(self) -> list[str]:
        new = self.choose_tensor(), self.make_ints(*self.rng.choices(INTS, k=self.rng.randint(1, 5)))
        count = self.rng.randint(self.schema.min_input, min(self.schema.max_input, 4))
        return self.rng.choices([*new, *self.rng.choices(sorted(self.tensors), k=3)], k=count)

    def choose_tensor(self, rank: int | None = None) -> str:
        """Return a computed tensor of floats or a new constant."""
        ranks, floats = range(9) if rank is None else (rank,), (FLOAT, HALF)
        names = [n for n, (t, shape) in self.tensors.items() if n[0] != "c" and t in floats and len(shape) in ranks]
        if names and self.rng.random() < 0.7:
            return self.rng.choice(names)
        sides = self.rng.choices(SIDES, k=self.rng.choice((0, 1, 2, 2, 3, 3, 4, 4, 5)) if rank is None else rank)
        return self.make_floats(*(sides if math.prod(sides) < 2000 else [min(side, 3) for side in sides]))

    def make_vector(self, sizes: Sequence[int | None]) -> str:
        """Return a tensor that contains a shape. None in `sizes` is the batch size, which the noise determines."""
        if None not in sizes:
            return self.make_ints(*sizes)
        rows = self.add("Shape", ["noise"], {"start": 0, "end": 1}), self.make_ints(*sizes[1:])
        return self.add("Concat", list(rows[: len(sizes)]), {"axis": 0})

    def draft_inputs(self) -> tuple[list[str], dict[str, Any]]:
        """Return inputs and attributes that the scan is likely to accept."""
        rng, x = self.rng, self.choose_tensor(RANKS.get(self.operator) if self.rng.random() < 0.95 else None)
        shape, like, new = self.tensors[x][1], functools.partial(self.make_floats, like=x), self.make_ints
        wide = [rng.choice((1, n, n, n)) for n in shape[rng.randint(0, 1) * rng.randint(0, len(shape)) :]]
        fixed, rows, channels = int(shape[:1] == (None,)), (*shape[-1:], 1)[0], (*shape, 1, 1)[1]
        axes = rng.choices([*range(fixed, len(shape))] or [0], k=rng.choice((1, 1, 2)))  # sometimes the same axis twice
        pick, flag, columns = functools.partial(rng.choices, k=len(axes)), rng.randint(0, 1), rng.choice(SIDES)
        axis, along = axes[0], {"axis": axes[0] - len(shape) * rng.randint(0, 1)}
        length, ends = (*shape, 1)[axis] or 1, (1, 2, -1, 2**31, 2**63 - 1)
        parts, group = rng.randint(1, min(length, 4)), rng.choice([n for n in (1, 2, 3, channels) if channels % n == 0])
        lengths, pads = [1] * (parts - 1) + [length - parts + 1], [rng.randint(0, 2) if n else 0 for n in shape * 2]
        kernel, strides, dilations = (rng.choices((1, 2, size), k=2) for size in (3, 2, 1))
        window = {"group": group, "kernel_shape": kernel, "strides": strides, "dilations": dilations}
        window, extra = window | {"pads": rng.choices((0, 1, 2), k=4)}, {"output_padding": [0, flag]}
        taps = [side + rng.randint(0, 1) for side in strides]  # a pool must not skip pixels
        rest = rng.choice([shape[fixed:][::-1], (math.prod(shape[fixed:]),), (*shape[fixed:], 1), (-1,)])
        order = [*range(fixed), *rng.sample(range(fixed, len(shape)), len(shape) - fixed)]
        self.outputs += parts - 1 if self.operator == "Split" else 0
        if self.operator == "Gather" and self.graph.classes and flag:
            return [like(len(self.graph.classes), columns), "label"], {}
        drafts: dict[str, Callable[[], tuple[list[str], dict[str, Any]]]] = {
            **dict.fromkeys(("Add", "Div", "Mul", "Sub", "Greater"), lambda: (rng.sample([x, like(*wide)], 2), {})),
            "Cast": lambda: ([x], {"to": rng.choice((FLOAT, HALF))}),
            "Clip": lambda: ([x, rng.choice(["", like()]), like()], {}),
            "Concat": lambda: ([x, x, like(*shape[:axis], 2, *shape[axis + 1 :])][flag:], along),
            "ConstantOfShape": lambda: ([self.make_vector([*shape[:3], 2])], {}),
            "Conv": lambda: ([x, like(2 * group, channels // group, *kernel), like(2 * group)], window),
            "ConvTranspose": lambda: ([x, like(channels, 2, *kernel), like(2 * group)], window | extra),
            "DepthToSpace": lambda: ([x], {"blocksize": 2 if channels % 4 == 0 else 3 if channels == 9 else 1}),
            "Expand": lambda: ([x, self.make_vector([columns if size == 1 else size for size in shape])], {}),
            "Gather": lambda: ([x, new(*pick(range(-length, length)))], along),
            "Gemm": lambda: ([x, like(*(rows, columns)[:: 1 - 2 * flag]), like(columns)], {"transB": flag}),
            "LayerNormalization": lambda: ([x, like(*shape[axis:]), like(*shape[axis:])], along),
            "LogSoftmax": lambda: ([x], along),
            "MatMul": lambda: ([x, like(rows, columns)], {}),
            "MaxPool": lambda: ([x], {"kernel_shape": taps, "strides": strides, "ceil_mode": flag}),
            "Pad": lambda: ([x, new(*pads), like()], {}),
            "ReduceSum": lambda: ([x, new(*axes)], {"keepdims": flag}),
            "Reshape": lambda: ([x, self.make_vector([*shape[:fixed], *rest])], {}),
            "Resize": lambda: ([x, "", "", self.make_vector([*shape[:2], *rng.choices(SIDES, k=2)])], {}),
            "Shape": lambda: ([x], {"start": rng.randint(-5, 5), "end": rng.randint(-5, 5)}),
            "Slice": lambda: ([x, new(*pick((0, 0, 1, -1))), new(*pick(ends)), new(*axes), new(*pick([1]))], {}),
            "Split": lambda: ([x, new(*lengths)], along) if flag else ([x], along | {"num_outputs": parts}),
            "Transpose": lambda: ([x], {"perm": order}),
            "Unsqueeze": lambda: ([x, new(axis + flag)], {}),
            "Where": lambda: ([self.add("Greater", [x, like(*shape)], {}), x, like(*wide)], {}),
        }
        return drafts.get(self.operator, lambda: ([x], {}))()


def fuzz(graphs: int, seed: int = 0, nodes: int = 8, first: int = 0) -> Report:
    """Check graphs in this process, and count the results by kind and text. onnxruntime may crash the process."""
    report: Report = Counter()
    for number in range(first, first + graphs):
        graph = Graph(seed, number, report)
        graph.grow(nodes)
        graph.check()
    return report


def fuzz_safely(graphs: int, seed: int = 0, nodes: int = 8, first: int = 0) -> Report:
    """Check graphs in processes with limited memory, and bisect the graphs of a process that dies."""
    if graphs <= CHUNK:
        import resource  # not available on Windows, where the tests call `fuzz` instead

        spawn, limit = multiprocessing.get_context("spawn"), (resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        try:
            with ProcessPoolExecutor(1, spawn, resource.setrlimit, limit) as pool:
                return pool.submit(fuzz, graphs, seed, nodes, first).result()
        except BrokenExecutor:
            if graphs == 1:
                return Counter({("difference", f"seed {seed} graph {first}: onnxruntime crashes the process"): 1})
    half = graphs // 2
    return fuzz_safely(half, seed, nodes, first) + fuzz_safely(graphs - half, seed, nodes, first + half)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=20000, metavar="N", help="Number of graphs.")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Seed of the graphs.")
    parser.add_argument("--nodes", type=int, default=8, metavar="N", help="Number of random nodes per graph.")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="Number of the first graph.")
    parser.add_argument("--smoke", action="store_true", help=f"Check only {SMOKE_GRAPHS} graphs, which takes seconds.")
    parser.add_argument("--json", action="store_true", help="Print the results as JSON.")
    options = vars(parser.parse_args())
    as_json, results = options.pop("json"), dict[str, dict[str, int]](difference={})
    if options.pop("smoke"):
        options["graphs"] = SMOKE_GRAPHS
    for (kind, text), count in sorted(fuzz_safely(**options).items()):
        results.setdefault(kind, {})[text] = count
    if as_json:
        print(json.dumps({"scan": scanner.__file__, **options, **results}, indent=2))
    else:
        print(f"scan: {scanner.__file__}\ngraphs: {options['graphs']}")
        for kind, counts in results.items():
            print(f"{kind}: {sum(counts.values())}", *(f"  {n} {text}" for text, n in counts.items() if text), sep="\n")
    return 1 if results["difference"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
