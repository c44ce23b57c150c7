"""Draw the contact sheet of a bundled model: `python benchmarks/contact_sheet.py [NAME] [OUTPUT]`.

Text-to-image models draw the first 32 captions of the frozen validation split, the digits model three of each digit;
one seed, nothing selected.
"""

from __future__ import annotations

import sys
from pathlib import Path

from suffuse import load
from suffuse.cli.sheet import contact_sheet, save_png
from suffuse.images import to_tensor
from suffuse.world import frozen


def main(name: str = "shapes", output: str = "docs/shapes.png") -> None:
    """Generate, arrange, write."""
    model = load(name)
    captions = [str(c) for c in frozen("validation")[1][:32]]
    prompts = [str(d) for d in range(10)] * 3 if name == "digits" else captions
    images = model.generate(prompts, seed=0).images
    side = 64 if name == "digits" else 128
    enlarged = [image.resize((side, side), 0 if name == "digits" else 3) for image in images]
    columns = 10 if name == "digits" else 8
    save_png(contact_sheet(to_tensor(enlarged), columns=columns), Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:])
