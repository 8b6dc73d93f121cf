"""The registry: which daemons make up the server, how each is run, and what it listens on.

A daemon's configuration is whatever stands in ``templates/<name>/``. In ``command`` and ``check``,
``{config}`` is the directory where that was rendered, and ``{libexec}`` that of our programs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from devmail_config import debian, users

# Debian's own interpreter, which every user may execute, unlike that of a checkout in /root.
PYTHON = "/usr/bin/python3"

# The floor of TLS on every port of every daemon (RFC 9325): the versions, the oldest first, and the
# suites of 1.2 in OpenSSL's words, ciphers(1). They have forward secrecy, a server that proves who
# it is, AES or ChaCha20, and nothing worth less than 112 bits, signatures and curves included. DHE
# is not among them: each daemon would choose its groups in its own way.
TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")
TLS_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!AESCCM:@SECLEVEL=2"

# Who checks the server's health, as the daemons' logs see it: the user, and where the client
# connects from if it is to the loopback address.
HEALTH_CHECK = "devmail-health"
HEALTH_CHECK_ADDRESS = "127.0.0.25"

# Seconds that a daemon gets to rest when it keeps dying, and nothing depends on it.
REST_SECONDS = 10

# As syslog writes it: Nov 25 07:00:00
_STAMP = r"[A-Z][a-z][a-z] [ \d]\d \d\d:\d\d:\d\d "


@dataclass(frozen=True)
class Service:
    """One daemon."""

    name: str
    # Runs the daemon in the foreground.
    command: tuple[str, ...]
    # Lets the daemon itself judge its configuration; empty where there is nothing to judge.
    check: tuple[str, ...] = ()
    # Sockets below the run directory that must be there before the daemon starts.
    waits_for: tuple[str, ...] = ()
    # The signal for an orderly end, and the seconds after which the supervisor insists.
    stop_signal: str = "TERM"
    stop_seconds: int = 5
    # Whether there is no mail server without it: if it keeps dying, everything ends. Anything else
    # is left alone for a while then.
    is_essential: bool = False
    # Whether HUP makes it read its configuration again, and lets its clients finish.
    reloads: bool = False
    # Directories below the run directory, besides its own, of which it or its children remember
    # what they have read.
    keeps: tuple[str, ...] = ()
    # How a line begins that the daemon puts its name into, as a regular expression of Perl. Every
    # other line of its log gets the name in front. The default matches none.
    own_line: str = "(?!)"
    # The lines that a health check leaves in the log when all is well, as such expressions. They
    # are left out of it: every few seconds, they would bury the lines of real clients.
    routine: tuple[str, ...] = ()


SERVICES = (
    Service(
        "dovecot",
        command=("/usr/sbin/dovecot", "-F", "-c", "{config}/dovecot.conf"),
        check=("/usr/bin/doveconf", "-n", "-c", "{config}/dovecot.conf"),
        is_essential=True,
        # It takes one. If it has only just begun, it waits five for children that wait for it.
        stop_seconds=3,
        reloads=True,
        own_line=rf"^{_STAMP}dovecot: ",
        routine=(
            rf" Login: user=<{HEALTH_CHECK}@",
            rf"\({HEALTH_CHECK}@[^ ]*: Info: Disconnected: Logged out ",
        ),
    ),
    Service(
        "postfix",
        # What `postfix start-fg` would do, without the shell that it leaves in between.
        command=("/usr/lib/postfix/sbin/master", "-s", "-c", "{config}"),
        # Reads main.cf, and puts the queue in order, which has to be done before every start.
        check=("/usr/sbin/postsuper", "-c", "{config}"),
        is_essential=True,
        reloads=True,
        # Its children are the programs that decide about addresses and faults.
        keeps=("libexec",),
        # Without the first, smtpd dies at its first client; without the second, mail that waited
        # in the queue since the last stop would be tried, and perhaps bounced, too early.
        waits_for=("dovecot/base/postfix-auth", "dovecot/base/lmtp"),
        own_line=rf"^{_STAMP}\S+ postfix/",
        routine=(
            rf": connect from [^ ]*\[{HEALTH_CHECK_ADDRESS}\]$",
            rf": disconnect from [^ ]*\[{HEALTH_CHECK_ADDRESS}\] .* auth=1 mail=1 quit=1 ",
        ),
    ),
    Service(
        "nginx",
        command=("/usr/sbin/nginx", "-c", "{config}/nginx.conf"),
        check=("/usr/sbin/nginx", "-q", "-t", "-c", "{config}/nginx.conf"),
        reloads=True,
        stop_signal="QUIT",
        stop_seconds=2,
        routine=(rf' 200 [0-9]* "{HEALTH_CHECK}"$',),
    ),
    # What nginx asks about an address. Starts one process of ours for each question. The socket is
    # root's, and open to the group of nginx's worker.
    Service(
        "page",
        command=(
            *("/usr/bin/setpriv", "--regid", users.UNTRUSTED, "--clear-groups"),
            *("/usr/bin/s6-ipcserver-socketbinder", "-a", "0660", "{config}/socket"),
            *("/usr/bin/s6-setuidgid", users.UNTRUSTED, "/usr/bin/s6-ipcserverd"),
            *(PYTHON, "-ISE", "{libexec}", "page", "{config}"),
        ),
    ),
)

# Runs the webmail, for nginx. A server without a webmail does without it.
PHP = Service(
    "php",
    # Extensions are loaded by the rendered php.ini alone; Debian's directory of them, which any
    # other package may add to, stays out of it.
    command=(
        *("/usr/bin/env", "PHP_INI_SCAN_DIR=", debian.PHP_FPM, "--nodaemonize"),
        *("--fpm-config", "{config}/php-fpm.conf", "-c", "{config}/php.ini"),
    ),
    check=(
        *("/usr/bin/env", "PHP_INI_SCAN_DIR=", debian.PHP_FPM, "--test"),
        *("--fpm-config", "{config}/php-fpm.conf", "-c", "{config}/php.ini"),
    ),
    stop_signal="QUIT",
    stop_seconds=2,
)


def running(*, with_webmail: bool) -> tuple[Service, ...]:
    """List the daemons of a server."""
    return (*SERVICES, PHP) if with_webmail else SERVICES


@dataclass(frozen=True)
class Listener:
    """One kind of port that clients connect to; ``port`` is the well-known number."""

    name: str
    port: int
    protocol: str
    # "starttls" (also without any), "implicit" (from the first byte) or "none".
    tls: str
    purpose: str


LISTENERS = (
    Listener("smtp", 25, "SMTP", "starttls", "send mail"),
    Listener("submission", 587, "SMTP", "starttls", "send mail"),
    Listener("smtps", 465, "SMTP", "implicit", "send mail"),
    Listener("imap", 143, "IMAP", "starttls", "read mail"),
    Listener("imaps", 993, "IMAP", "implicit", "read mail"),
    Listener("pop3", 110, "POP3", "starttls", "read mail"),
    Listener("pop3s", 995, "POP3", "implicit", "read mail"),
    Listener("http", 80, "HTTP", "none", "this server's page, and its CA certificate"),
    Listener("https", 443, "HTTP", "implicit", "this server's page"),
)


def listeners(*, with_webmail: bool) -> tuple[Listener, ...]:
    """List the ports of a server, each with its purpose there."""
    return tuple(
        replace(one, purpose="webmail") if with_webmail and one.name == "https" else one
        for one in LISTENERS
    )
