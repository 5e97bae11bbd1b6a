"""Model with conditions of every kind, whose images can be computed by hand."""

from pathlib import Path

import numpy as np
import pytest

from cvae.conditions import Condition, graph_inputs
from cvae.run import DECODER, ENCODER
from cvae.spec import KEY, Spec

BREED = Condition(name="breed", kind="category", values=("cat", "dog", "fox"), optional=True)
AGE = Condition(name="age", kind="number", low=0.0, high=10.0, unit="years", optional=True)
SMILING = Condition(name="smiling", kind="attributes", values=("smiling",), optional=True)
TRAITS = Condition(name="traits", kind="attributes", values=("hat", "beard"), optional=True)
CONDITIONS = (BREED, AGE, SMILING, TRAITS)

SHAPE, LATENT_DIM, PIXELS, SIGMA, STD = (1, 8, 8), 4, 64, 0.02, 0.25


class AffineModel:
    """ONNX files whose decoder computes 0.5 + noise W + the sum of an effect of each condition.

    A known condition has the effect of its value, value V, plus a constant. An unknown condition has no effect. The
    encoder subtracts the effects, and multiplies the rest by the pseudoinverse of W.

    Args:
        folder: folder to create.
        conditions: conditions of the model.
    """

    def __init__(self, folder: Path, conditions: tuple[Condition, ...] = CONDITIONS) -> None:
        rng = np.random.default_rng(0)
        self.folder, self.conditions = folder, conditions
        self.weight = rng.uniform(-0.01, 0.01, (LATENT_DIM, PIXELS)).astype(np.float32)
        self.values, self.constants = {}, rng.uniform(-0.03, 0.03, (len(conditions), PIXELS)).astype(np.float32)
        for condition in conditions:
            rows = len(condition.values) or 1
            scale = 0.06 / max(1, condition.high or 1)
            self.values[condition.name] = rng.uniform(-scale, scale, (rows, PIXELS)).astype(np.float32)
        folder.mkdir()
        for role, name in (("decoder", DECODER), ("encoder", ENCODER)):
            (folder / name).write_bytes(self.graph(role))

    def effect(self, **values: object) -> np.ndarray:
        """Return the effect (PIXELS,) of values: an index, a number, or a sequence of 0 and 1."""
        total = np.zeros(PIXELS)
        for i, condition in enumerate(self.conditions):
            if (value := values.get(condition.name)) is not None:
                table = self.values[condition.name]
                total += table[value] if condition.kind == "category" else np.atleast_1d(value) @ table
                total += 0 if len(self.conditions) == 1 else self.constants[i]
        return total

    def decode(self, noise: np.ndarray, **values: object) -> np.ndarray:
        """Return the images (N, *SHAPE) of noise (N, Z), all under the same values."""
        return (0.5 + noise @ self.weight + self.effect(**values)).reshape(-1, *SHAPE)

    def graph(self, role: str) -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        types = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "bool": TensorProto.BOOL}

        def tensor(name: str, *shape: int, dtype: str = "float32"):  # type: ignore[no-untyped-def]
            return helper.make_tensor_value_info(name, types[dtype], ["batch", *shape])

        graph_types = graph_inputs(self.conditions)
        conditions = [
            tensor(name, *([columns] if columns else []), dtype=dtype) for name, (dtype, columns) in graph_types.items()
        ]
        constants = {
            "half": np.float32(0.5),
            "one": np.float32(1),
            "w": self.weight,
            "inverse": np.linalg.pinv(self.weight).astype(np.float32),
            "zero_code": np.zeros((PIXELS, LATENT_DIM), np.float32),
            "std_value": np.float32(STD),
            "axis": np.array([1]),
            "row": np.array([-1, PIXELS]),
            "shape": np.array([-1, *SHAPE]),
            "constants": self.constants,
        }
        node, nodes, terms = helper.make_node, [], ["half"]
        if "known" in graph_types:
            nodes.append(node("Cast", ["known"], ["known_float"], to=TensorProto.FLOAT))
            nodes.append(node("MatMul", ["known_float", "constants"], ["known_effect"]))
            terms.append("known_effect")
        for i, condition in enumerate(self.conditions):
            name, table = condition.name, self.values[condition.name]
            constants[f"{name}_table"], matrix = table, name
            if condition.kind == "number":
                matrix = f"{name}_column"
                nodes.append(node("Unsqueeze", [name, "axis"], [matrix]))
            if condition.kind == "category":  # one-hot, or zeros for the index K: relu(1 - (index - k)^2)
                constants[f"{name}_grid"] = np.arange(len(table), dtype=np.float32)
                nodes += [
                    node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT),
                    node("Unsqueeze", [f"{name}_float", "axis"], [f"{name}_column"]),
                    node("Sub", [f"{name}_column", f"{name}_grid"], [f"{name}_distance"]),
                    node("Mul", [f"{name}_distance", f"{name}_distance"], [f"{name}_square"]),
                    node("Sub", ["one", f"{name}_square"], [f"{name}_peak"]),
                    node("Relu", [f"{name}_peak"], [matrix := f"{name}_onehot"]),
                ]
            if "known" in graph_types:
                constants[f"{name}_start"], constants[f"{name}_end"] = np.array([i]), np.array([i + 1])
                slices = [f"{name}_start", f"{name}_end", "axis", "axis"]
                nodes.append(node("Slice", ["known_float", *slices], [f"{name}_known"]))
                nodes.append(node("Mul", [matrix, f"{name}_known"], [matrix := f"{name}_input"]))
            nodes.append(node("MatMul", [matrix, f"{name}_table"], [f"{name}_effect"]))
            terms.append(f"{name}_effect")
        noise, image = tensor("noise", LATENT_DIM), tensor("image", *SHAPE)
        if role == "decoder":
            inputs, outputs = [noise, *conditions], [image]
            nodes.append(node("MatMul", ["noise", "w"], ["total0"]))
            for i, term in enumerate(terms):
                nodes.append(node("Add", [f"total{i}", term], [f"total{i + 1}"]))
            nodes.append(node("Reshape", [f"total{len(terms)}", "shape"], ["image"]))
        else:
            inputs, outputs = [image, *conditions], [tensor("mean", LATENT_DIM), tensor("std", LATENT_DIM)]
            nodes.append(node("Reshape", ["image", "row"], ["total0"]))
            for i, term in enumerate(terms):
                nodes.append(node("Sub", [f"total{i}", term], [f"total{i + 1}"]))
            nodes.append(node("MatMul", [f"total{len(terms)}", "inverse"], ["mean"]))
            nodes.append(node("MatMul", ["total0", "zero_code"], ["zeros"]))
            nodes.append(node("Add", ["zeros", "std_value"], ["std"]))
        used = {name for item in nodes for name in item.input}
        initial = [
            numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used
        ]
        model = helper.make_model(
            helper.make_graph(nodes, role, inputs, outputs, initial), opset_imports=[helper.make_opsetid("", 20)]
        )
        model.ir_version = 10
        spec = Spec(
            role=role, name="faces", architecture="affine", image_shape=SHAPE, latent_dim=LATENT_DIM,
            conditions=self.conditions, likelihood="gaussian", sigma=SIGMA, prior="normal", data="none",
            data_license="none", weights="w",
        )  # fmt: skip
        helper.set_model_props(model, {KEY: spec.to_json()})
        return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> AffineModel:
    """Write the files of a model with conditions of every kind."""
    return AffineModel(tmp_path_factory.mktemp("faces") / "faces")
