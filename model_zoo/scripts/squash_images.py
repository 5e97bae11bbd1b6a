"""Scale all images of a folder to one size, without cropping, and keep the subfolders.

    python model_zoo/scripts/squash_images.py PHOTOS cars --size 64x96

cvae crops an image whose aspect ratio differs from that of the model. Squashing keeps what a crop would cut off, such
as the bumpers of a car.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageOps

from cvae.errors import UsageError
from cvae.flags import parse_sides

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="PHOTOS", help="Folder of images.")
    parser.add_argument("target", type=Path, metavar="OUT", help="Folder to create.")
    parser.add_argument("--size", default="64x96", metavar="HxW", help="Height and width of the new images.")
    args = parser.parse_args()
    try:
        size = parse_sides(args.size)
    except UsageError as error:
        parser.error(str(error))
    assert size is not None
    height, width = size
    for path in sorted(path for path in args.source.rglob("*") if path.suffix.lower() in SUFFIXES):
        target = args.target / path.relative_to(args.source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            squashed = (
                ImageOps.exif_transpose(image)
                .convert("RGB")
                .resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
            )
        squashed.save(target, quality=95)


if __name__ == "__main__":
    main()
