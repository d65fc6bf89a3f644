#!/usr/bin/env python3
"""A browser's screenshot with a palette: a PNG of true colour in, one of 256 colours at most out, of a third of the bytes.

    palette.py FROM TO

Python's standard library is all it needs. Colours beyond 256, the rarest, become the nearest of the others.
"""

import struct
import sys
import zlib
from collections import Counter


def read(data):
    """Width, height, and the pixels as a list of rows of (red, green, blue)."""
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            assert depth == 8 and colour in (2, 6) and not interlaced, "a plain PNG of true colour"
        elif kind == b"IDAT":
            packed += body
        at += size + 12
    each = 3 if colour == 2 else 4
    raw, long = zlib.decompress(packed), width * each
    rows, before = [], bytearray(long)
    for y in range(height):
        how = raw[y * (long + 1)]
        row = bytearray(raw[y * (long + 1) + 1 : (y + 1) * (long + 1)])
        if how == 1:
            for i in range(each, long):
                row[i] = row[i] + row[i - each] & 255
        elif how == 2:
            for i in range(long):
                row[i] = row[i] + before[i] & 255
        elif how == 3:
            for i in range(long):
                row[i] = row[i] + ((row[i - each] if i >= each else 0) + before[i] >> 1) & 255
        elif how == 4:
            for i in range(long):
                a, c = (row[i - each], before[i - each]) if i >= each else (0, 0)
                b = before[i]
                p = a + b - c
                near = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
                row[i] = row[i] + near & 255
        rows.append([tuple(row[i : i + 3]) for i in range(0, long, each)])
        before = row
    return width, height, rows


def write(width, height, rows):
    # In steps of eight, so that the shades of letters' edges leave room for the rare colours.
    rows = [[tuple(min(255, (value + 4) // 8 * 8) for value in pixel) for pixel in row] for row in rows]
    counted = Counter(pixel for row in rows for pixel in row)
    colours = [colour for colour, _ in counted.most_common(256)]
    place = {colour: at for at, colour in enumerate(colours)}
    for colour in counted:
        if colour not in place:
            place[colour] = min(range(len(colours)), key=lambda at: sum((x - y) ** 2 for x, y in zip(colour, colours[at])))
    raw = b"".join(b"\0" + bytes(place[pixel] for pixel in row) for row in rows)

    def part(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    palette = b"".join(bytes(colour) for colour in colours)
    packed = zlib.compress(raw, 9)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"PLTE", palette) + part(b"IDAT", packed) + part(b"IEND", b"")


def main():
    with open(sys.argv[1], "rb") as file:
        picture = read(file.read())
    with open(sys.argv[2], "wb") as file:
        file.write(write(*picture))


main()
