"""Client that generates an image with a model exported by `cvae export triton` and served by Triton or KServe.

    python client.py --url http://127.0.0.1:8000 --model mnist-resnet-conditional --label 7 --out seven.png

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


def request(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=30) as response:
        return json.load(response)


def to_tensor(name: str, values: np.ndarray) -> dict[str, Any]:
    datatype = {"float32": "FP32", "int64": "INT64"}[str(values.dtype)]
    return {"name": name, "shape": list(values.shape), "datatype": datatype, "data": values.ravel().tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="Address of the server.")
    parser.add_argument("--model", default="mnist-resnet-conditional", metavar="NAME", help="Name of the model.")
    parser.add_argument("--label", metavar="NAME", help="Class name. [default: the first class]")
    parser.add_argument("--seed", type=int, metavar="N", help="Seed of the noise. [default: random]")
    parser.add_argument("--out", default="generated.png", metavar="PATH", help="PNG file to write.")
    args = parser.parse_args()

    model = f"{args.url}/v2/models/{args.model}"
    try:
        spec = json.loads(request(f"{model}/config")["parameters"]["cvae"]["string_value"])
        noise = np.random.default_rng(args.seed).standard_normal((1, spec["latent_dim"]), dtype=np.float32)
        inputs = [to_tensor("noise", noise)]
        if spec["classes"] is not None:
            label = spec["classes"][0] if args.label is None else args.label
            if label not in spec["classes"]:
                sys.exit(f"{args.model!r} has no label {label!r}; its labels are {', '.join(spec['classes'])}")
            inputs.append(to_tensor("label", np.array([[spec["classes"].index(label)]])))  # (B, 1)
        elif args.label is not None:
            sys.exit(f"{args.model!r} was trained without labels; remove --label {args.label!r}")
        (image,) = request(f"{model}/infer", {"inputs": inputs})["outputs"]
    except URLError as error:
        sys.exit(f"request to {model} failed: {error}")
    pixels = np.rint(np.array(image["data"]).reshape(image["shape"])[0] * 255).astype(np.uint8)  # (C, H, W)
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(args.out)


if __name__ == "__main__":
    main()
