# devmail as an image: Debian 12's daemons, and the program that configures them and steps aside.
#
# Builds with the classic builder and with BuildKit, for the architectures that Debian 12 still has fixes
# for (LTS, until 2028-06-30): amd64, arm64, armhf and i386.
FROM debian:bookworm-slim

# Files in the state volume belong to these numbers, which must be the same in every image to come;
# a package would take whichever is free. SOURCE_DATE_EPOCH is the date of their passwords.
RUN export SOURCE_DATE_EPOCH=0 && \
    for user in postfix:901 dovecot:902 dovenull:903; do \
        groupadd --system --gid "${user#*:}" "${user%:*}" && \
        useradd --system --uid "${user#*:}" --gid "${user#*:}" \
            --home-dir /nonexistent --shell /usr/sbin/nologin "${user%:*}" || exit 1; \
    done && \
    groupadd --system --gid 904 postdrop && \
    rm -f /etc/*- /var/log/faillog /var/log/lastlog

# rainloop, roundcube or none. RainLoop's release is downloaded from GitHub, unless it is beside this
# file already.
ARG WEBMAIL=rainloop
COPY debian-*.txt /opt/devmail/
# The Python packages are Debian's, too: they get its security updates, need neither pip nor a
# compiler, and come compiled to byte code.
#
# What packages make for this one machine (a key, a certificate, logs, caches) is no part of an image.
# Nor is any way to another user's rights: `su` and the like are for people with accounts, and those of
# Postfix (postdrop, postqueue) for local users who send mail; here root alone calls them.
RUN apt-get update && \
    debconf-set-selections /opt/devmail/debian-answers.txt && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        $(find /opt/devmail \( -name debian-packages.txt -o -name "debian-packages-$WEBMAIL.txt" \) \
            -exec grep -hv "^#" {} +) \
        python3-click python3-cryptography python3-idna python3-jinja2 python3-yaml && \
    rm -rf /etc/*- /etc/dovecot/private/* /etc/ssl/*/ssl-cert-snakeoil.* \
        /var/cache/apt/*.bin /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
        /etc/roundcube/config.inc.php /etc/roundcube/debian-db.php /var/lib/apt/lists/* \
        /var/lib/dpkg/*-old /var/www/html/*.html && \
    find / -xdev -type f -perm /6000 -exec chmod ug-s {} + && \
    find /var/log -type f -delete && \
    find /etc/ssl/certs -xtype l -delete

COPY entrypoint.py rainloop-legacy-*.zip /opt/devmail/
COPY patches /opt/devmail/patches
COPY templates /opt/devmail/templates
COPY devmail_config /opt/devmail/devmail_config
# Byte code that is believed without a look at its source: the root file system may be read-only.
# Rendering leaves that of the templates.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/devmail/devmail_config && \
    DEVMAIL_WEBMAIL=none python3 /opt/devmail/entrypoint.py render --output /tmp/rendered && \
    rm -r /tmp/rendered && \
    ln -s /opt/devmail/entrypoint.py /usr/local/bin/devmail && \
    mkdir -p /var/lib/devmail /var/www/rainloop/data

ENV DEVMAIL_STATE_DIR=/var/lib/devmail \
    DEVMAIL_MAIL_DIR=/var/mail \
    DEVMAIL_WEBMAIL_DATA_DIR=/var/www/rainloop/data \
    DEVMAIL_RAINLOOP_DIR=/usr/local/share/rainloop \
    DEVMAIL_BIND_ADDRESS=0.0.0.0,::
RUN [ "$WEBMAIL" = none ] || \
    devmail install --webmail "$WEBMAIL" $(find /opt/devmail -name "*.zip" -printf "--archive %p") || \
    { echo "Put that archive beside the Dockerfile, or build with Debian's webmail:" \
        "--build-arg WEBMAIL=roundcube" >&2; \
      exit 1; }
EXPOSE 25 80 110 143 443 465 587 993 995
# Mailboxes; the webmail's data; and the queue with the CA of our own making.
VOLUME ["/var/mail", "/var/www/rainloop/data", "/var/lib/devmail"]

# Logs in to every service. The start period only has to last for a mail volume of another server,
# whose mailboxes are made ours first; a server that works is healthy as soon as one check says so.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 \
    CMD ["devmail", "health"]
ENTRYPOINT ["/opt/devmail/entrypoint.py"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="devmail" \
    org.opencontainers.image.description="A development mail server: any address is a mailbox, no mail leaves" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim" \
    org.opencontainers.image.version="$VERSION" \
    devmail.webmail="$WEBMAIL" \
    org.opencontainers.image.revision="$REVISION"
