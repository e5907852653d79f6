"""HTML of shops as plain text, and plain text as it is."""

import warnings

import pytest

from genrec_hf.data.html_text import LOOKS_LIKE_HTML, html_to_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("Lip &amp; Care", "Lip & Care"),
        ("AT&amp;amp;T &amp;quot;One&amp;quot;", 'AT&T "One"'),
        ("for screens <10 cm and >2 cm", "for screens <10 cm and >2 cm"),
        ("a <b c> d", "a d"),
        ("size <XL> or <3 hearts <- and 1<2", "size <XL> or <3 hearts <- and 1<2"),
        ("for legs <b", "for legs <b"),
        ("x &lt;10 cm", "x <10 cm"),
        ("&lt;b&gt;Bold&lt;/b&gt; words", "Bold words"),
        ("one<br>two<br/>three<p>four</p>five", "one two three four five"),
        ("<ul><li>one</li><li>two</li></ul>", "one two"),
        ("<b>Lip</b>stick H<sub>2</sub>O", "Lipstick H2O"),
        ("<style>p {color: red}</style>Soap<script>alert('x < y')</script>", "Soap"),
        ("Soap<!-- hidden --> bar", "Soap bar"),
        ("Soap<script>never closed", "Soap"),
        ('<span class="a" onclick="go(1)">Soap</span>', "Soap"),
        ("<script>var aPageStart = (new Date()).getTime();</script>", ""),
        ("var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();", ""),
        ("</span></span></span>", ""),
        ("R&D Q&A &notanentity; AT&T", "R&D Q&A &notanentity; AT&T"),
        ("5&nbsp;oz caf&eacute; &#34;x&#34; &#x27;y&#x27;", "5 oz café \"x\" 'y'"),
        ("https://example.org/a.html", "https://example.org/a.html"),
        ("<a href='https://example.org'>link</a>", "link"),
        ("", ""),
        ("日本語 <3 ünï", "日本語 <3 ünï"),
    ],
)
def test_html_to_text(html, text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert html_to_text(html) == text
        assert html_to_text(text) == text, "plain text stays as it is"


def test_hostile_html_is_read_in_reasonable_time():
    assert html_to_text("<div>" * 3_000 + "Soap") == "Soap"
    assert html_to_text("<a " * 3_000 + "Soap").endswith("Soap")
    assert html_to_text("<!-- " * 3_000 + "Soap").endswith("Soap")
    assert html_to_text("&amp;" * 3_000) == "&" * 3_000


def test_what_looks_like_html():
    assert all(map(LOOKS_LIKE_HTML.search, ["a &amp; b", "a<br>b", "<p>x", "&#39;"]))
    assert not any(map(LOOKS_LIKE_HTML.search, ["R&D", "<10 cm and >2 cm", "a < b > c", "<3"]))
