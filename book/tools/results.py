"""The records as a page: of each its question, what was expected, where it comes from, and its summary as tables."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import records

SHOWN = 14  # lines; a longer summary is folded
INTERVAL = {"mean", "low", "high"}
BARE = INTERVAL | {"seeds"}  # one that says nothing of what was measured
PLACE = "<!-- the records -->"  # where the page has them


def number(value: float | None) -> str:
    """A measured number as text: three digits, whole where it is large."""
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def is_interval(value: object) -> bool:
    """Whether this is a mean with its 95 % interval."""
    return isinstance(value, dict) and set(value) >= INTERVAL


def cell(value: object) -> str | None:
    """A leaf of a summary as text; None for what is no leaf."""
    if isinstance(value, bool | str):
        return str(value)
    if value is None or isinstance(value, int | float):
        return number(value)
    if is_interval(value):
        reach = "" if value["high"] is None else f"\u00a0±\u00a0{number(value['high'] - value['mean'])}"
        return f"{number(value['mean'])}{reach}"
    if isinstance(value, list) and value and all(is_interval(one) and set(one) <= BARE for one in value):
        return cell([one["mean"] for one in value])
    if isinstance(value, list) and all(isinstance(one, int | float | str) for one in value):
        return ", ".join(map(cell, value))
    return None


def rows(summary: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a summary: where each stands, and the text of its cells by the names of their columns."""
    if is_interval(summary):  # in a list: what it was measured on stands beside its mean
        labels = {key: cell(value) for key, value in summary.items() if key not in BARE}
        yield ", ".join(path), {**labels, "result": cell(summary)}
        return
    if isinstance(summary, list):
        for each in summary:
            if cell(each) is None or is_interval(each):
                yield from rows(each, path)
            else:
                yield ", ".join(path), {"": cell(each)}
        return
    leaves = {key: text for key, value in summary.items() if key != "seeds" and (text := cell(value)) is not None}
    if leaves:
        yield ", ".join(path), leaves
    for key, value in summary.items():
        if cell(value) is None:
            yield from rows(value, (*path, key))


def tables(summary: dict) -> tuple[int, str]:
    """How many rows a summary has, and the tables, as Markdown: one for the rows that have the same columns."""
    found = list(rows(summary))
    alike: dict[tuple[str, ...], list] = {}
    for place, cells in found:
        alike.setdefault(tuple(cells), []).append((place, *cells.values()))
    parts = []
    for columns, those in alike.items():
        if len(those) == 1 and len(columns) > 1:  # lies better on its side
            parts.append(records.table([those[0][0], "result"], zip(columns, those[0][1:], strict=True)))
        else:
            parts.append(records.table(["", *columns], those))
    return len(found), "\n\n".join(parts).replace("_", " ")


def section(record: dict) -> str:
    """What the page says of one record."""
    name, hardware = record["name"], record["hardware"]
    count, shown = tables(record["summary"])
    if len(shown.splitlines()) > SHOWN:
        shown = f"````{{dropdown}} The summary, {count} rows\n{shown}\n````"
    where = hardware.get("gpu") or hardware.get("processor")
    return (f"(result-{name})=\n## {name}\n\n**{record['question']}**\n\n"
            f"*Expected before the run:* {record['expectation']}\n\n"
            f"*Made* on {record['date']}, scale `{record['scale']}`, {len(record['runs'])} runs, on {where}, by "
            f"`{record['command']}`.\n\n{shown}\n")


def page(text: str) -> str:
    """The page with all records in their place."""
    before, after = text.split(PLACE)
    return before + "\n".join(section(records.read(name)) for name in records.names()) + after


def write(target: Path) -> None:
    """Fill the records into a page."""
    target.write_text(page(target.read_text(encoding="utf-8")), encoding="utf-8")
