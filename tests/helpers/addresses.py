"""Tables of addresses, for tests of the rule and of the daemons.

What is expected stands here in full and is not computed, so that a mistake in the rule shows.
"""

from __future__ import annotations

from typing import NamedTuple


class Valid(NamedTuple):
    """A valid address, what is expected of it, and other spellings of it."""

    address: str
    mailbox: str
    password: str
    others: tuple[str, ...] = ()

    @property
    def directory(self) -> str:
        """Where the mailbox is expected, below the mail directory."""
        local, _, domain = self.mailbox.partition("@")
        return f"{domain}/{local}"


class Invalid(NamedTuple):
    """A string that is not an address, part of the reason, and how SMTP answers.

    ``answer`` is SYNTAX where Postfix refuses the command, which says no more than that, and RULE
    where the rule gives the reason.
    """

    text: str
    reason: str
    answer: str = "501"


SYNTAX = "501"
RULE = "553"


def same(address: str) -> Valid:
    """An address whose mailbox has its own name."""
    return Valid(address, address, address.partition("@")[0])


# Each of these is its own one spelling, and takes the fast path.
ORDINARY = (
    same("joe@example.com"),
    same("mail1@company1.com"),
    same("first.last@sub.example.co.uk"),
    same("a.b.c.d.e@example.com"),
    same("x@example.com"),
    same("long.email-address-with-hyphens@and.subdomains.example.com"),
    same("under_score@example.com"),
    same("1234567890@example.com"),
    same("0@0.example"),
    same("email@example-one.com"),
    same("joe@xn--test-example.com"),
    same("equals=sign@example.com"),
    same("bounce+joe=example.net@example.com"),
)
PLUS = (
    same("user+tag@example.com"),
    same("user.name+tag+sorting@example.com"),
    same("+leading@example.com"),
    same("trailing+@example.com"),
    same("+@example.com"),
    same("user+a+b@example.com"),
)
CASE = (
    Valid(
        "FirstName.LastName@EasierReading.org",
        "firstname.lastname@easierreading.org",
        "firstname.lastname",
        (
            "firstname.lastname@easierreading.org",
            "FIRSTNAME.LASTNAME@EASIERREADING.ORG",
            '"FirstName.LastName"@easierreading.org',
        ),
    ),
    Valid(
        "UPPER@EXAMPLE.COM",
        "upper@example.com",
        "upper",
        (
            "upper@example.com",
            "Upper@Example.Com",
        ),
    ),
    Valid(
        "MiXeD+TaG@eXaMpLe.CoM", "mixed+tag@example.com", "mixed+tag", ("mixed+tag@example.com",)
    ),
)
# RFC 5322, section 3.2.3: everything that may stand in an atom.
ATEXT = (
    Valid("a!b@example.com", "a%21b@example.com", "a!b"),
    Valid("a#b@example.com", "a%23b@example.com", "a#b"),
    Valid("a$b@example.com", "a%24b@example.com", "a$b"),
    Valid("a%b@example.com", "a%25b@example.com", "a%b"),
    Valid("a&b@example.com", "a%26b@example.com", "a&b"),
    Valid("a'b@example.com", "a%27b@example.com", "a'b"),
    Valid("a*b@example.com", "a%2ab@example.com", "a*b"),
    Valid("a/b@example.com", "a%2fb@example.com", "a/b"),
    Valid("a?b@example.com", "a%3fb@example.com", "a?b"),
    Valid("a^b@example.com", "a%5eb@example.com", "a^b"),
    Valid("a`b@example.com", "a%60b@example.com", "a`b"),
    Valid("a{b@example.com", "a%7bb@example.com", "a{b"),
    Valid("a|b@example.com", "a%7cb@example.com", "a|b"),
    Valid("a}b@example.com", "a%7db@example.com", "a}b"),
    same("a~b@example.com"),
    Valid(
        "!#$%&'*+-/=?^_`{|}~@example.com",
        "%21%23%24%25%26%27%2a+-%2f=%3f%5e_%60%7b%7c%7d~@example.com",
        "!#$%&'*+-/=?^_`{|}~",
    ),
    Valid(
        "customer/department=shipping@example.com",
        "customer%2fdepartment=shipping@example.com",
        "customer/department=shipping",
    ),
    Valid("$A12345@example.com", "%24a12345@example.com", "$a12345", ("$a12345@example.com",)),
    Valid("!def!xyz%abc@example.com", "%21def%21xyz%25abc@example.com", "!def!xyz%abc"),
    Valid("mailhost!username@example.org", "mailhost%21username@example.org", "mailhost!username"),
    Valid("user%example.com@example.org", "user%25example.com@example.org", "user%example.com"),
    Valid("o'brien@example.ie", "o%27brien@example.ie", "o'brien", ('"o\'brien"@example.ie',)),
    Valid("/@example.com", "%2f@example.com", "/"),
    Valid("{}@example.com", "%7b%7d@example.com", "{}"),
    Valid("%@example.com", "%25@example.com", "%"),
    Valid("%25@example.com", "%2525@example.com", "%25"),
    Valid("%2e%2e@example.com", "%252e%252e@example.com", "%2e%2e"),
    Valid("a%40b@example.com", "a%2540b@example.com", "a%40b"),
)
DASHES = (
    same("-@example.com"),
    same("-f@example.com"),
    same("--@example.com"),
    same("-user-@example.com"),
    same("user-@example.org"),
    same("_somename@example.com"),
    same("_______@example.com"),
    same("__init__@example.com"),
    same("--help@example.com"),
)
# RFC 5321, section 4.1.2: quoted strings and quoted pairs.
QUOTED = (
    Valid(
        '"simple"@example.com',
        "simple@example.com",
        "simple",
        (
            "simple@example.com",
            '"s\\imple"@example.com',
            "SIMPLE@example.com",
        ),
    ),
    Valid(
        '"first.last"@quoted.example',
        "first.last@quoted.example",
        "first.last",
        ("first.last@quoted.example",),
    ),
    Valid('" "@example.org', "%20@example.org", " ", ('"\\ "@example.org',)),
    Valid(
        '"john..doe"@example.org',
        "john.%2edoe@example.org",
        "john..doe",
        ('"JOHN..DOE"@example.org',),
    ),
    Valid(
        '"john doe"@example.org',
        "john%20doe@example.org",
        "john doe",
        ('"John\\ Doe"@example.org',),
    ),
    Valid(
        '"  two  spaces  "@example.org',
        "%20%20two%20%20spaces%20%20@example.org",
        "  two  spaces  ",
    ),
    Valid(
        '"Abc\\@def"@example.com',
        "abc%40def@example.com",
        "abc@def",
        (
            '"Abc@def"@example.com',
            '"abc@def"@EXAMPLE.com',
        ),
    ),
    Valid('"Fred Bloggs"@example.com', "fred%20bloggs@example.com", "fred bloggs"),
    Valid('"Joe\\\\Blow"@example.com', "joe%5cblow@example.com", "joe\\blow"),
    Valid('"quote\\"inside"@example.com', "quote%22inside@example.com", 'quote"inside'),
    Valid('"\\""@example.com', "%22@example.com", '"'),
    Valid('"\\\\"@example.com', "%5c@example.com", "\\"),
    Valid('""@example.org', "%00@example.org", '""'),
    Valid('".leading"@example.com', "%2eleading@example.com", ".leading"),
    Valid('"trailing."@example.com', "trailing%2e@example.com", "trailing."),
    Valid('"."@example.com', "%2e@example.com", "."),
    Valid('".."@example.com', "%2e%2e@example.com", ".."),
    Valid('"..."@example.com', "%2e%2e%2e@example.com", "..."),
    Valid(
        '"../../etc/passwd"@example.com',
        "%2e%2e%2f.%2e%2fetc%2fpasswd@example.com",
        "../../etc/passwd",
    ),
    Valid('"/etc/passwd"@example.com', "%2fetc%2fpasswd@example.com", "/etc/passwd"),
    Valid('"joe@home"@example.com', "joe%40home@example.com", "joe@home"),
    Valid('"@"@example.com', "%40@example.com", "@"),
    Valid('"a,b;c:d"@example.com', "a%2cb%3bc%3ad@example.com", "a,b;c:d"),
    Valid(
        '"<joe@example.com>"@example.com',
        "%3cjoe%40example.com%3e@example.com",
        "<joe@example.com>",
    ),
    Valid('"(comment)"@example.com', "%28comment%29@example.com", "(comment)"),
    Valid('"[1.2.3.4]"@example.com', "%5b1.2.3.4%5d@example.com", "[1.2.3.4]"),
    Valid(
        '"very.(),:;<>[]\\".VERY.\\"very@\\\\ \\"very\\".unusual"@strange.example.com',
        "very.%28%29%2c%3a%3b%3c%3e%5b%5d%22.very.%22very%40%5c%20%22very%22.unusual@strange.example.com",
        'very.(),:;<>[]".very."very@\\ "very".unusual',
        ('"VERY.(),:;<>[]\\".very.\\"VERY@\\\\ \\"VERY\\".UNUSUAL"@strange.example.com',),
    ),
    Valid('"user+x y"@example.com', "user+x%20y@example.com", "user+x y"),
    Valid('"%n %u %d"@example.com', "%25n%20%25u%20%25d@example.com", "%n %u %d"),
    Valid('"a;b}c{d"@example.com', "a%3bb%7dc%7bd@example.com", "a;b}c{d"),
    Valid('"$(id)"@example.com', "%24%28id%29@example.com", "$(id)"),
    Valid('"it\'s > here"@example.com', "it%27s%20%3e%20here@example.com", "it's > here"),
)
# RFC 5321, section 4.5.3.1: 64 octets before the @, 254 in all; RFC 1035: 63 octets a label.
LENGTHS = (
    same("l" * 64 + "@example.com"),
    Valid(
        "é" * 32 + "@example.com",
        "%c3%a9" * 32 + "@example.com",
        "é" * 32,
        ("É" * 32 + "@example.com", "e\u0301" * 32 + "@example.com"),
    ),
    Valid("用" * 21 + "a@example.com", "%e7%94%a8" * 21 + "a@example.com", "用" * 21 + "a"),
    Valid(
        f'"{"q" * 30} {"q" * 31}"@example.com',
        f"{'q' * 30}%20{'q' * 31}@example.com",
        f"{'q' * 30} {'q' * 31}",
    ),
    Valid(
        f'"{"q" * 64}"@quoted.example',
        f"{'q' * 64}@quoted.example",
        "q" * 64,
        (f"{'q' * 64}@quoted.example",),
    ),
    Valid("%" * 64 + "@example.com", "%25" * 64 + "@example.com", "%" * 64),
    same(f"a@{'d' * 63}.example"),
    same(f"{'l' * 64}@{'d' * 63}.{'d' * 63}.{'d' * 61}"),
    same(f"a@{'d' * 63}.{'d' * 63}.{'d' * 63}.{'d' * 60}"),
    same("a@" + ".".join("d" * 126)),
    Valid(
        f"{'я' * 32}@{'d' * 63}.{'d' * 63}.{'d' * 61}",
        f"{'%d1%8f' * 32}@{'d' * 63}.{'d' * 63}.{'d' * 61}",
        "я" * 32,
    ),
)
# Domains that other servers treat in a way of their own.
DOMAINS = (
    same("admin@example"),
    same("a@b"),
    Valid("user@localhost", "user@localhost", "user", ("user@LOCALHOST",)),
    same("user@mail.localhost"),
    same("user@host.internal"),
    same("user@1.example"),
    same("user@123.com"),
    same("user@3com"),
    same("user@a-b--c.example"),
    same("user@cur"),
    same("new@cur"),
    same("user@test.invalid"),
    same("user@x.y.z.a.b.c.d.e.f.g"),
    same("user@0xff.example"),
    same("user@sub.bad-domain.com"),
)
# Names that have a meaning to other servers, or to this one's daemons.
ROLES = (
    Valid(
        "postmaster@example.com",
        "postmaster@example.com",
        "postmaster",
        (
            "POSTMASTER@example.com",
            "Postmaster@Example.COM",
        ),
    ),
    same("abuse@example.com"),
    same("root@example.com"),
    Valid(
        "mailer-daemon@example.com",
        "mailer-daemon@example.com",
        "mailer-daemon",
        ("MAILER-DAEMON@example.com",),
    ),
    same("postmaster@localhost"),
    same("root@mail.localhost"),
    same("root@localhost"),
    same("mail@mail.localhost"),
    same("nobody@localhost"),
    same("vmail@localhost"),
    same("dovecot@mail.localhost"),
    same("double-bounce@mail.localhost"),
)
# RFC 5321, section 4.1.3. A number of four octets without brackets is the same place.
LITERALS = (
    Valid(
        "postmaster@[123.123.123.123]",
        "postmaster@[123.123.123.123]",
        "postmaster",
        ("postmaster@123.123.123.123",),
    ),
    Valid(
        "user@[127.0.0.1]",
        "user@[127.0.0.1]",
        "user",
        (
            "user@127.0.0.1",
            "user@[127.000.000.001]",
            "USER@[127.0.0.1]",
        ),
    ),
    Valid(
        "x@[IPv6:2001:db8::1]",
        "x@[ipv6:2001:db8::1]",
        "x",
        (
            "x@[ipv6:2001:DB8:0:0:0:0:0:1]",
            "X@[IPV6:2001:0db8:0000:0000:0000:0000:0000:0001]",
        ),
    ),
    Valid(
        "_test@[IPv6:2001:0db8:85a3:0000:0000:8a2e:0370:7334]",
        "_test@[ipv6:2001:db8:85a3::8a2e:370:7334]",
        "_test",
        ("_test@[IPv6:2001:db8:85a3::8a2e:370:7334]",),
    ),
    Valid("user@[IPv6:::1]", "user@[ipv6:::1]", "user", ("user@[IPv6:0:0:0:0:0:0:0:1]",)),
    Valid("user@[IPv6:::]", "user@[ipv6:::]", "user"),
    Valid(
        "user@[IPv6:::ffff:192.0.2.1]",
        "user@[ipv6:::ffff:192.0.2.1]",
        "user",
        ("user@[IPv6:::FFFF:C000:0201]",),
    ),
    same("user+tag@[192.0.2.7]"),
    Valid('"a b"@[192.0.2.7]', "a%20b@[192.0.2.7]", "a b"),
    Valid("юзер@[IPv6:2001:db8::2]", "%d1%8e%d0%b7%d0%b5%d1%80@[ipv6:2001:db8::2]", "юзер"),
    same("user@[0.0.0.0]"),
    same("user@[255.255.255.255]"),
)
# RFC 5890 and UTS 46.
IDN = (
    Valid(
        "user@münchen.de",
        "user@xn--mnchen-3ya.de",
        "user",
        (
            "user@xn--mnchen-3ya.de",
            "user@MÜNCHEN.de",
            "user@mu\u0308nchen.de",
            "user@XN--MNCHEN-3YA.DE",
        ),
    ),
    Valid(
        "user@пример.рф",
        "user@xn--e1afmkfd.xn--p1ai",
        "user",
        (
            "user@xn--e1afmkfd.xn--p1ai",
            "user@ПРИМЕР.РФ",
        ),
    ),
    Valid(
        "user@例子.广告", "user@xn--fsqu00a.xn--4rr70v", "user", ("user@xn--fsqu00a.xn--4rr70v",)
    ),
    Valid(
        "user@مثال.إختبار",
        "user@xn--mgbh0fb.xn--kgbechtv",
        "user",
        ("user@xn--mgbh0fb.xn--kgbechtv",),
    ),
    Valid(
        "user@\u0909\u0926\u093e\u0939\u0930\u0923.\u092a\u0930\u0940\u0915\u094d\u0937\u093e",
        "user@xn--p1b6ci4b4b3a.xn--11b5bs3a9aj6g",
        "user",
        ("user@xn--p1b6ci4b4b3a.xn--11b5bs3a9aj6g",),
    ),
    Valid("user@דוגמה.טעסט", "user@xn--6dbbec0c.xn--deba0ad", "user"),
    Valid(
        "user@straße.de",
        "user@xn--strae-oqa.de",
        "user",
        (
            "user@xn--strae-oqa.de",
            "user@STRAẞE.de",
        ),
    ),
    Valid("user@strasse.de", "user@strasse.de", "user", ("user@STRASSE.DE",)),
    Valid("user@βόλος.com", "user@xn--nxasmm1c.com", "user"),
    Valid("user@βόλοσ.com", "user@xn--nxasmq6b.com", "user", ("user@ΒΌΛΟΣ.com",)),
    Valid("user@παράδειγμα.δοκιμή", "user@xn--hxajbheg2az3al.xn--jxalpdlp", "user"),
    Valid(
        "user@ｅｘａｍｐｌｅ.com",
        "user@example.com",
        "user",
        (
            "user@example。com",
            "user@example.com",
        ),
    ),
    Valid("user@ﬁsh.example", "user@fish.example", "user", ("user@fish.example",)),
    Valid("user@exam\xadple.net", "user@example.net", "user", ("user@example.net",)),
    Valid("user@ı.example", "user@xn--cfa.example", "user"),
    Valid("user@i\u0307.example", "user@xn--i-9bb.example", "user", ("user@İ.example",)),
    same("user@xn--i-7iq.ws"),
    Valid("user@黒川.日本", "user@xn--5rtw95l.xn--wgv71a", "user"),
    Valid("user@ไทย.example", "user@xn--o3cw4h.example", "user"),
    Valid("user@한국.example", "user@xn--3e0b707e.example", "user"),
    Valid(
        "user@üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü.example",
        "user@xn--tdaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example",
        "user",
    ),
)
# RFC 6531, section 3.3.
UTF8 = (
    Valid(
        "Pelé@example.com",
        "pel%c3%a9@example.com",
        "pelé",
        (
            "pelé@example.com",
            "PELÉ@example.com",
            "pele\u0301@example.com",
            '"Pelé"@example.com',
        ),
    ),
    Valid(
        "почта@example.com",
        "%d0%bf%d0%be%d1%87%d1%82%d0%b0@example.com",
        "почта",
        (
            "ПОЧТА@example.com",
            '"почта"@example.com',
        ),
    ),
    Valid(
        "квіточка@пошта.укр",
        "%d0%ba%d0%b2%d1%96%d1%82%d0%be%d1%87%d0%ba%d0%b0@xn--80a1acn3a.xn--j1amh",
        "квіточка",
        ("КВІТОЧКА@xn--80a1acn3a.xn--j1amh",),
    ),
    Valid(
        "медведь@с-балалайкой.рф",
        "%d0%bc%d0%b5%d0%b4%d0%b2%d0%b5%d0%b4%d1%8c@xn----8sbaac5cahfb0b0a.xn--p1ai",
        "медведь",
    ),
    Valid(
        "δοκιμή@παράδειγμα.δοκιμή",
        "%ce%b4%ce%bf%ce%ba%ce%b9%ce%bc%ce%ae@xn--hxajbheg2az3al.xn--jxalpdlp",
        "δοκιμή",
        ("ΔΟΚΙΜΉ@παράδειγμα.δοκιμή",),
    ),
    Valid(
        "νίκος@example.gr",
        "%ce%bd%ce%af%ce%ba%ce%bf%cf%83@example.gr",
        "νίκοσ",
        (
            "ΝΊΚΟΣ@example.gr",
            "νίκοσ@example.gr",
        ),
    ),
    Valid("我買@屋企.香港", "%e6%88%91%e8%b2%b7@xn--hoqu73a.xn--j6w193g", "我買"),
    Valid("二ノ宮@黒川.日本", "%e4%ba%8c%e3%83%8e%e5%ae%ae@xn--5rtw95l.xn--wgv71a", "二ノ宮"),
    Valid("用户@例子.广告", "%e7%94%a8%e6%88%b7@xn--fsqu00a.xn--4rr70v", "用户"),
    Valid(
        "संपर्क@डाटामेल.भारत",
        "%e0%a4%b8%e0%a4%82%e0%a4%aa%e0%a4%b0%e0%a5%8d%e0%a4%95@xn--c2bd4bq1db8d.xn--h2brj9c",
        "संपर्क",
    ),
    Valid(
        "बेमिसाल@example.com",
        "%e0%a4%ac%e0%a5%87%e0%a4%ae%e0%a4%bf%e0%a4%b8%e0%a4%be%e0%a4%b2@example.com",
        "बेमिसाल",
    ),
    Valid(
        "\u0958@example.com",
        "%e0%a4%95%e0%a4%bc@example.com",
        "\u0915\u093c",
        ("\u0915\u093c@example.com",),
    ),
    Valid(
        "مستخدم@مثال.إختبار",
        "%d9%85%d8%b3%d8%aa%d8%ae%d8%af%d9%85@xn--mgbh0fb.xn--kgbechtv",
        "مستخدم",
    ),
    Valid("مستخدم1@example.com", "%d9%85%d8%b3%d8%aa%d8%ae%d8%af%d9%851@example.com", "مستخدم1"),
    Valid("משתמש@example.com", "%d7%9e%d7%a9%d7%aa%d7%9e%d7%a9@example.com", "משתמש"),
    Valid(
        "ผู้ใช้@example.com",
        "%e0%b8%9c%e0%b8%b9%e0%b9%89%e0%b9%83%e0%b8%8a%e0%b9%89@example.com",
        "ผู้ใช้",
    ),
    Valid(
        "사용자@example.com",
        "%ec%82%ac%ec%9a%a9%ec%9e%90@example.com",
        "사용자",
        ("\u1109\u1161\u110b\u116d\u11bc\u110c\u1161@example.com",),
    ),
    Valid(
        "dörte@sörensen.example.com",
        "d%c3%b6rte@xn--srensen-90a.example.com",
        "dörte",
        ("DÖRTE@SÖRENSEN.example.com",),
    ),
    Valid("straße@example.com", "stra%c3%9fe@example.com", "straße", ("STRAẞE@example.com",)),
    same("strasse@example.com"),
    Valid("ı@example.com", "%c4%b1@example.com", "ı"),
    Valid("İ@example.com", "i%cc%87@example.com", "i\u0307", ("i\u0307@example.com",)),
    Valid("i@example.com", "i@example.com", "i", ("I@example.com",)),
    Valid("ﬁsh@example.com", "%ef%ac%81sh@example.com", "ﬁsh"),
    Valid(
        "ｊｏｅ@example.com",
        "%ef%bd%8a%ef%bd%8f%ef%bd%85@example.com",
        "ｊｏｅ",
        ("ＪＯＥ@example.com",),
    ),
    Valid("🦄@example.com", "%f0%9f%a6%84@example.com", "🦄"),
    Valid(
        "I\u2764\ufe0fCHOCOLATE🍫@example.com",
        "i%e2%9d%a4%ef%b8%8fchocolate%f0%9f%8d%ab@example.com",
        "i\u2764\ufe0fchocolate🍫",
    ),
    Valid(
        "👩\u200d👩\u200d👧@example.com",
        "%f0%9f%91%a9%e2%80%8d%f0%9f%91%a9%e2%80%8d%f0%9f%91%a7@example.com",
        "👩\u200d👩\u200d👧",
    ),
    Valid("😀+tag@example.com", "%f0%9f%98%80+tag@example.com", "😀+tag"),
    Valid(
        '"имя фамилия"@example.com',
        "%d0%b8%d0%bc%d1%8f%20%d1%84%d0%b0%d0%bc%d0%b8%d0%bb%d0%b8%d1%8f@example.com",
        "имя фамилия",
        ('"ИМЯ ФАМИЛИЯ"@example.com',),
    ),
    Valid(
        "имя.фамилия@example.com",
        "%d0%b8%d0%bc%d1%8f.%d1%84%d0%b0%d0%bc%d0%b8%d0%bb%d0%b8%d1%8f@example.com",
        "имя.фамилия",
    ),
    Valid(
        '"имя..фамилия"@example.com',
        "%d0%b8%d0%bc%d1%8f.%2e%d1%84%d0%b0%d0%bc%d0%b8%d0%bb%d0%b8%d1%8f@example.com",
        "имя..фамилия",
    ),
    Valid("“curly”@example.com", "%e2%80%9ccurly%e2%80%9d@example.com", "“curly”"),
    Valid("ñandú+ñ@example.com", "%c3%b1and%c3%ba+%c3%b1@example.com", "ñandú+ñ"),
    Valid(
        "q\u0323\u0307@example.com",
        "q%cc%a3%cc%87@example.com",
        "q\u0323\u0307",
        ("q\u0307\u0323@example.com",),
    ),
    Valid(
        "あいうえお@example.com",
        "%e3%81%82%e3%81%84%e3%81%86%e3%81%88%e3%81%8a@example.com",
        "あいうえお",
    ),
    Valid("\u202eabc@example.com", "%e2%80%aeabc@example.com", "\u202eabc"),
    Valid("𝕛𝕠𝕖@example.com", "%f0%9d%95%9b%f0%9d%95%a0%f0%9d%95%96@example.com", "𝕛𝕠𝕖"),
    Valid("a\u037eb@example.com", "a%3bb@example.com", "a;b", ('"a;b"@example.com',)),
)
# Names that mean something to a file system, a Maildir, a shell or a database.
NAMES = (
    Valid("cur@example.com", "cur@example.com", "cur", ("CUR@example.com",)),
    same("new@example.com"),
    same("tmp@example.com"),
    same("dovecot.index@example.com"),
    same("dovecot-uidlist@example.com"),
    same("subscriptions@example.com"),
    same("con@example.com"),
    same("nul@example.com"),
    same("aux@example.com"),
    Valid('"../cur"@example.com', "%2e%2e%2fcur@example.com", "../cur"),
    Valid("cur/x@example.com", "cur%2fx@example.com", "cur/x"),
    Valid("*@example.com", "%2a@example.com", "*"),
    same("~@example.com"),
    same("~root@example.com"),
    Valid("$home@example.com", "%24home@example.com", "$home"),
    Valid("`id`@example.com", "%60id%60@example.com", "`id`"),
    Valid("|cat@example.com", "%7ccat@example.com", "|cat"),
    Valid("&&@example.com", "%26%26@example.com", "&&"),
    Valid("a?b*c@example.com", "a%3fb%2ac@example.com", "a?b*c"),
    Valid("''@example.com", "%27%27@example.com", "''"),
    same("inbox@example.com"),
    Valid('".inbox"@example.com', "%2einbox@example.com", ".inbox"),
    same("null@example.com"),
    same("undefined@example.com"),
    Valid(
        '"; drop table users;--"@example.com',
        "%3b%20drop%20table%20users%3b--@example.com",
        "; drop table users;--",
    ),
    Valid("'or'1'='1@example.com", "%27or%271%27=%271@example.com", "'or'1'='1"),
    Valid('"!x"@example.com', "%21x@example.com", "!x"),
    Valid('"|/bin/sh"@example.com', "%7c%2fbin%2fsh@example.com", "|/bin/sh"),
    Valid(
        '":include:/etc/passwd"@example.com',
        "%3ainclude%3a%2fetc%2fpasswd@example.com",
        ":include:/etc/passwd",
    ),
)

