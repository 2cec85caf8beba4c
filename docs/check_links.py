"""Check a built site: every link leads to a file and an anchor in it, and no page loads anything from elsewhere.

``python docs/check_links.py build/site`` prints what is wrong, one line each, and fails if anything is. Sphinx itself
refuses dead links in what it reads; this reads what it wrote, navigation, raw HTML and downloads included. Links to
other hosts are not followed.
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself, and what it follows when somebody clicks.
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
FOLLOWED = {("a", "href")}


class Page(HTMLParser):
    """The links of a page and the anchors in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[tuple[str, bool]] = []  # and whether a browser fetches it by itself
        self.anchors = {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what this element links to, and what may link to it."""
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")
            elif (tag, name) in LOADED | FOLLOWED:
                self.links.append((value or "", (tag, name) in LOADED))


def faults(site: Path) -> Iterator[str]:
    """One line for each link that is dead or fetched from elsewhere."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: no page; build the site first"
    for path, page in pages.items():
        for link, loaded in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if loaded and parts.scheme != "data":
                    yield f"{path.relative_to(site.resolve())}: fetches {link}"
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not to.is_file():
                yield f"{path.relative_to(site.resolve())}: {link} is not there"
            elif to in pages and unquote(parts.fragment) not in pages[to].anchors:
                yield f"{path.relative_to(site.resolve())}: {link} has no such anchor"


def main() -> None:
    """Print the faults of the site whose folder is the argument."""
    found = list(faults(Path(sys.argv[1])))
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main()
