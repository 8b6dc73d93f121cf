"""What a person wants to know about a server that has just started: what is where."""

from __future__ import annotations

from devmail_config import surroundings, tls, webmail
from devmail_config.layout import Layout
from devmail_config.render import endpoint, reachable
from devmail_config.services import listeners
from devmail_config.settings import Settings
from devmail_config.surroundings import Machine

_TLS_WORDS = {"starttls": "plain or STARTTLS", "implicit": "TLS", "none": "plain"}


def summary(settings: Settings, layout: Layout, machine: Machine) -> str:
    """Say where every service is, how to log in, and where the CA is."""
    address = reachable(surroundings.available_addresses(settings))
    chosen, _ = webmail.choose(settings, layout, machine)
    page = f"http://{endpoint(address, settings.port('http')).removesuffix(':80')}/"
    secure_page = f"https://{settings.hostname}:{settings.port('https')}/".replace(":443/", "/")
    rows = [
        f"  {listener.name:<11}{endpoint(address, settings.port(listener.name)):<18}"
        f"{_TLS_WORDS[listener.tls]:<19}{listener.purpose}"
        for listener in listeners(with_webmail=chosen is not None)
    ]
    return "\n".join(
        [
            "",
            *rows,
            "",
            "  login      the full address; the password is the part before the @",
            "             for example mail1@company1.com with the password mail1",
            f"  pages      {page} and {secure_page}",
            f"  webmail    {chosen.title}, at {secure_page}" if chosen else "  webmail    none",
            f"  CA         {page}ca.crt",
            f"             SHA-256 {tls.planned(settings, layout).ca_fingerprint}",
        ]
    )