VALID = (
    *ORDINARY,
    *PLUS,
    *CASE,
    *ATEXT,
    *DASHES,
    *QUOTED,
    *LENGTHS,
    *DOMAINS,
    *ROLES,
    *LITERALS,
    *IDN,
    *UTF8,
    *NAMES,
)

_NO_AT = "it has no @"
_NOTHING_BEFORE = "nothing before the @"
_NOTHING_AFTER = "nothing after the @"
_QUOTES = "must stand in quotes"
_LABEL = "is not part of a domain"
_DOT = "a dot too many"
_LITERAL = "neither an IPv4 address nor IPv6:"
_NUMBER = "the last part of the domain is a number"
_LONG_LOCAL = "longer than 64 octets"
_LONG = "longer than 254 octets"
_IDN = "not an internationalised domain"
_NOT_TEXT = "a character that is not text"

INVALID = (
    # No address at all.
    Invalid("plainaddress", _NO_AT),
    Invalid("abc.example.com", _NO_AT),
    Invalid("юзер", _NO_AT),
    Invalid("joe at example.com", _NO_AT),
    Invalid("joe\uff20example.com", _NO_AT),
    Invalid("@", _NOTHING_BEFORE),
    Invalid("@example.com", _NOTHING_BEFORE),
    Invalid("joe@", _NOTHING_AFTER),
    Invalid('"joe"@', _NOTHING_AFTER),
    # Local parts.
    Invalid(".joe@example.com", _QUOTES),
    Invalid("joe.@example.com", _QUOTES),
    Invalid("joe..doe@example.com", _QUOTES),
    Invalid(".@example.com", _QUOTES),
    Invalid("..@example.com", _QUOTES),
    Invalid("joe doe@example.com", _QUOTES),
    Invalid(" joe@example.com", _QUOTES),
    Invalid("a@b@example.com", _QUOTES),
    Invalid("#@%^%#$@#$@#.com", _QUOTES),
    Invalid("joe,doe@example.com", _QUOTES),
    Invalid("joe;doe@example.com", _QUOTES),
    Invalid("joe:doe@example.com", _QUOTES),
    Invalid("joe(comment)@example.com", _QUOTES),
    Invalid("(comment)joe@example.com", _QUOTES),
    Invalid("joe[doe]@example.com", _QUOTES),
    Invalid("joe<doe@example.com", _QUOTES),
    Invalid("joe\\doe@example.com", _QUOTES),
    Invalid("Abc\\@def@example.com", _QUOTES),
    Invalid('joe"doe@example.com', _QUOTES),
    Invalid('just"not"right@example.com', _QUOTES),
    Invalid('this is"not\\allowed@example.com', _QUOTES),
    Invalid('this\\ still\\"not\\\\allowed@example.com', _QUOTES),
    Invalid('a"b(c)d,e:f;g<h>i[j\\k]l@example.com', _QUOTES),
    Invalid('"unclosed@example.com', _QUOTES),
    Invalid('"unclosed\\"@example.com', _QUOTES),
    Invalid('"two""strings"@example.com', _QUOTES),
    Invalid('"obsolete".phrase@example.com', _QUOTES),
    Invalid('"joe"doe@example.com', _QUOTES),
    Invalid('"a"b"@example.com', _QUOTES),
    Invalid('"tab\there"@example.com', _QUOTES),
    Invalid('"bell\x07"@example.com', _QUOTES),
    Invalid('"delete\x7f"@example.com', _QUOTES),
    Invalid('"pair of \\ж"@example.com', _QUOTES),
    Invalid("Joe Doe <joe@example.com>", _QUOTES),
    Invalid("joe\u0085doe@example.com", _NOT_TEXT, RULE),
    Invalid("joe\u009fdoe@example.com", _NOT_TEXT, RULE),
    Invalid("joe\u2028doe@example.com", _NOT_TEXT, RULE),
    Invalid("joe\ufdd0@example.com", _NOT_TEXT, RULE),
    Invalid("joe\U0001ffff@example.com", _NOT_TEXT, RULE),
    # Lengths.
    Invalid("l" * 65 + "@example.com", _LONG_LOCAL, RULE),
    Invalid(
        "1234567890123456789012345678901234567890123456789012345678901234+x@example.com",
        _LONG_LOCAL,
        RULE,
    ),
    Invalid("é" * 32 + "a@example.com", _LONG_LOCAL, RULE),
    Invalid(f'"{"q" * 31} {"q" * 31}"@example.com', _LONG_LOCAL, RULE),
    Invalid('"' + '\\"' * 32 + '"@example.com', _LONG_LOCAL, RULE),
    Invalid("%" * 65 + "@example.com", _LONG_LOCAL, RULE),
    Invalid(f"{'l' * 64}@{'d' * 63}.{'d' * 63}.{'d' * 62}", _LONG, RULE),
    Invalid(f"a@{'d' * 63}.{'d' * 63}.{'d' * 63}.{'d' * 61}", _LONG, RULE),
    Invalid(f"a@{'d' * 63}.{'d' * 63}.{'d' * 63}.{'d' * 62}", "longer than 253 characters", RULE),
    Invalid(f"joe@{'d' * 64}.example", _LABEL),
    Invalid(f"joe@{'ü' * 60}.example", _IDN),
    # Domains.
    Invalid("joe@.example.com", _DOT),
    Invalid("joe@example.com.", _DOT),
    Invalid("joe@example..com", _DOT),
    Invalid("joe@.", _DOT),
    Invalid("joe@-example.com", _LABEL),
    Invalid("joe@example-.com", _LABEL),
    Invalid("joe@example.-", _LABEL),
    Invalid("joe@exam_ple.com", _LABEL, RULE),
    Invalid("i.like.underscores@but_they_are_not_allowed_in_this_part", _LABEL, RULE),
    Invalid("joe@_dmarc.example.com", _LABEL, RULE),
    Invalid("joe@exam ple.com", _LABEL),
    Invalid("joe@example.com ", _LABEL),
    Invalid("joe@exam/ple.com", _LABEL),
    Invalid("joe@../../etc", _DOT),
    Invalid("joe@a/../b", _LABEL),
    Invalid("joe@exam+ple.com", _LABEL),
    Invalid("joe@exam*ple.com", _LABEL),
    Invalid("joe@$(id)", _LABEL),
    Invalid("joe@exam\\ple.com", _LABEL),
    Invalid("joe@(comment)example.com", _LABEL),
    Invalid("joe@example.com(comment)", _LABEL),
    Invalid('joe@"example.com"', _LABEL),
    Invalid("joe@example.com,jane@example.com", _QUOTES),
    Invalid("joe@example.com:25", _LABEL),
    Invalid("joe@example.com>", _LABEL),
    Invalid("joe@example.123", _NUMBER, RULE),
    Invalid("joe@123", _NUMBER),
    Invalid("joe@1.2.3", _NUMBER),
    Invalid("joe@1.2.3.4.5", _NUMBER),
    Invalid("email@111.222.333.44444", _NUMBER),
    Invalid("joe@999.1.1.1", _LITERAL),
    # Address literals.
    Invalid("joe@[]", _LITERAL),
    Invalid("joe@[192.0.2.1", _LITERAL),
    Invalid("joe@192.0.2.1]", _LABEL),
    Invalid("joe@[192.0.2.256]", _LITERAL),
    Invalid("joe@[192.0.2]", _LITERAL),
    Invalid("joe@[192.0.2.1.5]", _LITERAL),
    Invalid("joe@[0192.0.2.1]", _LITERAL, RULE),
    Invalid("joe@[ 192.0.2.1 ]", _LITERAL),
    Invalid("joe@[192.0.2.1].com", _LITERAL),
    Invalid("joe@[\u0661\u0669\u0662.0.2.1]", _LITERAL),
    Invalid("joe@[example.com]", _LITERAL),
    Invalid("joe@[2001:db8::1]", _LITERAL),
    Invalid("joe@[IPv6:2001:db8::1", _LITERAL),
    Invalid("joe@[IPv6:2001:db8:::1]", _LITERAL),
    Invalid("joe@[IPv6:1::2::3]", _LITERAL),
    Invalid("joe@[IPv6:1:2:3:4:5:6:7]", _LITERAL, RULE),
    Invalid("joe@[IPv6:1:2:3:4:5:6:7:8:9]", _LITERAL),
    Invalid("joe@[IPv6:12345::1]", _LITERAL),
    Invalid("joe@[IPv6:fe80::1%eth0]", _LITERAL),
    Invalid("joe@[IPv6:192.0.2.1]", _LITERAL),
    Invalid("joe@[IPv6:]", _LITERAL),
    Invalid("joe@[IPv4:192.0.2.1]", _LITERAL),
    Invalid("joe@[tag:content]", _LITERAL),
    # Internationalised domains.
    Invalid("joe@i❤.ws", _IDN, RULE),
    Invalid("joe@🦄.example", _IDN, RULE),
    Invalid("joe@ü_.example", _IDN, RULE),
    Invalid("joe@ü..example", _IDN),
    Invalid("joe@-ü.example", _IDN),
    Invalid("joe@ab--ü.example", _IDN),
    Invalid("joe@\u00ad.example", _IDN),
    Invalid("joe@٣a.example", _IDN, RULE),
    Invalid("joe@a\u200db.example", _IDN, RULE),
    Invalid("joe@\u0308.example", _IDN),
    Invalid("joe@xn--zz.example.рф", _IDN),
    Invalid("joe@example\u2028.com", _NOT_TEXT),
)
