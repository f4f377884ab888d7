"""Draws the icon of the module: a slice, a line of sight, and where it ends.

``python slicer_extension/draw_icon.py``; needs Pillow. Not part of the package.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

SIZE = 128
SCALE = 8  # drawn larger and reduced, for smooth edges
TARGET = Path(__file__).parent / "Sightline" / "Resources" / "Icons" / "Sightline.png"

BODY = (58, 64, 74, 255)
LIVER = (150, 150, 155, 255)
SPINE = (240, 240, 235, 255)
SIGHT = (255, 170, 40, 255)


def icon() -> Image.Image:
    """The icon, RGBA, 128 x 128."""
    image = Image.new("RGBA", (SIZE * SCALE, SIZE * SCALE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)

    def ellipse(x: float, y: float, half_width: float, half_height: float, **how: object) -> None:
        box = [SCALE * v for v in (x - half_width, y - half_height, x + half_width, y + half_height)]
        draw.ellipse(box, **how)

    ellipse(64, 64, 60, 46, fill=BODY)
    ellipse(42, 58, 27, 26, fill=LIVER)
    ellipse(66, 95, 9, 8, fill=SPINE)
    draw.line([SCALE * v for v in (124, 20, 40, 62)], fill=SIGHT, width=5 * SCALE)
    ellipse(40, 62, 14, 14, outline=SIGHT, width=5 * SCALE)
    ellipse(40, 62, 4, 4, fill=SIGHT)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    icon().save(TARGET, optimize=True)
