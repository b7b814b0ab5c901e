# SPDX-License-Identifier: Apache-2.0
"""Our decoders against Pillow 12.3 on odd files: after exif_transpose, alpha on white. Prints every difference; one that is
beyond rounding must be in the table EXPLAINED with its reason, and where that says what the right picture is, be it."""

import io
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image, ImageOps

from common import BIN
from odd_images import *  # noqa: F403

SIZES = [(37, 23), (16, 16), (5, 61), (1, 9)]
files = {}  # name -> bytes
right = {}  # name -> the picture, where Pillow's is not

# Why ours is another picture than Pillow's, by the name's beginning.
EXPLAINED = {
    "tif_i16": "Pillow clips 16 bits at 255; ours scales the measured or declared range",
    "tif_i32": "Pillow clips 32 bits at 255; ours scales the measured range",
    "tif_f": "Pillow clips floating point at 255 without scaling; ours scales [0, 1], or the declared or measured range",
    "tif_12bit": "Pillow clips 12 bits at 255; ours scales their range",
    "tif_bands5": "Pillow reads no such file; ours shows the first three bands",
    "tif_int8": "Pillow takes signed samples for unsigned ones, or refuses; ours scales the measured range",
    "tif_minisblack3": "Pillow reads no such file; ours shows the first three bands",
    "tif_separate_bands": "Pillow reads no such file; ours shows the first three bands",
    "tif_gray_extra2": "Pillow reads no such file; ours shows the gray band",
    "tif_cmyk_alpha": "Pillow reads no such file; ours shows the inks over white",
    "tif_palette8": "Pillow takes a palette of 8-bit values for black; ours, as libtiff, for what was meant",
    "png_I16": "Pillow clips 16-bit gray at 255; ours takes 65535 for white",
    "png_gray16": "Pillow clips 16-bit gray at 255; ours takes 65535 for white",
    "png_trns_gray16": "Pillow clips 16-bit gray at 255; ours takes 65535 for white",
    "tif_rgb16_dark": "Pillow keeps the high byte; ours scales the measured range where the rest would be black",
    "tif_rgb16_separate": "Pillow reads planes of 16 bits as 8; ours is what was written",
    "gif_small_frame.": "Pillow gives the rest of the screen the first colour; it is transparent, as browsers have it",
    "bmp_rle4_odd": "Pillow 12.3 reads an odd number of plain 4-bit pixels as one less",
    "bmp_rle8_steps": "Pillow refuses a picture whose last rows no run covers; ours gives them the first colour",
    "bmp_alpha_zero": "an alpha field of zeros everywhere is no alpha, as browsers have it; Pillow shows white",
    "bmp_alphafields": "Pillow reads no BI_ALPHABITFIELDS",
    "bmp_os2v2": "Pillow reads no header of 16 bytes",
    "white_": "nothing would be seen on white: ours puts black behind",
    "jpg_noeoi": "Pillow refuses a JPEG that lacks its end marker; every pixel is there",
}


def add(name, data, expected=None):
    assert name not in files, name
    files[name] = data
    if expected is not None:
        right[name] = expected


def gray3(levels):
    return np.repeat(levels[..., None], 3, 2)


def scaled(values, low, high):
    return gray3(scaled3(values, low, high))


