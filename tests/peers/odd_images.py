# SPDX-License-Identifier: Apache-2.0
"""Odd image files for pillow_decode.py: what Pillow writes in every mode, and small writers of what it cannot."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description %s</rdf:RDF></x:xmpmeta>'


def picture(width, height, bands=3, seed=0):
    """Waves and an edge, u8 [height, width, bands]."""
    rng = np.random.default_rng(seed + 1000 * width + height)
    y, x = np.mgrid[0:height, 0:width] / 16.0
    out = np.empty((height, width, bands))
    for c in range(bands):
        a, b, p = rng.uniform(-2, 2, 3)
        out[..., c] = 127.5 + 120 * np.sin(a * x + b * y + p)
    out[: height // 3, : width // 2] = rng.uniform(0, 255, bands)
    return out.clip(0, 255).astype(np.uint8)


def image(mode, width, height):
    rgb = Image.fromarray(picture(width, height))
    alpha = Image.fromarray(picture(width, height, 1, 7)[..., 0])
    if mode == "RGBA":
        rgb.putalpha(alpha)
        return rgb
    if mode == "LA":
        gray = rgb.convert("L")
        gray.putalpha(alpha)
        return gray
    if mode == "PA":
        return rgb.quantize(16)
    if mode == "CMYK":
        return Image.fromarray(picture(width, height, 4), "CMYK")
    if mode == "LAB":
        return Image.fromarray(picture(width, height), "LAB")
    if mode == "I;16":
        return Image.fromarray(picture(width, height, 1)[..., 0].astype(np.uint16) * 257)
    if mode == "P":
        return rgb.quantize(40)
    return rgb.convert(mode)


def saved(mode, size, form, **options):
    stream = io.BytesIO()
    image(mode, *size).save(stream, form, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, depth, colour, before=b"", after=b""):
    """`pixels`: u8 [rows, bytes a row], packed as PNG has them."""
    height, row = pixels.shape
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", row * 8 // bits, height, depth, colour, 0, 0, 0)
    rows = b"".join(b"\0" + line.tobytes() for line in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + after + chunk(b"IEND", b"")


def exif(orientation):
    e = Image.Exif()
    e[0x0112] = orientation
    return e.tobytes()


def itxt(text, packed=False):
    data = text.encode()
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes([packed, 0]) + b"\0\0" + (zlib.compress(data) if packed else data))


def raw_profile(orientation):
    block = exif(orientation)
    text = b"\nexif\n%8d\n" % len(block) + b"\n".join(block.hex().encode()[i : i + 72] for i in range(0, 2 * len(block), 72)) + b"\n"
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))


def bmp(width, height, bits, pixels, palette=b"", compression=0, masks=b"", header=40, colours=0, top_down=False):
    """`masks` follow a header of 40 bytes or lie in a larger one."""
    info = struct.pack("<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, compression, len(pixels), 2835, 2835, colours, 0)
    info += masks + bytes(max(0, header - 40 - len(masks)))
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels


def bmp_rows(values):
    """[height, bytes a row] -> rows padded to 4 bytes, bottom first."""
    return b"".join(row.tobytes() + bytes(-values.shape[1] % 4) for row in values[::-1])


def rle8(indices):
    out = b""
    for row in indices[::-1]:
        x = 0
        while x < len(row):
            run = 1
            while x + run < len(row) and run < 255 and row[x + run] == row[x]:
                run += 1
            if run >= 2 or len(row) - x < 4:
                out, x = out + bytes([run, row[x]]), x + run
            else:  # four plain pixels
                out, x = out + bytes([0, 4]) + row[x : x + 4].tobytes(), x + 4
        out += b"\0\0"
    return out + b"\0\1"


def rle4(indices):
    out = b""
    for row in indices[::-1]:
        for x in range(0, len(row), 6):
            part = row[x : x + 6]
            if len(part) == 6:  # plain, an even number: Pillow reads odd ones wrongly
                out += bytes([0, 6]) + bytes([part[0] << 4 | part[1], part[2] << 4 | part[3], part[4] << 4 | part[5], 0])
            else:
                out += b"".join(bytes([1, v << 4]) for v in part)
        out += b"\0\0"
    return out + b"\0\1"


# Tags of a TIFF that this writer adds by itself are 256-259, 262, 273, 277-279, 284.
def tiff(samples, photometric, bits=None, sample_format=None, extra=None, planar=1, tags=(), order="<", packed=None, tile=None, compress=False):
    """`samples`: [height, width] or [height, width, n] of the type that is written; `packed`: the bytes instead."""
    samples = samples if samples.ndim == 3 else samples[..., None]
    height, width, n = samples.shape
    bits = bits or samples.dtype.itemsize * 8
    native = samples.astype(samples.dtype.newbyteorder(order))
    parts = []
    if packed is not None:
        parts = [packed]
    elif tile:
        for p in range(n) if planar == 2 else [slice(None)]:
            for y in range(0, height, tile):
                for x in range(0, width, tile):
                    block = np.zeros((tile, tile) + native[0, 0, p].shape, native.dtype)
                    part = native[y : y + tile, x : x + tile, p]
                    block[: part.shape[0], : part.shape[1]] = part
                    parts.append(block.tobytes())
    elif planar == 2:
        parts = [native[..., i].tobytes() for i in range(n)]
    else:
        parts = [native[y : y + 8].tobytes() for y in range(0, height, 8)]
    if compress:
        parts = [zlib.compress(p) for p in parts]
    entries = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * n), (259, 3, [8 if compress else 1]), (262, 3, [photometric]), (277, 3, [n]), (284, 3, [planar])]
    if tile:
        entries += [(322, 4, [tile]), (323, 4, [tile]), (324, 4, None), (325, 4, [len(p) for p in parts])]
    else:
        entries += [(273, 4, None), (278, 4, [8 if packed is None and planar == 1 else height]), (279, 4, [len(p) for p in parts])]
    if sample_format:
        entries.append((339, 3, [sample_format] * n))
    if extra is not None:
        entries.append((338, 3, list(extra)))
    entries = sorted(entries + list(tags))
    codes = {2: "s", 3: "H", 4: "I", 11: "f", 12: "d", 1: "B", 7: "B"}
    sizes = {2: 1, 3: 2, 4: 4, 11: 4, 12: 8, 1: 1, 7: 1}
    at = 8 + 2 + 12 * len(entries) + 4
    extras, offsets, body = b"", [], b""
    counts = {e[0]: len(parts) if e[2] is None else len(e[2]) for e in entries}
    room = sum((s + s % 2) for s in (counts[t] * sizes[k] for t, k, _ in entries) if s > 4)
    for p in parts:
        offsets.append(at + room + len(body))
        body += p + bytes(len(p) % 2)
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8) + struct.pack(order + "H", len(entries))
    for tag, kind, values in entries:
        values = offsets if values is None else values
        data = values if isinstance(values, bytes) else struct.pack(order + f"{len(values)}{codes[kind]}", *values)
        head += struct.pack(order + "HHI", tag, kind, len(values))
        if len(data) <= 4:
            head += data.ljust(4, b"\0")
        else:
            head += struct.pack(order + "I", at + len(extras))
            extras += data + bytes(len(data) % 2)
    return head + struct.pack(order + "I", 0) + extras + body
