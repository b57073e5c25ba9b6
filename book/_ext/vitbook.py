"""What the book asks of Sphinx beyond its settings."""

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective

from vitlite import records

# Below a search result stands the beginning of its page, which a browser may not read from the disk.
SEARCH_FROM_DISK = "if (location.protocol === 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;"


def drop_launch_buttons(app: Sphinx, config: Config) -> None:
    """Show no button that opens a chapter elsewhere while nothing says where the repository is."""
    if not config.html_theme_options.get("repository_url"):
        config.html_theme_options["launch_buttons"] = {}


def drop_thebe(app: Sphinx, config: Config) -> None:
    """Silence sphinx-thebe: unused here, and its script, loaded twice, logs an error on every page."""
    for listeners in app.events.listeners.values():
        listeners[:] = [x for x in listeners if not x.handler.__module__.startswith("sphinx_thebe")]
    app.registry.css_files[:] = [(name, more) for name, more in app.registry.css_files if "thebe" not in name]


def keep_colons(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Stop napoleon from taking the words before a colon for a type: types stand in the signatures here.

    It looks for one in the first line of an attribute and of what is returned, and finds none before a colon of ours.
    """
    firsts = [number + 1 for number, line in enumerate(lines[:-1]) if line.strip() in ("Returns:", "Yields:")]
    if lines and what in ("attribute", "property", "data"):
        firsts.append(0)
    for number in firsts:
        text = lines[number].lstrip()
        lines[number] = lines[number].removesuffix(text) + f": {text}"


class ChapterCosts(SphinxDirective):
    """A table of what each chapter costs at quick scale, out of the record ``chapters``."""

    def run(self) -> list[nodes.Node]:
        """The table, and a sentence on where and when it was measured."""
        record = records.read("chapters")
        hardware = record["hardware"]
        lines = ["| chapter | seconds | memory (GB) |", "|---|--:|--:|"]
        lines += [
            f"| {{doc}}`../notebooks/{run['chapter']}` | {run['seconds']:.0f} | {run['peak_bytes'] / 1e9:.1f} |"
            for run in record["runs"]
        ]
        where = f"{hardware['cores']} cores ({hardware['processor']})"
        lines += ["", f"Measured on {record['date']} with {where}, without a GPU."]
        parent = nodes.Element()
        self.state.nested_parse(StringList(lines, "record chapters"), self.content_offset, parent)
        return parent.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.add_css_file("book.css")
    app.add_directive("chapter-costs", ChapterCosts)
    app.add_js_file(None, body=SEARCH_FROM_DISK)
    app.connect("config-inited", drop_launch_buttons)
    app.connect("config-inited", drop_thebe)
    app.connect("autodoc-process-docstring", keep_colons, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
