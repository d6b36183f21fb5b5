"""Odd image files that all show one picture, and files that are no photos."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIDE = 64
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, *range(2, a.ndim)),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, *range(2, a.ndim)),
    8: lambda a: np.rot90(a, 1),
}
# What a camera that lay so stores.
STORED = {k: TURNS[{6: 8, 8: 6}.get(k, k)] for k in TURNS}


def picture(seed=5):
    """uint8 [64, 64, 3]: coloured blocks without any symmetry; white on the right."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(20, 235, (4, 4, 3)).astype(np.uint8)
    blocks[:, 3:] = 255
    return blocks.repeat(16, 0).repeat(16, 1)


def without_colour(array):
    return np.asarray(Image.fromarray(array).convert("L"))[..., None].repeat(3, -1)


def tagged(order="<", kind=3, value=6):
    """EXIF data with one entry, the orientation."""
    code = {1: "Bxxx", 3: "Hxx", 4: "I"}[kind]
    head = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHI" + code, 0x0112, kind, 1, value)
    return head + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></x:xmpmeta>'
)


def encoded(array, form, mode=None, **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    content = io.BytesIO()
    (image.convert(mode) if mode else image).save(content, form, **options)
    return content.getvalue()


def jpeg(array, mode=None, **options):
    return encoded(array, "JPEG", mode, quality=95, **options)


def with_segments(content, *bodies, before=b"\xff\xdb"):
    """A JPEG file with segments `(mark, body)` before its tables or its frame."""
    at = content.index(before)
    more = b"".join(
        struct.pack(">BBH", 0xFF, mark, len(body) + 2) + body for mark, body in bodies
    )
    return content[:at] + more + content[at:]


def with_chunks(content, *chunks, last=False):
    """A PNG file with chunks `(kind, body)` behind its header, or at its end."""
    at = len(content) - 12 if last else 33
    return content[:at] + b"".join(map(chunk, chunks)) + content[at:]


def chunk(pair):
    kind, body = pair
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


def png(depth, colour, rows, width, height, interlace=0):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, chunks))


def interlaced(array):
    """An Adam7 file of grey pixels, pass by pass."""
    passes = (
        *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
        *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
    )
    rows = [row for y, x, dy, dx in passes for row in array[y::dy, x::dx]]
    return png(8, 0, rows, array.shape[1], array.shape[0], interlace=1)


