"""What the book asks of Sphinx beyond its settings."""

import importlib

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from experiments import records

# Below a search result stands the beginning of its page, which a browser may not read from the disk.
SEARCH_FROM_DISK = "if (location.protocol === 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;"

# For people who listen or have no mouse. What a button is called holds what stands on it; what scrolls takes the focus;
# a list of citations holds links too, so it is no list to a screen reader.
ACCESS = """addEventListener("load", () => {
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);
  each(".search-button-field, details > summary", (x) => x.removeAttribute("aria-label"));
  each(".theme-switch-button", (x) => x.setAttribute("aria-label", "Color mode: Light, Dark or System Settings"));
  each(".citation-list", (x) => x.removeAttribute("role"));
  const reach = () => each(".bd-article :is(table, div, pre, mjx-container)", (x) => {
    const hidden = x.scrollWidth > x.clientWidth && /auto|scroll/.test(getComputedStyle(x).overflowX);
    if (hidden && !x.closest(".pg")) x.tabIndex = 0;
  });
  document.fonts.ready.then(() => window.MathJax?.startup?.promise).then(reach, reach);
});"""


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


def link_to_labels(app: Sphinx, doctree: nodes.document) -> None:
    """Let other pages link to a label as to a section, ``page.md#label``: MyST knows headings alone."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for name, explicit in doctree.nametypes.items():
        if explicit and doctree.nameids.get(name):
            slugs.setdefault(name, (0, doctree.nameids[name], name))


class ShownRecord(SphinxDirective):
    """What a record shows, as Markdown: ``{shown} MODULE RECORD [VIEW]`` calls ``MODULE.show(record, view)``."""

    required_arguments, optional_arguments = 2, 1

    def run(self) -> list[nodes.Node]:
        """The tables and sentences that ``show`` returns."""
        module, name, *view = self.arguments
        text = importlib.import_module(module).show(records.read(name), *view)
        parent = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), f"record {name}"), self.content_offset, parent)
        return parent.children


def recorded(address: str) -> str:
    """A number out of a record, as text.

    Args:
        address: The record's name, the keys that lead to the number, and how to write it, as in
            ``train_cifar10/runs/0/test_accuracy:.1%``. In a list the key is the place, counted from 0.

    Raises:
        ValueError: If there is no such record, or no number at that place, or it cannot be written so.
    """
    path, colon, form = address.rpartition(":")
    name, *keys = path.split("/")
    if not (colon and keys):
        raise ValueError(f"{address!r} is no address of a number; expected RECORD/KEY/...:FORMAT")
    try:
        found = records.read(name)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    for key in keys:
        inside = {str(place): entry for place, entry in enumerate(found)} if isinstance(found, list) else found
        if not isinstance(inside, dict) or key not in inside:
            known = ", ".join(inside) if isinstance(inside, dict) else "nothing: a number stands there"
            raise ValueError(f"{address!r} leads nowhere: there is no {key!r}, but {known}")
        found = inside[key]
    if not isinstance(found, int | float):
        raise ValueError(f"{address!r} leads to a {type(found).__name__}; expected a number")
    return format(found, form).replace("%", "\N{NO-BREAK SPACE}%")


class RecordedNumber(SphinxRole):
    """``{record}`NAME/KEY/.../KEY:FORMAT```: a measured number, so that no page has to type one."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The number as text; what is wrong with the address is a warning, which fails the build."""
        try:
            return [nodes.Text(recorded(self.text))], []
        except ValueError as error:
            logging.getLogger(__name__).warning(str(error), location=self.get_location())
            return [nodes.Text("?")], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.add_css_file("book.css")
    app.add_css_file("print.css", media="print")
    app.add_directive("shown", ShownRecord)
    app.add_role("record", RecordedNumber())
    app.add_js_file(None, body=SEARCH_FROM_DISK)
    app.add_js_file(None, body=ACCESS)
    app.connect("config-inited", drop_launch_buttons)
    app.connect("config-inited", drop_thebe)
    app.connect("doctree-read", link_to_labels)
    app.connect("autodoc-process-docstring", keep_colons, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
