"""aiosmtpd as a server that lets anyone log in and keeps what it takes in a Maildir."""

import asyncio
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import AuthResult

port, directory = int(sys.argv[1]), sys.argv[2]
Controller(
    Mailbox(directory),
    hostname="127.0.0.1",
    port=port,
    authenticator=lambda *_: AuthResult(success=True),
    auth_require_tls=False,
).start()
asyncio.new_event_loop().run_forever()
