"""Limits on the size of an untrusted ONNX file, its tensors and its computation."""

MAX_FIELDS = 64
"""Maximum number of fields in a model message. The graph counts as one field."""

MAX_ENTRY = 2**21
"""Maximum size of a metadata entry, in bytes."""

MAX_NODES = 8192
"""Maximum number of nodes.

Models made of built-in parts have at most 271, except with a prior whose solver is unrolled: an encoder that inverts
eight steps with guidance, each with four iterations of a network of five blocks, has 5,123.
"""

MAX_WEIGHTS = 16384
"""Maximum number of weights and constants."""

MAX_EDGES = 256
"""Maximum number of inputs, outputs and attributes of a node in total."""

MAX_ALL_EDGES = 32768
"""Maximum number of inputs and outputs of all nodes in total."""

MAX_RANK = 8
"""Maximum number of axes of a tensor."""

MAX_NAME = 512
"""Maximum length of a name, in bytes."""

MAX_WINDOW = 4096
"""Maximum kernel size, stride, dilation and padding of a convolution."""

MAX_IMAGE = 2**22
"""Maximum number of values in an image, C * H * W; 3 x 1182 x 1182 just fits."""

BASE_ELEMENTS, ELEMENTS_PER_PIXEL, MAX_ELEMENTS = 2**20, 2**16, 2**30
"""Limit on the number of values in all tensors for one image: a base, plus an amount per pixel, up to a maximum.

Models made of built-in parts have at most 1,300 values per pixel, except with a prior whose solver is unrolled: an
encoder that inverts eight steps with guidance, of a network of five blocks with 128 channels, has 9,000 on a grid with
a position per 8x8 pixels, and 36,000 on one with a position per 4x4 pixels.
"""

BASE_WORK, WORK_PER_WEIGHT, MAX_WORK = 2**28, 8, 2**36
"""Limit on the number of multiplications for one image: a base, plus an amount per weight and pixel, up to a maximum.

A layer at full resolution uses each weight once per pixel. A solver of eight steps that is unrolled in the graph uses
its weights 16 times if each step has guidance, and its inverse, with four iterations per step, 64 times, but on a grid
of at most a 16th of the pixels: four times per pixel. Without a solver, models made of built-in parts need a small part
of this limit, because layers with more weights have smaller feature maps. At most, an image takes seconds on one core.
"""
