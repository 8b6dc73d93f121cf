"""The users that everything runs as: those that Debian and the daemons' packages make.

Natively they are shared with whatever else the machine runs as them; docs/architecture.md says why
these, and as whom each process runs.
"""

from __future__ import annotations

# Owns the mailboxes, and serves them. Not in its own group, which may write to /var/mail of the
# machine, but in one that owns nothing: mailboxes are open to no group.
MAIL = "mail"
MAIL_GROUP = "nogroup"
# Owns the queue; Postfix's processes.
POSTFIX = "postfix"
# Owns the webmail's data: PHP, and nothing but PHP.
PHP = "www-data"
# Owns nothing: whatever strangers talk to, or what only computes. Dovecot's package makes this user
# for its login processes.
UNTRUSTED = "dovenull"
