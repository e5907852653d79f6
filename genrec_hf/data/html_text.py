"""Converts HTML in item titles and descriptions to plain text."""

import html
import re
from html.entities import html5

from bs4 import BeautifulSoup

# Elements whose content is not text of the page.
HIDDEN = ["script", "style", "head", "template", "noscript", "iframe", "object", "svg"]
INLINE = {"a", "abbr", "b", "big", "em", "font", "i", "mark", "s", "small", "span", "strong", "sub", "sup", "u"}
BLOCK = [
    "address", "area", "article", "aside", "audio", "base", "bdi", "bdo", "blink", "blockquote", "body", "br",
    "button", "canvas", "caption", "center", "cite", "code", "col", "colgroup", "dd", "del", "details", "dfn",
    "dir", "div", "dl", "dt", "embed", "fieldset", "figcaption", "figure", "footer", "form", "frame", "h1", "h2",
    "h3", "h4", "h5", "h6", "header", "hr", "html", "img", "input", "ins", "kbd", "label", "legend", "li", "link",
    "main", "map", "menu", "meta", "nav", "ol", "option", "p", "param", "picture", "pre", "q", "samp", "section",
    "select", "source", "strike", "summary", "table", "tbody", "td", "textarea", "tfoot", "th", "thead", "title",
    "tr", "tt", "ul", "var", "video", "wbr",
]  # fmt: skip
NAMES = "|".join(sorted({*HIDDEN, *INLINE, *BLOCK}, key=len, reverse=True))
# A "<" that does not begin one of these tags or a comment is text, as in "<10 cm and >2 cm".
NO_TAG = re.compile(rf"<(?!/?(?:{NAMES})(?:\s[^>]{{0,1000}})?/?>|!--[\s\S]{{0,2000}}?-->)", re.IGNORECASE)
ENTITY = re.compile(r"&(#\d{1,7};|#[xX][0-9a-fA-F]{1,6};|[A-Za-z][A-Za-z0-9]{1,31};)?")
BLOCK_TAG = re.compile(rf"</?(?:{'|'.join(BLOCK)})\b", re.IGNORECASE)
LOOKS_LIKE_HTML = re.compile(
    r"&(?:amp|quot|apos|lt|gt|nbsp|#\d+);|</?(?:b|br|div|i|li|p|script|span|style|ul)\b[^<>]*>", re.I
)
# In Amazon's metadata of 2018, the title of some rows is a script of the page.
PAGE_SCRIPT = re.compile(r"\.getTime\(\)")


def html_to_text(text: str) -> str:
    """Convert HTML to plain text: remove tags, comments, scripts and styles, and decode entities repeatedly.

    Args:
        text (`str`): HTML, or plain text, in which a "<" that does not begin an HTML tag is kept.

    Returns:
        `str`: plain text with single spaces; `""` for a text that is a script of the page.

    Example:
        >>> html_to_text("<b>Lip</b>stick &amp;amp; balm<br>for screens <10 cm and >2 cm")
        'Lipstick & balm for screens <10 cm and >2 cm'
    """
    # Texts of shops are escaped up to three times.
    for _ in range(4):
        text, previous = _unescape_once(text), text
        if text == previous:
            break
    return "" if PAGE_SCRIPT.search(text) else " ".join(text.split())


def _unescape_once(text: str) -> str:
    text = ENTITY.sub(_escape_ampersand, text) if "&" in text else text
    if "<" not in text:
        return html.unescape(text)
    marked = BLOCK_TAG.sub(r" \g<0>", NO_TAG.sub("&lt;", text))
    soup = BeautifulSoup(marked, "html.parser")
    for tag in soup.find_all(HIDDEN):
        tag.decompose()
    return soup.get_text()


def _escape_ampersand(entity: re.Match[str]) -> str:
    known = entity[1] and (entity[1].startswith("#") or entity[1] in html5)
    return entity[0] if known else f"&amp;{entity[1] or ''}"
