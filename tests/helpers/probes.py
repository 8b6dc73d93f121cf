"""Mails that try to run a script in the webmail of whoever opens them."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import EmailMessage

from playwright.sync_api import ConsoleMessage, Page

from tests.helpers.clients import smtp, wait_for_message
from tests.helpers.server import Server

RAN = "a script of the mail ran"
RUN = f"console.log(&quot;{RAN}&quot;)"
# An image that fails to load, and asks no server for it.
IMAGE = f"<img src=&quot;data:,&quot; onerror='{RUN.replace('&quot;', '&amp;quot;')}'>"

# HTML that runs a script by itself in a page that no sanitiser has seen.
PLAIN_PROBES = {
    "script": f"<script>{RUN.replace('&quot;', chr(34))}</script>",
    "img": f'<img src="data:," onerror="{RUN}">',
    "svg": f'<svg onload="{RUN}"></svg>',
    "svg script": f"<svg><script>{RUN}</script></svg>",
    "svg animate": f'<svg><animate onbegin="{RUN}" attributeName="x" dur="1s"></svg>',
    "details": f'<details open ontoggle="{RUN}">x</details>',
    "input": f'<input autofocus onfocus="{RUN}">',
    "video": f'<video><source onerror="{RUN}"></video>',
    "iframe": f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    "frame": f"<iframe src='javascript:parent.{RUN}'></iframe>",
    "object": f"<object data='javascript:parent.{RUN}'></object><img src=data:, onerror='{RUN}'>",
    "math": "<math><mtext><table><mglyph><style><!--</style>"
    f"<img title='--&gt;&lt;img src=data:, onerror={RUN.replace('&quot;', '`')}&gt;'>"
    f"<img src=data:, onerror='{RUN}'>",
}
# HTML that a sanitiser finds harmless, and that would become live when it is written out again:
# a comment's mark inside of an attribute, inside of an element whose content browsers do not parse.
RAW_TEXT = ("noembed", "noscript", "noframes", "xmp", "textarea", "iframe", "style", "title")
HIDDEN_PROBES = {
    **{
        f"comment in {tag}": f'<{tag}><p title="<!--</{tag}>{IMAGE}-->"></p></{tag}>'
        for tag in RAW_TEXT
    },
    "comment in select": '<select><textarea><p title="<!--</textarea></select>'
    f'{IMAGE}-->"></p></textarea></select>',
    "comment in body": f'<body title="<!--</noembed>{IMAGE}-->"><noembed>x</noembed></body>',
    "comment in svg": f'<svg><style><p title="<!--</style>{IMAGE}-->"></style></svg>',
}
LINK_PROBES = {
    "link": f'<a href="javascript:{RUN}">click</a>',
    "hidden link": f'<a href="java&#10;script:{RUN}">click</a>',
    "form": f'<form action="javascript:{RUN}"><button>click</button></form>',
    "button": f'<form><button formaction="javascript:{RUN}">click</button></form>',
}
PROBES = {**PLAIN_PROBES, **HIDDEN_PROBES, **LINK_PROBES}
VICTIM = "victim@xss.example"


def listen(page: Page) -> list[str]:
    """Give a list that grows by one for each time that a probe runs."""
    ran: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.text == RAN:
            ran.append(message.text)

    page.context.on("console", hear)
    return ran


def send_probes(server: Server, probes: Mapping[str, str]) -> None:
    """Send each probe to the victim, in a mail of its own."""
    with smtp(server, VICTIM) as client:
        for name, html in probes.items():
            message = EmailMessage()
            message["From"] = message["To"] = VICTIM
            message["Subject"] = f"probe {name}."
            message.set_content(f"<html><body><p>before</p>{html}<p>after</p></body></html>")
            message.set_type("text/html")
            client.sendmail(VICTIM, [VICTIM], message.as_bytes())
    for name in probes:
        wait_for_message(server, VICTIM, f"probe {name}.")
