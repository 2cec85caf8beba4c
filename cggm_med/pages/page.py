"""Filling in the templates of pages, which escape every value that is not HTML of a template."""

from __future__ import annotations

import base64
import datetime
import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

SHARED = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        title: its heading, which the table of contents links to.
        body: what follows the heading.
        wide: whether it is printed in landscape.
    """

    title: str
    body: Markup
    wide: bool = False

    @property
    def anchor(self) -> str:
        """Its name in an address.

        Example:
            >>> Section("Gradients in the plane", Markup("")).anchor
            'gradients-in-the-plane'
        """
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


class Templates:
    """The templates of a room, and those that all share: ``base.html``, ``sections.html`` and ``parts.html``.

    Args:
        folder: with the room's own.
    """

    def __init__(self, folder: Path) -> None:
        # select_autoescape() would go by file names; here everything is HTML.
        self._environment = Environment(
            loader=FileSystemLoader([folder, SHARED]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {"digest": _digest, "prose": _prose}

    def render(self, template: str, **content: Any) -> Markup:
        """A filled template.

        Args:
            template: file name.
            content: values by name; text is escaped.

        Raises:
            jinja2.UndefinedError: if the template needs a value that is not given.
        """
        return Markup(self._environment.get_template(template).render(content))  # noqa: S704 - escaped by the template

    def page(self, template: str, **content: Any) -> Markup:
        """A whole page: a filled template that extends ``base.html``, of today unless ``date`` is given."""
        return self.render(
            template,
            **{
                "style": _verbatim("style.css"),
                "script": _verbatim("script.js"),
                "version": importlib.metadata.version("cggm-med"),
                "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
                **content,
            },
        )


def _verbatim(name: str) -> Markup:
    """A shared file as it is: the style sheet or the script."""
    return Markup((SHARED / name).read_text(encoding="utf-8"))  # noqa: S704 - a file of this package


def _digest(content: str) -> str:
    """Digest by which the page's content security policy allows a style or a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _prose(text: str) -> Markup:
    """A sentence in which names stand between backticks.

    Example:
        >>> _prose("`a<b` against `joint`")
        Markup('<code>a&lt;b</code> against <code>joint</code>')
    """
    parts = enumerate(text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in parts)