def photos():
    """name -> content of files that show the picture, and what is no photo."""
    shown = picture()
    grey = without_colour(shown)[..., 0]
    turned = STORED[6](shown)
    plain = jpeg(shown)
    exif = b"Exif\0\0"
    clear = np.dstack([shown, np.where(grey == 255, 0, 255).astype(np.uint8)])
    clear[grey == 255, :3] = 0  # transparent black, to be seen as white
    lucid = np.dstack([np.where(grey == 255, 0, grey), clear[..., 3]])
    black_index = Image.fromarray(
        np.where(grey == 255, 0, grey).astype(np.uint8)
    ).convert("P")
    frames = [Image.fromarray(shown), Image.fromarray(255 - shown)]
    animated = {"save_all": True, "append_images": frames[1:]}
    cmyk = Image.fromarray(shown).convert("CMYK")
    deep = (grey.astype(np.uint16) << 8) + 7
    found = {
        "JPEG": plain,
        "JPEG, progressive": jpeg(shown, progressive=True),
        "JPEG, grey": jpeg(shown, "L"),
        "JPEG, CMYK": jpeg(cmyk),
        "JPEG, all colours stored whole": jpeg(shown, subsampling=0),
        "JPEG, with a colour profile": jpeg(shown, icc_profile=bytes(3000)),
        "JPEG, with a remark": jpeg(shown, comment=b"Exif? No."),
        "PNG, RGB": encoded(shown, "PNG"),
        "PNG, grey": encoded(shown, "PNG", "L"),
        "PNG, 4 bits grey": png(
            4, 0, (grey[:, ::2] >> 4 << 4 | grey[:, 1::2] >> 4), SIDE, SIDE
        ),
        "PNG, palette": encoded(Image.fromarray(shown).quantize(64), "PNG"),
        "PNG, interlaced": interlaced(grey),
        "PNG, RGBA": encoded(clear, "PNG"),
        "PNG, grey with alpha": encoded(Image.fromarray(lucid, "LA"), "PNG"),
        "PNG, palette with alpha": encoded(
            Image.fromarray(clear).quantize(method=Image.Quantize.FASTOCTREE), "PNG"
        ),
        "PNG, one transparent colour": encoded(
            clear[..., :3], "PNG", transparency=(0,) * 3
        ),
        "PNG, 16 bits grey": encoded(deep, "PNG"),
        "PNG, 16 bits RGB": png(
            16, 2, ((shown.astype(">u2") << 8) + 7).astype(">u2"), SIDE, SIDE
        ),
        "PNG, 16 bits RGBA": png(
            16, 6, (clear.astype(">u2") * 257).astype(">u2"), SIDE, SIDE
        ),
        "PNG, animated": encoded(frames[0], "PNG", **animated),
        "PNG, with a gamma of 1": with_chunks(
            encoded(shown, "PNG"), (b"gAMA", struct.pack(">I", 100_000))
        ),
        "GIF": encoded(Image.fromarray(shown).quantize(64), "GIF"),
        "GIF, animated": encoded(frames[0], "GIF", **animated),
        "GIF, transparent": encoded(black_index, "GIF", transparency=0),
        "BMP": encoded(shown, "BMP"),
        "BMP, palette": encoded(Image.fromarray(shown).quantize(64), "BMP"),
        "WebP": encoded(shown, "WEBP", quality=95),
        "WebP, transparent": encoded(clear, "WEBP", lossless=True),
        "WebP, animated": encoded(frames[0], "WEBP", lossless=True, **animated),
        "WebP, turned": encoded(turned, "WEBP", lossless=True, exif=tagged()),
        "AVIF": encoded(shown, "AVIF", quality=95),
        "AVIF, transparent": encoded(clear, "AVIF", quality=95),
        "TIFF": encoded(shown, "TIFF"),
        "TIFF, turned": encoded(turned, "TIFF", tiffinfo={0x0112: 6}),
        "TIFF, two pages": encoded(frames[0], "TIFF", **animated),
        "TIFF, 16 bits grey": encoded(deep, "TIFF"),
        "TIFF, CMYK": encoded(cmyk, "TIFF"),
        "MPO": encoded(frames[0], "MPO", quality=95, **animated),
        "PPM": encoded(shown, "PPM"),
        "TGA": encoded(shown, "TGA"),
        "JPEG 2000": encoded(shown, "JPEG2000"),
    }
    for k in range(2, 9):
        found[f"JPEG, orientation {k}"] = with_segments(
            jpeg(np.ascontiguousarray(STORED[k](shown))),
            (0xE1, exif + tagged("<>"[k % 2], value=k)),
        )
    stored = jpeg(turned)
    for kind, name in ((1, "BYTE"), (4, "LONG")):
        for order, end in (("<", "little"), (">", "big")):
            found[f"JPEG, orientation as {name}, {end}-endian"] = with_segments(
                stored, (0xE1, exif + tagged(order, kind))
            )
    far = [(0xE2, b"ICC_PROFILE\0" + bytes(60_000))] * 3
    found |= {
        "JPEG, EXIF behind 180,000 bytes": with_segments(
            stored, *far, (0xE1, exif + tagged())
        ),
        "JPEG, EXIF behind the tables": with_segments(
            stored, (0xE1, exif + tagged()), before=b"\xff\xc0"
        ),
        "JPEG, orientation in XMP": with_segments(
            stored, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP % 6)
        ),
        "JPEG, damaged EXIF": with_segments(plain, (0xE1, exif + b"II*\0\xff\xff")),
        "PNG, orientation": with_chunks(encoded(turned, "PNG"), (b"eXIf", tagged())),
        "PNG, orientation at the end": with_chunks(
            encoded(turned, "PNG"), (b"eXIf", tagged(">")), last=True
        ),
        "PNG, orientation in XMP": with_chunks(
            encoded(turned, "PNG"), (b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + XMP % 6)
        ),
        "JPEG, cut off": plain[: len(plain) // 2],
        "PNG, cut off": encoded(shown, "PNG")[:200],
        "PNG, 30,000 x 30,000": png(8, 0, [], 30_000, 30_000),
        "PNG, no pixels": png(8, 0, [], 0, 0),
        "GIF, 65,535 x 65,535": b"GIF89a" + b"\xff" * 4 + bytes(30),
        "JPEG, 65,500 x 65,500": with_huge_frame(plain),
        "TIFF, floating-point": encoded(Image.fromarray(grey.astype("f4")), "TIFF"),
        "a text": b"this is a note, not a photo",
        "nothing": b"",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    }
    return found


def with_huge_frame(content):
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", 65_500, 65_500) + content[at + 4 :]
