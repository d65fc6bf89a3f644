#!/usr/bin/env python3
"""A terminal's screen as an SVG: reads what `tmux capture-pane -e -p` prints, writes the picture.

    screen.py TITLE <screen >picture.svg

Python's standard library is all it needs. Runs of letters are given their width, and lines and blocks are drawn, so that
columns stand below one another whatever font the viewer has.
"""

import re
import sys
from html import escape

WIDE, HIGH, SIZE, EDGE = 8, 17, 13.3, 12
INK, PAPER = "#d6d9de", "#16191f"
SIXTEEN = [
    "#2a2e36", "#e06c75", "#98c379", "#d9b26a", "#61afef", "#c678dd", "#56b6c2", "#c8ccd4",
    "#7a818e", "#f08c94", "#b5dda0", "#eccf8f", "#8cc8ff", "#dc9cf0", "#7fd3dd", "#ffffff",
]
CUBE = [0, 95, 135, 175, 215, 255]


def of_256(number):
    if number < 16:
        return SIXTEEN[number]
    if number < 232:
        number -= 16
        return "#%02x%02x%02x" % (CUBE[number // 36], CUBE[number // 6 % 6], CUBE[number % 6])
    return "#" + "%02x" % (8 + 10 * (number - 232)) * 3


class Pen:
    """What the next character looks like."""

    def __init__(self):
        self.ink = self.paper = None
        self.bold = self.dim = self.slant = self.under = self.swap = False

    def take(self, codes):
        codes = [int(code or 0) for code in codes.split(";")]
        while codes:
            code = codes.pop(0)
            if code == 0:
                self.__init__()
            elif code in (1, 2, 3, 4, 7):
                setattr(self, {1: "bold", 2: "dim", 3: "slant", 4: "under", 7: "swap"}[code], True)
            elif code == 22:
                self.bold = self.dim = False
            elif code in (23, 24, 27):
                setattr(self, {23: "slant", 24: "under", 27: "swap"}[code], False)
            elif code in (38, 48):
                kind = codes.pop(0)
                colour = of_256(codes.pop(0)) if kind == 5 else "#%02x%02x%02x" % tuple(codes.pop(0) for _ in range(3))
                setattr(self, "ink" if code == 38 else "paper", colour)
            elif code in (39, 49):
                setattr(self, "ink" if code == 39 else "paper", None)
            elif 30 <= code <= 37 or 90 <= code <= 97:
                self.ink = SIXTEEN[code - 30 if code < 90 else code - 82]
            elif 40 <= code <= 47 or 100 <= code <= 107:
                self.paper = SIXTEEN[code - 40 if code < 100 else code - 92]

    def look(self):
        ink, paper = self.ink or INK, self.paper
        if self.swap:
            ink, paper = paper or PAPER, ink
        return ink, paper, self.bold, self.dim, self.slant, self.under


def cells(line):
    """The line's characters, each with its look."""
    pen, found = Pen(), []
    for at, part in enumerate(re.split(r"\x1b\[([0-9;]*)m", line)):
        if at % 2:
            pen.take(part)
        else:
            found += [(character, pen.look()) for character in part if character not in "\x0e\x0f"]
    return found


def number(value):
    return ("%.2f" % value).rstrip("0").rstrip(".")


def block(character, x, y):
    """A line or block as the parts of a path, or nothing: such must meet at the cells' edges."""
    eighths = ord(character) - 0x2580
    if 1 <= eighths <= 8:
        high = HIGH * eighths / 8
        return f"M{x} {number(y + HIGH - high)}h{WIDE}v{number(high)}h-{WIDE}z"
    if character == "─":
        return f"M{x} {number(y + HIGH / 2 - 0.5)}h{WIDE}v1h-{WIDE}z"
    if character == "╌":
        return f"M{x + 1} {number(y + HIGH / 2 - 0.5)}h2.5v1h-2.5zM{x + 4.5} {number(y + HIGH / 2 - 0.5)}h2.5v1h-2.5z"
    if character == "│":
        return f"M{number(x + WIDE / 2 - 0.5)} {y}h1v{HIGH}h-1z"
    if character == "╵":
        return f"M{number(x + WIDE / 2 - 0.5)} {y}h1v{number(HIGH / 2)}h-1z"
    return None


def runs(row):
    """Stretches of one look: where they begin, their text, their look."""
    begin = 0
    while begin < len(row):
        end = begin
        while end < len(row) and row[end][1] == row[begin][1]:
            end += 1
        yield begin, "".join(character for character, _ in row[begin:end]), row[begin][1]
        begin = end


def draw(rows, title):
    wide = max((len(row) for row in rows), default=0)
    width, height = wide * WIDE + 2 * EDGE, len(rows) * HIGH + 2 * EDGE
    papers, shapes, texts = [], {}, []
    for line, row in enumerate(rows):
        y = EDGE + line * HIGH
        for begin, text, (ink, paper, bold, dim, slant, under) in runs(row):
            x = EDGE + begin * WIDE
            if paper:
                papers.append(f'<rect x="{x}" y="{y}" width="{len(text) * WIDE}" height="{HIGH}" fill="{paper}"/>')
            look = f'fill="{ink}"' if ink != INK else ""
            look += ' font-weight="bold"' if bold else ""
            look += ' opacity=".6"' if dim else ""
            look += ' font-style="italic"' if slant else ""
            look += ' text-decoration="underline"' if under else ""
            drawn = ""
            for at, character in enumerate(text):
                shape = block(character, x + at * WIDE, y)
                if shape:
                    shapes[ink] = shapes.get(ink, "") + shape
                drawn += " " if shape else character
            # A gap of two blanks begins another piece, so that the words stay where they are.
            for word in re.finditer(r"\S+(?: \S+)*", drawn):
                at, word = x + word.start() * WIDE, word.group()
                long = f' textLength="{len(word) * WIDE}"' if len(word) > 1 else ""
                texts.append(f'<text x="{at}" y="{number(y + 12.5)}"{long} {look}>{escape(word, quote=False)}</text>'.replace(" >", ">"))
    fonts = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
          f' font-family="{fonts}" font-size="{SIZE}" fill="{INK}">')
    print(f"<title>{escape(title)}</title>")
    print(f'<rect width="{width}" height="{height}" rx="7" fill="{PAPER}"/>')
    print("\n".join(papers))
    for ink, shape in shapes.items():
        print(f'<path fill="{ink}" d="{shape}"/>')
    print("\n".join(texts))
    print("</svg>")


def main():
    lines = sys.stdin.read().rstrip("\n").split("\n")
    draw([cells(line) for line in lines], sys.argv[1])


main()
