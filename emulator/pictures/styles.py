"""Real variations: the source, cropped to the requested size and restyled according to the seed.

The seed chooses one of the styles below and a palette of related hues. A style works on a reduced copy where
it can, because everything here has to be quick: about 0.1 s for 1024x1024 on one slow core.
"""

from __future__ import annotations

import colorsys
import functools
import io
import math
import random
from collections.abc import Callable, Sequence

from PIL import Image, ImageChops, ImageFilter, ImageOps

from prefect_wavespeed.emulator.pictures.files import encode

Colour = tuple[int, int, int]
Palette = Sequence[Colour]

_PALETTE_HUES = (0.0, 0.04, 0.08, 0.42, 0.5, 0.58, 0.92)


class NotAPictureError(ValueError):
    """The bytes are not a picture that can be decoded."""


def variation(
    source: bytes, width: int, height: int, output_format: str, seed: int, guidance: float
) -> bytes:
    """Restyle a picture. The same arguments give the same bytes.

    Args:
        source: an encoded picture.
        width: of the result in pixels; the source is scaled and cropped to cover it.
        height: of the result in pixels.
        output_format: jpeg, png or webp.
        seed: chooses the style and its palette.
        guidance: 1 to 20; more keeps more of the source's own colours.

    Raises:
        NotAPictureError: the source cannot be decoded.
    """
    picture = _cover(source, width, height)
    rng = random.Random(seed)
    style = STYLES[int(rng.random() * len(STYLES))]
    styled = style(picture, palette(rng), rng)
    return encode(Image.blend(styled, picture, guidance / 60), output_format)


def sample(width: int, height: int, output_format: str) -> bytes:
    """Return a gradient as a file."""
    gradient = Image.linear_gradient("L").rotate(30, expand=True).resize((width, height))
    return encode(_mapped(gradient, palette(random.Random(7))), output_format)


def _cover(source: bytes, width: int, height: int) -> Image.Image:
    try:
        with Image.open(io.BytesIO(source)) as opened:
            opened.draft("RGB", (width, height))
            picture = ImageOps.exif_transpose(opened)
            if picture.has_transparency_data:
                picture = Image.alpha_composite(
                    Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")
                )
            picture = picture.convert("RGB")
    except Exception as error:  # Pillow's decoders raise almost anything on broken data
        raise NotAPictureError(str(error)) from None
    return ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)


# Colours


def palette(rng: random.Random) -> list[Colour]:
    """Return five related colours, darkest first."""
    base = rng.random()
    turn = _PALETTE_HUES[int(rng.random() * len(_PALETTE_HUES))]
    rich = 0.55 + 0.35 * rng.random()
    steps = [
        (base, 0.10, rich * 0.8),
        (base + turn * 0.2, 0.30, rich),
        (base + turn * 0.7, 0.52, rich),
        (base + turn, 0.74, rich),
        (base + turn, 0.94, rich * 0.7),
    ]
    return [_colour(*step) for step in steps]


