"""The Debian release that the daemons are of, and what its packages call things.

Nothing else in the package and the templates names a release, or the version of PHP, which each
release has another of. ``templates/dovecot`` is in the language of Dovecot 2.3; what a newer
release takes is in docs/architecture.md.
"""

from __future__ import annotations

RELEASE = "12"
CODENAME = "bookworm"

PHP_VERSION = "8.2"
PHP = f"/usr/bin/php{PHP_VERSION}"
PHP_FPM = f"/usr/sbin/php-fpm{PHP_VERSION}"
PHP_FPM_PACKAGE = f"php{PHP_VERSION}-fpm"
PHP_FPM_UNIT = f"{PHP_FPM_PACKAGE}.service"
