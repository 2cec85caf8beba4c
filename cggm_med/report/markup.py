"""HTML from Python: elements whose text is escaped unless it is HTML already."""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = ("img", "br")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | int | None | Iterable["Content"]


def text(content: Content) -> Markup:
    """Content as HTML: markup as it is, everything else escaped; sequences are joined and None is nothing.

    Example:
        >>> text(["a < b", Markup("<br>"), None])
        'a &lt; b<br>'
    """
    if isinstance(content, Markup):
        return content
    if content is None:
        return Markup()
    if isinstance(content, (str, int)):
        return Markup(html.escape(str(content)))
    return Markup("".join(map(text, content)))


def element(name: str, *children: Content, **attributes: str | int | bool | None) -> Markup:
    """One element.

    Args:
        name: of the element.
        children: what is in it.
        attributes: escaped; ``class_`` stands for ``class``, other underscores for hyphens; None and False leave the
            attribute out, True gives it no value.

    Example:
        >>> element("a", "R&D", href="x.csv?a='1'", class_="link", hidden=None)
        '<a href="x.csv?a=&#x27;1&#x27;" class="link">R&amp;D</a>'
    """
    words = [name]
    for key, value in attributes.items():
        plain = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(plain)
        elif value is not None and value is not False:
            words.append(f'{plain}="{html.escape(str(value))}"')
    opening = f"<{' '.join(words)}>"
    return Markup(opening if name in VOID else f"{opening}{text(children)}</{name}>")


def section(title: str, *content: Content, wide: bool = False) -> Markup:
    """A section of the page with a heading, which the table of contents links to; a wide one is printed across."""
    return element("section", element("h2", title), content, id=anchor(title), class_="wide" if wide else None)


def anchor(title: str) -> str:
    """A section's name in an address.

    Example:
        >>> anchor("Gradients in the plane")
        'gradients-in-the-plane'
    """
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def paragraph(*content: Content) -> Markup:
    """A paragraph."""
    return element("p", *content)


def note(*content: Content) -> Markup:
    """A paragraph that explains or says what is absent, rather than what was found."""
    return element("p", *content, class_="note")


def code(words: str) -> Markup:
    """A command."""
    return element("code", words)


def details(summary: Content, *content: Content) -> Markup:
    """What is shown on demand, and in print."""
    return element("details", element("summary", summary), *content)
