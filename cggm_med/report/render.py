"""Rendering the report's HTML from templates, which escape every value that is not HTML of a template."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Section:
    """A section of the page.

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


def render(template: str, **content: Any) -> Markup:
    """A filled template.

    Args:
        template: file name in ``templates/``.
        content: values by name; text is escaped.

    Raises:
        jinja2.UndefinedError: if the template needs a value that is not given.
    """
    return Markup(_ENVIRONMENT.get_template(template).render(content))  # noqa: S704 - escaped by the template


def verbatim(name: str) -> Markup:
    """A file in ``templates/`` as it is: a style sheet or a script."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704 - a file of this package


def _digest(content: str) -> str:
    """Digest by which the page's content security policy allows a style or a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


# select_autoescape() would go by file names; here everything is HTML.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters["digest"] = _digest
