"""The limits of the webmail's PHP, whatever script it is made to run."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import time
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from pathlib import Path
from typing import NamedTuple

import pytest

from devmail_config.webmail import Webmail
from tests.helpers.clients import messages, smtp, wait_for_message
from tests.helpers.fastcgi import run_script
from tests.helpers.roundcube import Session
from tests.helpers.server import Server, state_directory
from tests.helpers.webmail import installed_webmails, server_with

SECRET = "an open secret"  # noqa: S105 - what must not be read


@pytest.fixture(scope="module", params=installed_webmails())
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server_with(request.param) as running:
        yield running


# --- Which functions of PHP get through ----------------------------------------------------------

# Expressions that are true if they get through. $out is a directory that every user may read and
# write, $box one that the script may use, $secret what is in the files in $out. ran() tells whether
# the program that was to be started has been.
PROGRAMS = {
    "exec": "exec($touch) || ran()",
    "shell_exec": "shell_exec($touch) || ran()",
    "backticks": "`$touch` || ran()",
    "system": "system($touch) || ran()",
    "passthru": "passthru($touch) || ran()",
    "popen": "pclose(popen($touch, 'r')) || ran()",
    "proc_open": "proc_close(proc_open($touch, [], $pipes)) || ran()",
    "proc_open, a list": "proc_close(proc_open(['touch', \"$box/ran\"], [], $pipes)) || ran()",
    "by another name": "('ex' . 'ec')($touch) || ran()",
    "call_user_func": "call_user_func('exec', $touch) || ran()",
    "array_map": "array_map('exec', [$touch]) && ran()",
    "Closure": "(Closure::fromCallable('exec'))($touch) || ran()",
    "reflection": "(new ReflectionFunction('exec'))->invoke($touch) || ran()",
    "pcntl_exec": "function_exists('pcntl_exec')",
    "pcntl_fork": "function_exists('pcntl_fork')",
    "posix_kill": "posix_kill(getmypid(), 0)",
    "proc_nice": "proc_nice(1)",
    "mail": "mail('a@x.test', 's', 'b') && ran()",
    "mail with parameters": "mail('a@x.test', 's', 'b', '', \"$box/also\") && ran()",
    "mb_send_mail": "mb_language('uni') && mb_send_mail('a@x.test', 's', 'b') && ran()",
    "error_log by mail": "error_log('x', 1, 'a@x.test') && ran()",
}
ENVIRONMENT = {
    "LD_PRELOAD": "putenv('LD_PRELOAD=/x.so') && getenv('LD_PRELOAD') === '/x.so'",
    "GCONV_PATH": "putenv(\"GCONV_PATH=$box\") && getenv('GCONV_PATH') === $box",
    "TZDIR": "putenv(\"TZDIR=$box\") && getenv('TZDIR') === $box",
    "the environment of the server": "getenv('PATH') !== false",
    "dl": "function_exists('dl') && ini_get('enable_dl')",
    "FFI": "class_exists('FFI')",
}
READING = {
    "file_get_contents": 'has(file_get_contents("$out/secret"))',
    "/etc/passwd": "str_contains(file_get_contents('/etc/passwd'), 'root:')",
    "/proc": "strlen(file_get_contents('/proc/self/environ')) > 0",
    "/proc/self/root": 'has(file_get_contents("/proc/self/root$out/secret"))',
    "file": 'has(implode(file("$out/secret")))',
    "fopen": "has(fread(fopen(\"$out/secret\", 'r'), 99))",
    "from the top": 'has(file_get_contents("$box/../../../../../..$out/secret"))',
    "file URL": 'has(file_get_contents("file://$out/secret"))',
    "readfile": 'readfile("$out/secret") && has(ob_get_contents())',
    "include": '(include "$out/secret") && has(ob_get_contents())',
    "highlight_file": "has(str_replace('&nbsp;', ' ', highlight_file(\"$out/secret\", true)))",
    "php_strip_whitespace": 'has(php_strip_whitespace("$out/secret"))',
    "opcache_compile_file": 'opcache_compile_file("$out/secret")',
    "parse_ini_file": "has(parse_ini_file(\"$out/secret.ini\")['x'])",
    "md5_file": 'md5_file("$out/secret") === md5($secret)',
    "hash_file": "hash_file('sha256', \"$out/secret\") === hash('sha256', $secret)",
    "filter": "has(base64_decode(file_get_contents("
    '"php://filter/read=convert.base64-encode/resource=$out/secret")))',
    "zlib": 'has(file_get_contents("compress.zlib://$out/secret"))',
    "glob URL": 'iterator_count(new DirectoryIterator("glob://$out/*")) > 0',
    "DirectoryIterator": "iterator_count(new DirectoryIterator($out)) > 2",
    "scandir": "count(scandir($out)) > 2",
    "opendir": "readdir(opendir($out)) !== false",
    "glob": 'count(glob("$out/*")) > 0',
    "stat": "stat(\"$out/secret\")['size'] > 0",
    "file_exists": 'file_exists("$out/secret")',
    "SplFileObject": 'has((new SplFileObject("$out/secret"))->fgets())',
    "copy": 'copy("$out/secret", "$box/copied") && has(file_get_contents("$box/copied"))',
    "symlink": 'symlink("$out/secret", "$box/s") && has(file_get_contents("$box/s"))',
    "link": 'link("$out/linked", "$box/l") && has(file_get_contents("$box/l"))',
    "rename": 'rename("$out/moved", "$box/m") && has(file_get_contents("$box/m"))',
    "simplexml": 'has((string) simplexml_load_file("$out/secret.xml"))',
    "DOM": '($d = new DOMDocument()) && $d->load("$out/secret.xml") && has($d->saveXML())',
    "an entity": "($d = new DOMDocument()) && $d->loadXML("
    "\"<!DOCTYPE a [<!ENTITY b SYSTEM 'file://$out/secret'>]><a>&b;</a>\", LIBXML_NOENT)"
    " && has($d->textContent)",
    "certificate": 'openssl_x509_read("file://$out/cert.pem") !== false',
    "sqlite": "has((new PDO(\"sqlite:$out/secret.db\"))->query('SELECT x FROM t')->fetchColumn())",
    "ATTACH": "($p = new PDO('sqlite::memory:'))"
    " && $p->exec(\"ATTACH '$out/secret.db' AS o\") !== false"
    " && has($p->query('SELECT x FROM o.t')->fetchColumn())",
    "zip": '($z = new ZipArchive()) && $z->open("$out/secret.zip") === true'
    " && has($z->getFromName('secret'))",
    "into a zip": '($z = new ZipArchive()) && $z->open("$box/z.zip", 9) === true'
    " && $z->addFile(\"$out/secret\", 's') && $z->close()"
    ' && has(file_get_contents("zip://$box/z.zip#s"))',
    "finfo": '(new finfo())->file("$out/secret") !== false',
    "getimagesize": 'getimagesize("$out/pixel.gif") !== false',
    "tighter, then wider": '(mkdir("$box/a/b", 0700, true) && chdir("$box/a/b")'
    " && [ini_set('open_basedir', '..'), chdir('..'), chdir('..'), chdir('..'), chdir('..'),"
    " chdir('..'), chdir('..'), chdir('..'), ini_set('open_basedir', '/')])"
    ' && has(file_get_contents("$out/secret"))',
    "open_basedir": "(ini_set('open_basedir', '/') || true)"
    ' && has(file_get_contents("$out/secret"))',
    "ini_restore": "(ini_restore('open_basedir') || true)"
    ' && has(file_get_contents("$out/secret"))',
}
WRITING = {
    "file_put_contents": "file_put_contents(\"$out/new1\", 'x') === 1",
    "append": "fwrite(fopen(\"$out/new2\", 'a'), 'x') === 1",
    "SplFileObject": "(new SplFileObject(\"$out/new3\", 'w'))->fwrite('x') === 1",
    "mkdir": 'mkdir("$out/new4")',
    "touch": 'touch("$out/new5")',
    "chmod": 'chmod("$out/mine", 0600)',
    "unlink": 'unlink("$out/doomed")',
    "tempnam": "dirname(tempnam($out, 'x')) === $out",
    "copy": 'copy(__FILE__, "$out/new6")',
    "rename": 'file_put_contents("$box/r", \'x\') && rename("$box/r", "$out/new7")',
    "error_log": "error_log('x', 3, \"$out/new8\")",
    "error_log, the setting": "ini_set('error_log', \"$out/new9\") !== false",
    "sessions": "ini_set('session.save_path', $out) !== false",
    "zip": '($z = new ZipArchive()) && $z->open("$out/new.zip", 9) === true'
    " && $z->addFromString('a', 'b') && $z->close()",
    "sqlite": "(new PDO(\"sqlite:$out/new.db\"))->exec('CREATE TABLE t (x)') !== false",
    "VACUUM INTO": "(new PDO('sqlite::memory:'))->exec(\"VACUUM INTO '$out/vacuum.db'\") !== false",
    "DOM": "($d = new DOMDocument()) && $d->loadXML('<a/>') && $d->save(\"$out/new.xml\")",
    "a key": 'openssl_pkey_export_to_file(openssl_pkey_new(), "$out/new.pem")',
    "chown": "chown(__FILE__, getmyuid())",
}
NETWORK = {
    "HTTP": 'file_get_contents("http://127.0.0.1:$http/en") !== false',
    "HTTP, included": "(include 'data:text/plain,<?php return 7;') === 7",
    "pfsockopen": "pfsockopen('127.0.0.1', $http) !== false",
    "a server": "stream_socket_server('tcp://127.0.0.1:0') !== false",
    "a server on a path": 'stream_socket_server("unix://$out/socket") !== false',
    "a pair": "stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0) !== false",
    "gethostbyname": "gethostbyname('localhost') === '127.0.0.1'",
    "DNS": "function_exists('dns_get_record')",
    "the log of the machine": "openlog('x', LOG_PID, LOG_USER)",
}
TIME = {
    "set_time_limit": "set_time_limit(1000)",
    "max_execution_time": "ini_set('max_execution_time', 1000) !== false",
}
PROBES = {
    f"{kind}: {name}": expression
    for kind, probes in {
        "program": PROGRAMS,
        "environment": ENVIRONMENT,
        "reading": READING,
        "writing": WRITING,
        "network": NETWORK,
        "time": TIME,
    }.items()
    for name, expression in probes.items()
}
# As the webmails do all the time.
OWN = {
    "uploads": 'file_put_contents("$box/u", \'x\') === 1 && rename("$box/u", "$box/v")'
    ' && file_get_contents("$box/v") === \'x\' && unlink("$box/v")',
    "a directory": 'mkdir("$box/d") && is_dir("$box/d") && rmdir("$box/d")',
    "temporary files": "dirname(tempnam(sys_get_temp_dir(), 'x')) === $box && tmpfile() !== false",
    "its data": "file_put_contents(\"$data/x\", 'x') === 1 && count(scandir($data)) > 2"
    ' && unlink("$data/x")',
    # RainLoop has its own.
    "sessions": "!str_contains($data, 'roundcube') || session_start() && session_destroy()",
    "its scripts": 'is_file("$root/index.php") && is_readable("$root/index.php")',
    "IMAP": "str_starts_with(fgets(fsockopen($host, $imap)), '* OK')",
    "submission": "str_starts_with("
    "fgets(stream_socket_client(\"tcp://$host:$submission\")), '220')",
    "IMAP over TLS": "str_starts_with(fgets(fsockopen($host, $imap)), '* OK')",
    "tighter": "ini_set('open_basedir', $box) !== false",
}
SCRIPT = """<?php
error_reporting(0);
[{variables}] = json_decode({values}, true);
$touch = "touch $box/ran";
function has($text): bool {{ global $secret; return str_contains((string) $text, $secret); }}
function ran(): bool
{{
    global $box;
    clearstatcache();
    return is_file("$box/ran") && unlink("$box/ran");
}}
$results = [];
{probes}
while (ob_get_level()) {{ ob_end_clean(); }}
echo json_encode($results);
"""
PROBE = """ob_start();
try {{
    $results[{name}] = (bool) ({expression});
}} catch (Throwable) {{
    $results[{name}] = false;
}}
ob_end_clean();
"""


class Places(NamedTuple):
    """The files and ports that the probes are about."""

    out: Path
    box: Path
    data: Path
    root: Path
    ports: dict[str, int]


def script(expressions: Mapping[str, str], places: Places) -> str:
    values = {
        "secret": SECRET,
        "host": "127.0.0.1",
        **{name: str(getattr(places, name)) for name in ("out", "box", "data", "root")},
        **places.ports,
    }
    return SCRIPT.format(
        variables=", ".join(f"'{name}' => ${name}" for name in values),
        values=f"'{json.dumps(values)}'",
        probes="".join(
            PROBE.format(name=f"'{name}'", expression=expression)
            for name, expression in expressions.items()
        ),
    )


def places_of(server: Server) -> Places:
    """Make a directory that only the limits of PHP keep PHP from."""
    out = state_directory()
    out.chmod(0o777)
    for name in ("secret", "linked", "moved", "doomed", "mine"):
        (out / name).write_text(SECRET)
    (out / "secret.ini").write_text(f'x = "{SECRET}"')
    (out / "secret.xml").write_text(f"<a>{SECRET}</a>")
    (out / "pixel.gif").write_bytes(b"GIF89a\1\0\1\0\0\0\0;")
    shutil.copy(server.state / "tls/mail.cert.pem", out / "cert.pem")
    with sqlite3.connect(out / "secret.db") as database:
        database.execute("CREATE TABLE t AS SELECT ? AS x", (SECRET,))
    database.close()
    with zipfile.ZipFile(out / "secret.zip", "w") as archive:
        archive.writestr("secret", SECRET)
    for path in out.iterdir():
        path.chmod(0o666)
    for name in ("mine", "linked"):
        shutil.chown(out / name, "www-data")
    is_roundcube = server.settings["webmail"] == "roundcube"
    return Places(
        out,
        server.state / "run/php/uploads",
        server.state / ("webmail/roundcube" if is_roundcube else "webmail"),
        Path("/var/lib/roundcube") if is_roundcube else Path(server.settings["rainloop_dir"]),
        {name: server.port(name) for name in ("http", "imap", "submission")},
    )


@pytest.fixture
def places(server: Server) -> Iterator[Places]:
    made = places_of(server)
    yield made
    shutil.rmtree(made.out)
    for path in made.box.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def run_in_fpm(server: Server, places: Places, text: str) -> str:
    path = places.box / "probe.php"
    path.write_text(text)
    shutil.chown(path, "www-data")
    return run_script(server.state / "run/php/fpm.sock", path)[0]


def test_php_can_do_nothing_but_its_work(server: Server, places: Places) -> None:
    results = json.loads(run_in_fpm(server, places, script({**PROBES, **OWN}, places)))
    assert {name for name in PROBES if results[name]} == set()
    assert {name for name in OWN if not results[name]} == set()


def test_the_probes_get_through_where_nothing_stops_them(
    places: Places, own_directory: Path
) -> None:
    places = places._replace(box=own_directory)
    path = own_directory / "probe.php"
    path.write_text(script(PROBES, places))
    extensions = (
        *("pdo", "dom", "fileinfo", "ffi", "mbstring", "pdo_sqlite", "posix"),
        *("simplexml", "zip"),
    )
    done = subprocess.run(
        [
            *("php8.2", "-n", "-d", "display_errors=0", "-d", "display_startup_errors=0"),
            *("-d", "zend_extension=opcache", "-d", "opcache.enable_cli=1", "-d", "ffi.enable=1"),
            *("-d", "allow_url_include=1", "-d", f"sendmail_path=touch {own_directory}/ran"),
            *(word for name in extensions for word in ("-d", f"extension={name}")),
            path,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads(done.stdout)
    assert {name for name in PROBES if not results[name]} == set()


def test_a_directory_has_no_settings_of_its_own(server: Server, places: Places) -> None:
    settings = places.box / ".user.ini"
    settings.write_text("user_agent = taken\n")
    settings.chmod(0o644)
    assert run_in_fpm(server, places, "<?php var_dump(ini_get('user_agent'));") == 'string(0) ""\n'


# --- Logins --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roundcube() -> Iterator[Server]:
    with Server(None, webmail="roundcube") as running:
        yield running


def test_wrong_passwords_have_no_limit_and_no_delay(roundcube: Server) -> None:
    login = "lock@x.test"

    def timed(password: str, status: int) -> float:
        session = Session(roundcube)
        began = time.monotonic()
        answer = session.log_in(login, password)
        assert answer.status == status, answer
        return time.monotonic() - began

    # Roundcube counts for mailboxes that it knows.
    right = [timed("lock", 302) for _ in range(5)]
    wrong = [timed("wrong", 401) for _ in range(10)]
    right.append(timed("lock", 302))
    assert Session(roundcube).ask("POST", f"/as/{login}").status == 303
    # The second that it would wait.
    assert min(wrong) < 10 * statistics.mean(right)


# --- Time ----------------------------------------------------------------------------------------

READER = "many.parts@x.test"
LIMIT = Webmail.REQUEST_SECONDS
# 2 MB, so that a faster machine is not done in time.
PARTS = 200_000


def send_many_parts(server: Server) -> None:
    head = (
        f"From: {READER}\r\nTo: {READER}\r\nSubject: many parts\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    )
    with smtp(server, READER) as client:
        client.sendmail(READER, [READER], head + "--b\r\n\r\nx\r\n" * PARTS)
    wait_for_message(server, READER, "many parts")


def send_a_file(server: Server) -> bytes:
    message = EmailMessage()
    message["From"] = message["To"] = READER
    message["Subject"] = "a file"
    message.set_content("see attachment")
    content = os.urandom(16 * 1024**2)
    message.add_attachment(content, maintype="application", subtype="octet-stream", filename="x")
    with smtp(server, READER) as client:
        client.sendmail(READER, [READER], message.as_bytes())
    wait_for_message(server, READER, "a file")
    return content


def test_a_message_that_takes_too_long_ends_in_words(roundcube: Server) -> None:
    content = send_a_file(roundcube)
    send_many_parts(roundcube)
    session = Session(roundcube)
    token = session.open(READER)
    file = f"/?_task=mail&_mbox=INBOX&_uid=1&_part=2&_action=get&_download=1&_token={token}"
    with session.begin("GET", file) as slow, ThreadPoolExecutor() as pool:
        downloaded = slow.read(1)
        began = time.monotonic()
        path = "/?_task=mail&_mbox=INBOX&_uid=2&_action=preview&_framed=1"
        opening = pool.submit(session.ask, "GET", path, timeout=4 * LIMIT)
        others = 0
        while not opening.done():
            Session(roundcube).open(f"other{others}@x.test")
            others += 1
            downloaded += slow.read(1)
        answer, seconds = opening.result(), time.monotonic() - began
        # A client that takes its time is not given up.
        assert downloaded + slow.read() == content
    assert answer.status == 504
    assert "The webmail gave no answer" in answer.text
    assert f"It took longer than {LIMIT} seconds and was stopped" in answer.text
    assert f"port {roundcube.port('imaps')} or {roundcube.port('imap')}" in answer.text
    assert LIMIT - 1 < seconds < LIMIT + 5
    assert others > 10
    # The worker, which holds the session, has ended: the same user goes on.
    assert session.ask("GET", "/?_task=mail&_mbox=Sent", timeout=LIMIT).status == 200
    ended = (
        r"request: \"GET /index.php\?\S+_uid=2&\S+\"\) execution timed out|Maximum execution time"
    )
    assert re.search(ended, roundcube.log())
    assert messages(roundcube, READER)


def test_no_request_takes_longer_whatever_it_does(server: Server, places: Places) -> None:
    """It waits, which costs no time of the processor."""
    began = time.monotonic()
    with pytest.raises(ConnectionResetError):
        run_in_fpm(server, places, "<?php while (true) { usleep(100000); }")
    assert LIMIT <= time.monotonic() - began < LIMIT * 4 / 3 + 5
    assert run_in_fpm(server, places, "<?php echo 'works';") == "works"