def _colour(hue: float, lightness: float, saturation: float) -> Colour:
    red, green, blue = colorsys.hls_to_rgb(hue % 1, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _mapped(grey: Image.Image, colours: Palette, flat: bool = False) -> Image.Image:
    """Map each grey to a colour: in flat bands, or blending from one colour to the next."""
    table: list[int] = []
    for band in range(3):
        for value in range(256):
            if flat:
                table.append(colours[value * len(colours) // 256][band])
                continue
            position = value / 255 * (len(colours) - 1)
            left = min(int(position), len(colours) - 2)
            share = position - left
            table.append(round(colours[left][band] * (1 - share) + colours[left + 1][band] * share))
    return Image.merge("RGB", (grey, grey, grey)).point(table)


def _grey(picture: Image.Image) -> Image.Image:
    return ImageOps.autocontrast(picture.convert("L"), cutoff=1)


def _soft(picture: Image.Image, reduction: int, radius: float) -> Image.Image:
    """Blur by way of a reduced copy."""
    small = picture.reduce(reduction).filter(ImageFilter.GaussianBlur(radius))
    return small.resize(picture.size, Image.Resampling.BICUBIC)


def _saturated(picture: Image.Image, amount: float, turn: float = 0.0) -> Image.Image:
    """Strengthen the colours and rotate their hues (in turns), in one matrix."""
    cos, sin = math.cos(turn * math.tau) * amount, math.sin(turn * math.tau) * amount
    grey = (0.299, 0.587, 0.114)
    # Rows of "identity minus grey" and of the rotation by 90 degrees about the grey axis.
    colour = [[(i == j) - grey[j] for j in range(3)] for i in range(3)]
    across = [[0.168, 0.330, -0.497], [-0.328, 0.035, 0.292], [1.250, -1.050, -0.203]]
    matrix: list[float] = []
    for i in range(3):
        matrix += [grey[j] + cos * colour[i][j] + sin * across[i][j] for j in range(3)] + [0.0]
    return picture.convert("RGB", tuple(matrix))


def _lines(picture: Image.Image, strength: float) -> Image.Image:
    """Dark outlines on white."""
    half = picture.reduce(2).convert("L").filter(ImageFilter.GaussianBlur(1))
    edges = half.filter(ImageFilter.FIND_EDGES).point([max(0, 255 - int(v * strength)) for v in range(256)])
    # FIND_EDGES leaves the outermost pixels as they were.
    edges = ImageOps.expand(ImageOps.crop(edges, 1), 1, 255)
    return edges.resize(picture.size, Image.Resampling.BICUBIC)


# Styles


def duotone(picture: Image.Image, colours: Palette, rng: random.Random) -> Image.Image:
    """Greys in the palette's colours, with a glow in the highlights."""
    grey = _grey(picture)
    return _mapped(ImageChops.screen(grey, _soft(grey, 4, 6).point(lambda value: value * 0.25)), colours)


def poster(picture: Image.Image, colours: Palette, rng: random.Random) -> Image.Image:
    """Flat bands of colour with outlines."""
    bands = _mapped(_soft(_grey(picture), 2, 1.5), colours, flat=True)
    lines = _lines(picture, 3.5)
    return ImageChops.multiply(bands, Image.merge("RGB", (lines, lines, lines)))


def oil(picture: Image.Image, colours: Palette, rng: random.Random) -> Image.Image:
    """Dabs of strong colour, with the relief of the paint."""
    scale = 224 / max(picture.size)
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    dabs = small.filter(ImageFilter.ModeFilter(5)).resize(picture.size, Image.Resampling.BICUBIC)
    relief = picture.reduce(2).convert("L").filter(ImageFilter.EMBOSS).resize(picture.size)
    tint = Image.new("RGB", dabs.size, colours[2])
    tinted = Image.blend(_saturated(dabs, 1.6, rng.random() * 0.3 - 0.15), tint, 0.25)
    return ImageChops.hard_light(tinted, Image.merge("RGB", (relief, relief, relief)))


def sketch(picture: Image.Image, colours: Palette, rng: random.Random) -> Image.Image:
    """A drawing in ink on tinted paper, thinly coloured."""
    grey = _grey(picture)
    # Subtracting its surroundings leaves the lines.
    around = _soft(grey, 4, 3)
    drawn = ImageChops.add(grey, ImageChops.invert(around), scale=2).point(
        [max(0, min(255, (value - 85) * 6)) for value in range(256)]
    )
    paper = _mapped(drawn, (colours[0], colours[2], colours[4]))
    wash = _saturated(_soft(picture, 4, 2), 1.6).point(lambda value: 128 + value // 2)
    return ImageChops.multiply(paper, wash)


def screen_print(picture: Image.Image, colours: Palette, rng: random.Random) -> Image.Image:
    """A screen print: dots of two inks on paper."""
    grey = _grey(picture)
    sheet = Image.new("RGB", picture.size, colours[4])
    for ink, angle, lift in ((colours[3], 0.26, -30), (colours[1], 1.31, 40)):
        lifted = grey.point([max(0, min(255, value + lift)) for value in range(256)])
        dots = ImageChops.add(lifted, _screen(picture.size, angle), 1, -128)
        mask = dots.point([max(0, min(255, 128 - (value - 128) * 5)) for value in range(256)])
        sheet = ImageChops.multiply(
            sheet,
            Image.composite(Image.new("RGB", sheet.size, ink), Image.new("RGB", sheet.size, "white"), mask),
        )
    return sheet


def dream(picture: Image.Image, colours: Palette, rng: random.Random) -> Image.Image:
    """Rotated hues, the palette in highlights and shadows, and a soft bloom."""
    turned = _saturated(picture, 1.25, 0.12 + 0.76 * rng.random())
    toned = Image.blend(turned, _mapped(_grey(picture), colours), 0.35)
    return ImageChops.screen(toned, _soft(toned, 8, 3).point(lambda value: value * 0.35))


@functools.lru_cache(maxsize=16)
def _screen(size: tuple[int, int], angle: float) -> Image.Image:
    """Return a halftone screen: a rotated soft grid of dots."""
    pitch = 8
    wave = [math.cos(x * math.tau / pitch) for x in range(pitch)]
    tile = Image.new("L", (pitch, pitch))
    tile.putdata([round(128 + 62 * (across + down)) for down in wave for across in wave])
    edge = (math.isqrt(size[0] ** 2 + size[1] ** 2) // pitch + 2) * pitch
    sheet = Image.new("L", (edge, edge))
    filled = pitch
    sheet.paste(tile, (0, 0))
    while filled < edge:
        sheet.paste(sheet.crop((0, 0, filled, pitch)), (filled, 0))
        filled *= 2
    filled = pitch
    while filled < edge:
        sheet.paste(sheet.crop((0, 0, edge, filled)), (0, filled))
        filled *= 2
    turned = sheet.rotate(math.degrees(angle), Image.Resampling.BILINEAR)
    left, top = (edge - size[0]) // 2, (edge - size[1]) // 2
    return turned.crop((left, top, left + size[0], top + size[1]))


Style = Callable[[Image.Image, Palette, random.Random], Image.Image]
STYLES: tuple[Style, ...] = (duotone, poster, oil, sketch, screen_print, dream)