def scaled3(values, low, high):
    v = (np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / (high - low)
    return (v.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def pillow_modes():
    for size in SIZES:
        tag = "%dx%d" % size
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            add(f"png_{mode.replace(';', '')}_{tag}.png", saved(mode, size, "PNG"))
        for mode in ("L", "RGB", "CMYK"):
            add(f"jpg_{mode}_{tag}.jpg", saved(mode, size, "JPEG", quality=92))
        for mode in ("1", "L", "P", "RGB", "RGBA"):
            add(f"bmp_{mode}_{tag}.bmp", saved(mode, size, "BMP"))
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB"):
            add(f"tif_{mode}_{tag}.tif", saved(mode, size, "TIFF"))
        for mode in ("RGB", "RGBA"):
            add(f"webp_lossless_{mode}_{tag}.webp", saved(mode, size, "WEBP", lossless=True, exact=True))
        add(f"gif_P_{tag}.gif", saved("P", size, "GIF"))
        add(f"pnm_{tag}.ppm", saved("RGB", size, "PPM"))


def pillow_options():
    size = (37, 23)
    for name, options in {"progressive": {"progressive": True}, "420": {"subsampling": 2}, "411": {"subsampling": "4:1:1"}, "restart": {"restart_marker_blocks": 2}, "icc_gray": {}}.items():
        add(f"jpg_{name}.jpg", saved("L" if "gray" in name else "RGB", size, "JPEG", **options))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        for mode in ("RGB", "L"):
            add(f"tif_{compression}_{mode}.tif", saved(mode, size, "TIFF", compression=compression))
    for compression in ("group3", "group4", "packbits"):
        add(f"tif_{compression}_1.tif", saved("1", size, "TIFF", compression=compression))
    add("webp_lossy.webp", saved("RGB", size, "WEBP", quality=80))
    add("webp_lossy_alpha.webp", saved("RGBA", size, "WEBP", quality=80))
    for mode in ("L", "LA", "RGB", "RGBA"):
        add(f"jp2_{mode}.jp2", saved(mode, size, "JPEG2000"))
    for mode in ("RGB", "RGBA"):
        add(f"avif_{mode}.avif", saved(mode, (38, 24), "AVIF", quality=100, subsampling="4:4:4"))
    add("gif_transparent.gif", saved("P", size, "GIF", transparency=3))
    add("png_trns_p.png", saved("P", size, "PNG", transparency=bytes(range(0, 250, 7))))
    add("png_trns_l.png", saved("L", size, "PNG", transparency=127))
    add("png_trns_rgb.png", saved("RGB", size, "PNG", transparency=tuple(int(v) for v in picture(*size)[0, 0])))
    frames = [image("RGB", 20 + 0 * i, 14).transpose(i) for i in (0, 1, 3)]
    for form, ending in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png")):
        stream = io.BytesIO()
        options = {"lossless": True} if form == "WEBP" else {}
        frames[0].save(stream, form, save_all=True, append_images=frames[1:], duration=50, **options)
        add(f"animated.{ending}", stream.getvalue())
    # A first frame that covers a part of the screen, with and without a transparent colour.
    gif = bytearray(saved("P", (8, 6), "GIF"))
    gif[6:10] = struct.pack("<HH", 12, 10)
    add("gif_small_frame.gif", bytes(gif))
    gif = bytearray(saved("P", (8, 6), "GIF", transparency=0))
    gif[6:10] = struct.pack("<HH", 12, 10)
    add("gif_small_frame_transparent.gif", bytes(gif))


def orientations():
    small = (11, 7)
    for o in range(1, 9):
        for mode, form, ending in (("RGB", "JPEG", "jpg"), ("RGB", "PNG", "png"), ("RGB", "WEBP", "webp"), ("RGB", "TIFF", "tif")):
            options = {"lossless": True} if form == "WEBP" else {}
            if form == "TIFF":
                options["tiffinfo"] = {274: o}
            else:
                options["exif"] = exif(o)
            add(f"exif{o}.{ending}", saved(mode, small, form, **options))
    rows = picture(*small).reshape(7, -1)
    attribute, element = XMP % 'tiff:Orientation="6"/>', XMP % "><tiff:Orientation>8</tiff:Orientation>"
    add("xmp_attribute.png", png(rows, 8, 2, itxt(attribute)))
    add("xmp_element.png", png(rows, 8, 2, itxt(element)))
    add("xmp_packed.png", png(rows, 8, 2, itxt(attribute, True)))
    add("xmp_after.png", png(rows, 8, 2, b"", itxt(attribute)))
    add("xmp_and_exif.png", png(rows, 8, 2, chunk(b"eXIf", exif(3)[6:]) + itxt(attribute)))
    add("raw_profile.png", png(rows, 8, 2, raw_profile(5)))
    add("xmp.jpg", saved("RGB", small, "JPEG", xmp=attribute.encode()))
    add("xmp.webp", saved("RGB", small, "WEBP", xmp=element.encode(), lossless=True))
    add("xmp.tif", tiff(picture(*small), 2, tags=[(700, 1, attribute.encode())]))


def png_kinds():
    gray = picture(24, 10, 1)[..., 0]
    for depth in (1, 2, 4):
        levels = gray >> (8 - depth)
        packed = np.packbits(np.unpackbits(levels[..., None], axis=2)[..., 8 - depth :].reshape(10, -1), axis=1)
        add(f"png_gray{depth}.png", png(packed, depth, 0))
        palette = b"".join(bytes(picture(1, 1, 3, i)[0, 0]) for i in range(1 << depth))
        add(f"png_palette{depth}.png", png(packed, depth, 3, chunk(b"PLTE", palette)))
        add(f"png_palette_trns{depth}.png", png(packed, depth, 3, chunk(b"PLTE", palette) + chunk(b"tRNS", bytes([0, 90]))))
    wide = picture(12, 10, 3).astype(np.uint16) * 200 + 77
    add("png_rgb16.png", png(wide.astype(">u2").view(np.uint8).reshape(10, -1), 16, 2))
    alpha = np.concatenate([wide, wide[..., :1]], 2)
    add("png_rgba16.png", png(alpha.astype(">u2").view(np.uint8).reshape(10, -1), 16, 6))
    add("png_la16.png", png(alpha[..., 2:].astype(">u2").copy().view(np.uint8).reshape(10, -1), 16, 4))
    add("png_gray16.png", png(wide[..., 0].astype(">u2").copy().view(np.uint8).reshape(10, -1), 16, 0), scaled(wide[..., 0], 0, 65535))
    rows = picture(13, 9).reshape(9, -1)
    add("png_gama.png", png(rows, 8, 2, chunk(b"gAMA", struct.pack(">I", 100000))))
    add("png_bkgd.png", png(picture(6, 9, 4).reshape(9, -1), 8, 6, chunk(b"bKGD", bytes(6))))
    whole = png(rows, 8, 2)
    add("png_noiend.png", whole[:-12])
    add("png_halfiend.png", whole[:-3])
    jpeg = saved("RGB", (37, 23), "JPEG", quality=90)
    add("jpg_noeoi.jpg", jpeg[:-2], np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))


def bmp_kinds():
    rng = np.random.default_rng(3)
    palette = b"".join(bytes([*rng.integers(0, 256, 3).tolist(), 0]) for _ in range(16))
    indices = np.repeat(rng.integers(0, 16, (9, 5), dtype=np.uint8), 3, 1)[:, :13]
    add("bmp_rle8.bmp", bmp(13, 9, 8, rle8(indices), palette, 1, colours=16))
    add("bmp_rle4.bmp", bmp(13, 9, 4, rle4(indices), palette, 2, colours=16))
    colours = np.frombuffer(palette, np.uint8).reshape(16, 4)[:, 2::-1]
    odd = bytes([0, 3, 0x12, 0x30, 0, 0, 0, 1])
    add("bmp_rle4_odd.bmp", bmp(3, 1, 4, odd, palette, 2, colours=16), colours[[[1, 2, 3]]])
    steps = bytes([2, 5, 0, 2, 3, 1, 4, 7, 0, 0, 3, 9, 0, 1])
    shown = np.zeros((4, 9), int)  # bottom first
    shown[0, :2], shown[1, 5:], shown[2, :3] = 5, 7, 9
    add("bmp_rle8_steps.bmp", bmp(9, 4, 8, steps, palette, 1, colours=16), colours[shown[::-1]])
    rgba = picture(7, 6, 4)
    bgra = rgba[..., [2, 1, 0, 3]].reshape(6, -1)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for header in (56, 108, 124):
        add(f"bmp_alpha_v{header}.bmp", bmp(7, 6, 32, bmp_rows(bgra), b"", 3, masks, header))
    add("bmp_alphafields.bmp", bmp(7, 6, 32, bmp_rows(bgra), b"", 6, masks), over_white(rgba))
    zero = rgba.copy()
    zero[..., 3] = 0
    add("bmp_alpha_zero.bmp", bmp(7, 6, 32, bmp_rows(zero[..., [2, 1, 0, 3]].reshape(6, -1)), b"", 3, masks, 108), rgba[..., :3])
    add("bmp_xrgb.bmp", bmp(7, 6, 32, bmp_rows(bgra)))
    add("bmp_v52.bmp", bmp(7, 6, 32, bmp_rows(bgra), b"", 3, masks[:12], 52))
    words = (rgba[..., 0].astype(np.uint16) << 8 | rgba[..., 1]).view(np.uint8).reshape(6, -1)
    add("bmp_555.bmp", bmp(7, 6, 16, bmp_rows(words)))
    add("bmp_565.bmp", bmp(7, 6, 16, bmp_rows(words), b"", 3, struct.pack("<III", 0xF800, 0x7E0, 0x1F)))
    add("bmp_555_fields.bmp", bmp(7, 6, 16, bmp_rows(words), b"", 3, struct.pack("<III", 0x7C00, 0x3E0, 0x1F)))
    bgr = rgba[..., 2::-1].reshape(6, -1)
    add("bmp_topdown.bmp", bmp(7, 6, 24, bmp_rows(bgr[::-1]), top_down=True))
    add("bmp_os2v1.bmp", b"BM" + struct.pack("<IHHIIHHHH", 0, 0, 0, 26, 12, 7, 6, 1, 24) + bmp_rows(bgr))
    add("bmp_os2v2.bmp", b"BM" + struct.pack("<IHHIIIIHH", 0, 0, 0, 30, 16, 7, 6, 1, 24) + bmp_rows(bgr), rgba[..., :3])
    for bits in (1, 4):
        levels = indices & ((1 << bits) - 1)
        packed = np.packbits(np.unpackbits(levels[..., None], axis=2)[..., 8 - bits :].reshape(9, -1), axis=1)
        add(f"bmp_palette{bits}.bmp", bmp(13, 9, bits, bmp_rows(packed), palette[: 4 << bits]))


def over_white(rgba):
    under = Image.new("RGBA", (rgba.shape[1], rgba.shape[0]), "white")
    return np.asarray(Image.alpha_composite(under, Image.fromarray(rgba)).convert("RGB"))


def tiff_kinds():
    rgb, four, five = picture(19, 21), picture(19, 21, 4), picture(19, 21, 5)
    gray = rgb[..., 0]
    add("tif_rgbnir.tif", tiff(four, 2, extra=[0]))
    add("tif_rgb_unassociated.tif", tiff(four, 2, extra=[2]))
    add("tif_rgb_untold4.tif", tiff(four, 2))
    four_pre = four.copy()
    four_pre[..., :3] = (four[..., :3].astype(np.uint16) * four[..., 3:] // 255).astype(np.uint8)
    add("tif_rgb_associated.tif", tiff(four_pre, 2, extra=[1]))
    add("tif_rgb_extra2.tif", tiff(five, 2, extra=[0, 0]))
    add("tif_rgba_extra.tif", tiff(five, 2, extra=[2, 0]))
    add("tif_separate.tif", tiff(rgb, 2, planar=2))
    add("tif_separate_tiles.tif", tiff(rgb, 2, planar=2, tile=16))
    add("tif_tiles.tif", tiff(rgb, 2, tile=16, compress=True))
    add("tif_big_endian.tif", tiff(rgb, 2, order=">"))
    add("tif_separate_bands.tif", tiff(five, 1, planar=2, extra=[0] * 4), five[..., :3])
    add("tif_bands5.tif", tiff(five, 1, extra=[0] * 4), five[..., :3])
    add("tif_minisblack3.tif", tiff(rgb, 1, extra=[0, 0]), rgb)
    add("tif_gray_extra2.tif", tiff(four[..., :2], 1), gray3(four[..., 0]))
    add("tif_gray_alpha.tif", tiff(four[..., :2], 1, extra=[2]))
    add("tif_miniswhite.tif", tiff(gray, 0))
    bits = np.packbits(gray > 127, axis=1)
    for photometric in (0, 1):
        add(f"tif_1bit_{photometric}.tif", tiff(gray, photometric, bits=1, packed=bits.tobytes()))
    for depth in (2, 4):
        packed = np.packbits(np.unpackbits((gray >> (8 - depth))[..., None], axis=2)[..., 8 - depth :].reshape(21, -1), axis=1)
        add(f"tif_{depth}bit.tif", tiff(gray, 1, bits=depth, packed=packed.tobytes()))
    colours = np.frombuffer(np.random.default_rng(5).bytes(768), np.uint8).reshape(3, 256)
    add("tif_palette.tif", tiff(gray, 3, tags=[(320, 3, (colours.astype(np.uint16) * 257).ravel().tolist())]))
    add("tif_palette8.tif", tiff(gray, 3, tags=[(320, 3, colours.ravel().tolist())]), colours.T[gray])
    add("tif_cmyk.tif", tiff(four, 5))
    add("tif_cmyk_extra.tif", tiff(five, 5, extra=[0]))
    inks = np.asarray(Image.fromarray(five[..., :4].copy(), "CMYK").convert("RGB"))
    add("tif_cmyk_alpha.tif", tiff(five, 5, extra=[2]), over_white(np.concatenate([inks, five[..., 4:]], 2)))
    add("tif_cmyk16.tif", tiff(four.astype(np.uint16) * 257, 5))
    add("tif_rgb16.tif", tiff(rgb.astype(np.uint16) * 250 + 99, 2))
    wide3 = rgb.astype(np.uint16) * 250 + 99
    add("tif_rgb16_separate.tif", tiff(wide3, 2, planar=2, order=">"), ((wide3 * 255.0) / 65535 + 0.5).astype(np.uint8))
    dark = rgb.astype(np.uint16) * 12 + 5
    add("tif_rgb16_dark.tif", tiff(dark, 2), scaled3(dark, dark.min(), dark.max()))
    add("tif_lab.tif", tiff(picture(9, 9), 8))
    add("tif_ycbcr.tif", tiff(rgb, 6, tags=[(530, 3, [1, 1])], compress=True))
    wide = gray.astype(np.uint16) * 16 + 7
    add("tif_i16_measured.tif", tiff(wide, 1), scaled(wide, wide.min(), wide.max()))
    add("tif_i16_inverted.tif", tiff(wide, 0), 255 - scaled(wide, wide.min(), wide.max()))
    add("tif_i16_declared.tif", tiff(wide, 1, tags=[(281, 3, [4095])]), scaled(wide, 0, 4095))
    signed = wide.astype(np.int16) - 2000
    add("tif_i16_signed.tif", tiff(signed, 1, sample_format=2), scaled(signed, signed.min(), signed.max()))
    for kind in (np.uint32, np.int32):
        v = wide.astype(kind) * 1000
        add(f"tif_i32_{kind.__name__}.tif", tiff(v, 1, sample_format=1 + (kind is np.int32)), scaled(v, v.min(), v.max()))
    add("tif_int8.tif", tiff((gray.astype(int) - 128).astype(np.int8), 1, sample_format=2), scaled(gray, gray.min(), gray.max()))
    packed12 = np.packbits(np.unpackbits(wide.astype(">u2")[..., None].view(np.uint8), axis=2).reshape(21, 19, 16)[..., 4:].reshape(21, -1), axis=1)
    add("tif_12bit.tif", tiff(wide, 1, bits=12, packed=packed12.tobytes()), scaled(wide & 4095, 0, 4095))
    unit = gray / np.float32(255)
    hole = unit.copy()
    hole[3, 4], hole[5, 6], hole[7, 8] = np.nan, np.inf, -np.inf
    for kind in (np.float16, np.float32, np.float64):
        add(f"tif_f_unit_{kind.__name__}.tif", tiff(unit.astype(kind), 1, sample_format=3), scaled(unit, 0, 1))
    add("tif_f_holes.tif", tiff(hole.astype(np.float32), 1, sample_format=3, compress=True), scaled(hole, 0, 1))
    far = (unit * 5000 - 300).astype(np.float32)
    add("tif_f_measured.tif", tiff(far, 1, sample_format=3), scaled(far, far.min(), far.max()))
    add("tif_f_declared.tif", tiff(far, 1, sample_format=3, tags=[(340, 11, [-1000.0]), (341, 11, [6000.0])]), scaled(far, -1000, 6000))
    none = far.copy()
    none[:4] = -9999
    add("tif_f_nodata.tif", tiff(none, 1, sample_format=3, tags=[(42113, 2, b"-9999\0")]), scaled(np.maximum(none, far[4:].min()), far[4:].min(), far[4:].max()))
    add("tif_f_rgb.tif", tiff((rgb / 255).astype(np.float32), 2, sample_format=3), rgb)
    add("tif_f_separate.tif", tiff((rgb / 255).astype(np.float64), 2, sample_format=3, planar=2, tile=16), rgb)


def white_logos():
    for i, size in enumerate(((16, 16), (21, 9))):
        rgba = np.full((size[1], size[0], 4), 255, np.uint8)
        rgba[..., 3] = picture(*size, 1)[..., 0]
        add(f"white_{i}.png", png(rgba.reshape(size[1], -1), 8, 6), gray3(rgba[..., 3]))


def pillows(data):
    """The picture in Pillow, or why there is none."""
    try:
        im = Image.open(io.BytesIO(data))
        im = ImageOps.exif_transpose(im)
        im.load()
        if im.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in im.info:
            return over_white(np.asarray(im.convert("RGBA")))
        return np.asarray(im.convert("RGB"))
    except Exception as error:  # noqa: BLE001 - whatever it raises is its verdict
        return type(error).__name__


def ours(folder):
    """{name: (status, note, pixels or None)} of the files of a folder."""
    test = os.path.join(BIN, "test_imaging")
    done = subprocess.run([test, "--gtest_filter=Decode.ForPeers"], env=os.environ | {"DINO_DECODE_FOLDER": folder}, capture_output=True, text=True)
    out = {}
    for line in done.stdout.splitlines():
        if line.startswith("decoded\t"):
            _, name, status, note, width, height = line.split("\t")
            pixels = None
            if status == "ok":
                pixels = np.fromfile(os.path.join(folder, name + ".rgb"), np.uint8).reshape(int(height), int(width), 3)
            out[name] = status, note, pixels
    if len(out) != len(files):
        raise SystemExit(f"{len(out)} of {len(files)} files were decoded\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return out


# Where equal bytes cannot be asked for, and why.
TOLERANCE = {
    ".jpg": (2, "other builds of libjpeg-turbo"),
    "tif_jpeg": (2, "other builds of libjpeg-turbo"),
    "webp_lossy": (3, "other builds of libwebp"),
    "tif_lab": (30, "lcms interpolates in tables, which is coarse where colours leave sRGB"),
    "tif_LAB": (30, "lcms interpolates in tables, which is coarse where colours leave sRGB"),
    "tif_ycbcr": (2, "rounding of the conversion"),
}


def difference(a, b):
    if isinstance(a, str) or a is None or isinstance(b, str) or b is None:
        return None
    return 999 if a.shape != b.shape else int(np.abs(a.astype(int) - b.astype(int)).max())


def main():
    for make in (pillow_modes, pillow_options, orientations, png_kinds, bmp_kinds, tiff_kinds, white_logos):
        make()
    faults = explained = same = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            with open(os.path.join(folder, name), "wb") as f:
                f.write(data)
        decoded = ours(folder)
    for name, data in sorted(files.items()):
        status, note, pixels = decoded[name]
        pillow = pillows(data)
        allowed = next((t for k, (t, _) in TOLERANCE.items() if k in name), 1)
        off = difference(pixels, pillow)
        if off is not None and off <= allowed and difference(pixels, right.get(name, pillow)) <= max(allowed, 1):
            same += 1
            if off > 0:
                print(f"rounding  {name}: {off} of 255")
            continue
        reason = next((r for k, r in EXPLAINED.items() if name.startswith(k)), None)
        seen = f"{status}, Pillow: {pillow}" if off is None else "other size" if off == 999 else f"{off} of 255"
        mended = name not in right or (difference(pixels, right[name]) or 0) <= 1 and pixels is not None
        if reason and mended:
            explained += 1
            print(f"explained {name}: {seen} [{note}]: {reason}")
        else:
            faults += 1
            print(f"FAULT     {name}: {seen} [{note}]" + (f"; to the right picture {difference(pixels, right[name])}" if name in right else ""))
    print(f"{len(files)} files: {same} as Pillow 12.3, {explained} explained, {faults} unexplained")
    return faults > 0


if __name__ == "__main__":
    sys.exit(main())
