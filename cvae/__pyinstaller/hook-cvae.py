"""Hook that PyInstaller runs for a program that imports cvae.

PyInstaller finds neither data files nor modules that are imported dynamically, so this hook lists them. The libraries
of onnxruntime, NumPy and Pillow are collected by hooks that PyInstaller already has.
"""

import os
from pathlib import Path

import cvae

ROOT = Path(cvae.__file__).parent
# In a checkout, some folders are symbolic links, which Path.rglob does not follow.
FILES = [
    Path(folder, name).relative_to(ROOT.parent)
    for folder, _, names in os.walk(ROOT, followlinks=True)
    for name in names
]
NOT_COLLECTED = ("cvae/cli/", "cvae/__main__.py", "cvae/__pyinstaller/", "cvae/model_zoo/scripts/")

datas = [
    (str(ROOT.parent / path), path.parent.as_posix())
    for path in FILES
    if path.suffix not in (".py", ".pyc") and path.name != "model.safetensors"  # weights for torch, in a checkout
]

hiddenimports = [
    ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if path.suffix == ".py" and not path.as_posix().startswith(NOT_COLLECTED)
]

# An app contains what a base install has, even if it is built in an environment with the extras. If a program itself
# imports one of these packages, the app contains that package too.
excludedimports = [
    "accelerate",
    "huggingface_hub",  # it imports torch and many more packages, if they are installed
    "matplotlib",
    "onnx",
    "optuna",
    "pandas",
    "psutil",
    "rich",
    "safetensors",
    "skimage",
    "sklearn",
    "sqlalchemy",
    "torch",
    "torchvision",
    "umap",
]
