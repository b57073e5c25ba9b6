"""What the book asks of Sphinx beyond its settings."""

from sphinx.application import Sphinx
from sphinx.config import Config


def drop_launch_buttons(app: Sphinx, config: Config) -> None:
    """Show no button that opens a chapter elsewhere while nothing says where the repository is."""
    if not config.html_theme_options.get("repository_url"):
        config.html_theme_options["launch_buttons"] = {}


def drop_thebe(app: Sphinx, config: Config) -> None:
    """Silence sphinx-thebe: unused here, and its script, loaded twice, logs an error on every page."""
    for listeners in app.events.listeners.values():
        listeners[:] = [x for x in listeners if not x.handler.__module__.startswith("sphinx_thebe")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.add_css_file("book.css")
    app.connect("config-inited", drop_launch_buttons)
    app.connect("config-inited", drop_thebe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
