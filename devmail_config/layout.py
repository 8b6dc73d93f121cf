"""Where everything of one server lives, as values: nothing here changes the disk.

::

    <state>/            the one directory that devmail writes to; what it owns below has a mark
      run/              emptied and written anew at every start
        <daemon>/       the daemon's configuration, sockets and pid files
        fixed-settings.json   what `devmail reload` cannot change
        libexec/        the Python that daemons start: the rule of addresses, and no more
        supervisor/     the service directories
      spool/            Postfix's queue: outlives a restart
      postfix/          Postfix's own small state
      faults/           what faults that count have counted so far
      mail/             the mailboxes (or DEVMAIL_MAIL_DIR)
      webmail/          users' settings in the webmail (or DEVMAIL_WEBMAIL_DATA_DIR)
      rainloop/         RainLoop, if it was installed here (or DEVMAIL_RAINLOOP_DIR)
      tls/              the CA, the key of its signer, and the certificate that devmail made
      devmail.log       the log, when `devmail up` started the server
      lock              held while a server runs; contains the supervisor's process id
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from devmail_config.settings import Settings


@dataclass(frozen=True)
class Layout:
    """The absolute paths of one server."""

    state: Path
    mail: Path
    webmail_data: Path
    rainloop: Path

    @classmethod
    def of(cls, settings: Settings, working_directory: Path) -> Layout:
        """Derive the layout; relative paths start at ``working_directory``, links are resolved."""

        def place(chosen: Path | None, otherwise: Path) -> Path:
            # Path.resolve() raises at a loop of links; what is wrong with that, the judges say.
            return Path(os.path.realpath(working_directory / (chosen or otherwise)))

        state = place(settings.state_dir, settings.state_dir)
        return cls(
            state,
            mail=place(settings.mail_dir, state / "mail"),
            webmail_data=place(settings.webmail_data_dir, state / "webmail"),
            rainloop=place(settings.rainloop_dir, state / "rainloop"),
        )

    @property
    def run(self) -> Path:
        """The rendered tree, with the daemons' sockets in it."""
        return self.state / "run"

    @property
    def spool(self) -> Path:
        """Postfix's queue directory."""
        return self.state / "spool"

    @property
    def postfix_data(self) -> Path:
        """Postfix's data directory: locks, TLS session caches, the random seed."""
        return self.state / "postfix"

    @property
    def faults(self) -> Path:
        """What faults that count have counted so far: outlives a restart, as Postfix's queue."""
        return self.state / "faults"

    @property
    def tls(self) -> Path:
        """The CA and the certificate that devmail makes for itself."""
        return self.state / "tls"

    @property
    def log(self) -> Path:
        """The log of a server that was started in the background."""
        return self.state / "devmail.log"

    @property
    def lock(self) -> Path:
        """The file that a running server holds a lock on."""
        return self.state / "lock"

    @property
    def fixed_settings(self) -> Path:
        """Those settings of the running server that cannot change while it runs, as JSON."""
        return self.run / "fixed-settings.json"

    @property
    def libexec(self) -> Path:
        """The Python that daemons start, importable without this checkout."""
        return self.run / "libexec"

    @property
    def scan_directory(self) -> Path:
        """The supervisor's directory of service directories."""
        return self.run / "supervisor"

    def config(self, service: str) -> Path:
        """Give the directory of a daemon's rendered configuration."""
        return self.run / service
