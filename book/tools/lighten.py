"""Make the built pages lighter, and nothing on them different: pictures packed better, unused icons left out."""

import re
from pathlib import Path

from PIL import Image

# An icon in the theme's script: its name, size, other names, letter and outline.
ICON = re.compile(r'"?([a-z0-9-]+)"?:\[\d+,\d+,(\[[^\]]*\]),"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')
USED = re.compile(r"\bfa-([a-z0-9-]+)")
SMALL = 8_000  # bytes of a picture that is left as it is


def icons(site: Path) -> None:
    """Keep of the icons in the theme's script those that a page or a script names."""
    script = site / "_static/scripts/fontawesome.js"
    texts = [path.read_text(encoding="utf-8") for kind in ("*.html", "*.js") for path in site.rglob(kind)
             if path != script and "vendor" not in path.parts]
    used = {name for text in texts for name in USED.findall(text)}

    def kept(icon: re.Match) -> str:
        return icon[0] if used & {icon[1], *re.findall(r'"([^"]+)"', icon[2])} else ""

    script.write_text(ICON.sub(kept, script.read_text(encoding="utf-8")), encoding="utf-8")


def maps(site: Path) -> None:
    """Leave out what only the makers of the theme read: where each line of its scripts and styles came from."""
    for path in (site / "_static").rglob("*.map"):
        path.unlink()


def pictures(site: Path) -> None:
    """Pack PNG files as lossless WebP, in which each pixel stays as it is, and let the pages name these."""
    packed = {}
    for path in (site / "_images").glob("*.png"):
        if path.stat().st_size < SMALL:
            continue
        with Image.open(path) as picture:
            opaque = "A" not in picture.getbands() or picture.getchannel("A").getextrema()[0] == 255
            new = path.with_suffix(".webp")
            picture.convert("RGB" if opaque else "RGBA").save(new, lossless=True, quality=60, method=3)
        if new.stat().st_size < path.stat().st_size:
            packed[path.name] = new.name
            path.unlink()
        else:
            new.unlink()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        named = re.sub(r"(?<=_images/)[\w.-]+\.png", lambda name: packed.get(name[0], name[0]), text)
        if named != text:
            page.write_text(named, encoding="utf-8")


def lighten(site: Path) -> None:
    """Do all of it to a site that was built."""
    icons(site)
    maps(site)
    pictures(site)
