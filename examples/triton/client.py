"""Client that generates an image with a model exported by `cvae export triton` and served by Triton or KServe.

    python client.py --url http://127.0.0.1:8000 --model mnist-resnet-conditional --label 7 --out seven.png
    python client.py --model faces --condition age=40 --condition smiling=yes

A condition that is left out is unknown. If a model needs a label, the default is its first class. The client uses the
base package of cvae to read the spec and to check conditions, but not to run the model.

Protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

import argparse
import json
import sys
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

from cvae.condition_rows import feed
from cvae.errors import CvaeError
from cvae.runtime.conditions import condition_rows
from cvae.spec import Spec


def request(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=30) as response:
        return json.load(response)


def to_tensor(name: str, values: np.ndarray) -> dict[str, Any]:
    datatype = {"float32": "FP32", "int64": "INT64", "bool": "BOOL"}[str(values.dtype)]
    values = values[:, None] if values.ndim == 1 else values  # (B,) -> (B, 1), as config.pbtxt says
    return {"name": name, "shape": list(values.shape), "datatype": datatype, "data": values.ravel().tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="Address of the server.")
    parser.add_argument("--model", default="mnist-resnet-conditional", metavar="NAME", help="Name of the model.")
    parser.add_argument("--label", metavar="NAME", help="Class name. [default: the first class]")
    parser.add_argument(
        "--condition", action="append", default=[], metavar="NAME=VALUE", help="Value of a condition; may be repeated."
    )
    parser.add_argument(
        "--extrapolate", action="store_true", help="Accept numbers beyond the range of the training data."
    )
    parser.add_argument("--seed", type=int, metavar="N", help="Seed of the noise. [default: random]")
    parser.add_argument("--out", default="generated.png", metavar="PATH", help="PNG file to write.")
    args = parser.parse_args()

    values: dict[str, str] = {}
    for flag in args.condition:
        name, equals, value = flag.partition("=")
        if not equals:
            sys.exit(f"--condition {flag!r} is not NAME=VALUE")
        values[name] = value
    model = f"{args.url}/v2/models/{args.model}"
    try:
        text = request(f"{model}/config")["parameters"]["cvae"]["string_value"]
        spec = Spec.from_json(text, args.model)
        label, category = args.label, spec.category
        if label is None and category is not None and not category.optional and not values:
            label = category.values[0]
        rows = condition_rows(spec, 1, label, values=values, extrapolate=args.extrapolate)
        noise = np.random.default_rng(args.seed).standard_normal((1, spec.latent_dim), dtype=np.float32)
        tensors = {"noise": noise, **feed(spec.conditions, rows)}
        inputs = [to_tensor(name, array) for name, array in tensors.items()]
        (image,) = request(f"{model}/infer", {"inputs": inputs})["outputs"]
    except URLError as error:
        sys.exit(f"request to {model} failed: {error}")
    except CvaeError as error:  # one line, such as an unknown label or a number that is out of range
        sys.exit(str(error))
    pixels = np.rint(np.array(image["data"]).reshape(image["shape"])[0] * 255).astype(np.uint8)  # (C, H, W)
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(args.out)


if __name__ == "__main__":
    main()
