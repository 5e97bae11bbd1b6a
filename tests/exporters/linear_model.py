"""Model whose images can be computed by hand."""

from pathlib import Path
from typing import Any

import numpy as np

from cvae.conditions import label_condition
from cvae.spec import KEY, Spec


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Linear:
    """ONNX files of an encoder, and of a decoder that computes sigmoid(noise W + offset of the class).

    The images are in colour and in landscape format.
    """

    shape, latent_dim = (3, 6, 10), 5

    def __init__(self, folder: Path, classes: int | tuple[str, ...] = 0) -> None:
        rng = np.random.default_rng(0)
        self.names = classes if isinstance(classes, tuple) else tuple(f"class {i}" for i in range(classes))
        self.folder, self.classes = folder, len(self.names)
        self.weight = rng.normal(size=(self.latent_dim, 180)).astype(np.float32)
        self.weight *= np.array([[0.1], [3], [0.5], [2], [1]], np.float32)
        self.offset = rng.normal(size=(max(self.classes, 1), 180)).astype(np.float32)
        folder.mkdir()
        for role in ("decoder", "encoder"):
            (folder / f"{role}.onnx").write_bytes(self.graph(role))

    def decode(self, noise: np.ndarray, labels: list[int]) -> np.ndarray:
        return sigmoid(noise @ self.weight + self.offset[labels]).reshape(-1, *self.shape)

    def graph(self, role: str, weights: str = "w") -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        def tensor(name: str, shape: tuple[int, ...], elem_type: int = TensorProto.FLOAT) -> Any:
            return helper.make_tensor_value_info(name, elem_type, ["batch", *shape])

        constants = {"w": self.weight, "o": self.offset, "shape": np.array([-1, *self.shape])}
        constants |= {
            "v": np.ascontiguousarray(self.weight.T),
            "first": np.array([0]),
            "row": np.array([-1, self.weight.shape[1]]),
        }
        noise, image = tensor("noise", (self.latent_dim,)), tensor("image", self.shape)
        label = [tensor("label", (), TensorProto.INT64)] if self.classes else []
        if role == "decoder":
            inputs, outputs = [noise, *label], [image]
            nodes = [
                helper.make_node("MatMul", ["noise", "w"], ["product"]),
                helper.make_node("Gather", ["o", "label" if self.classes else "first"], ["class"]),
                helper.make_node("Add", ["product", "class"], ["logits"]),
                helper.make_node("Sigmoid", ["logits"], ["flat"]),
                helper.make_node("Reshape", ["flat", "shape"], ["image"]),
            ]
        else:
            inputs, outputs = [image, *label], [tensor("mean", (self.latent_dim,)), tensor("std", (self.latent_dim,))]
            nodes = [
                helper.make_node("Reshape", ["image", "row"], ["flat"]),
                helper.make_node("MatMul", ["flat", "v"], ["mean"]),
                # The first sigmoid may round to 0, which is not a valid standard deviation; the second is at least 0.5.
                helper.make_node("Sigmoid", ["mean"], ["share"]),
                helper.make_node("Sigmoid", ["share"], ["std"]),
            ]
        used = {name for node in nodes for name in node.input}
        initial = [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used]
        model = helper.make_model(
            helper.make_graph(nodes, role, inputs, outputs, initial), opset_imports=[helper.make_opsetid("", 20)]
        )
        model.ir_version = 10
        spec = Spec(
            role=role, name=f"linear {self.classes}", architecture="linear", image_shape=self.shape,
            latent_dim=self.latent_dim, conditions=label_condition(self.names or None),
            likelihood="bernoulli", prior="normal", data="none", data_license="none <b>at all</b>", weights=weights,
        )  # fmt: skip
        helper.set_model_props(model, {KEY: spec.to_json()})
        return model.SerializeToString()
