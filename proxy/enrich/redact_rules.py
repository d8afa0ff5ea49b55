"""The rules of redaction: what secrets and personal data look like. Data, and the checks it needs.

Not how they are applied: that is `ruleset`. Every pattern is RE2 over UTF-8 bytes. Where a pattern
has a group, the group is the secret, else the whole match is. A rule's keywords are what every
match holds at least one of: literals mostly, patterns where a literal would be in every other
text. They are sought without regard to case and to what stands beside them, all in one scan, and
text without any of them is done with.

Shapes of providers' tokens follow the providers' documentation and the rule set of gitleaks
(https://github.com/gitleaks/gitleaks, MIT licence).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of secret. `check` decides about a match that the pattern alone cannot judge,
    `within` finds the secrets inside of one."""

    name: str
    pattern: str
    keywords: tuple[str, ...] = ()  # none: the pattern is tried on every text
    check: Callable[[str], bool] | None = None
    within: Callable[[str], Iterator[Span]] | None = None


def is_not_placeholder(secret: str) -> bool:
    """Documentation writes `sk-xxxxxxxx` and `AKIA…EXAMPLE`: few different characters, or a word.

    A wrong "no" here leaks and a wrong "yes" costs some text, so only the plainest are let go.
    """
    return len(set(secret)) > 7 and not secret.upper().endswith("EXAMPLE")


_NO_DIGITS = bytes(byte for byte in range(256) if not 0x30 <= byte <= 0x39)
_VALUES = bytes(byte % 16 for byte in range(256))  # of a digit's byte what it stands for
_DOUBLED = bytes(digit * 2 - 9 if 4 < digit < 10 else digit * 2 % 256 for digit in range(256))


def passes_luhn(text: str) -> bool:
    """ISO/IEC 7812-1: the check digit of a payment card of 13 to 19 digits."""
    digits = text.encode().translate(_VALUES, _NO_DIGITS)
    if not 13 <= len(digits) <= 19:
        return False
    check = sum(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED))
    return check % 10 == 0 and len(set(digits)) > 1


def passes_mod97(text: str) -> bool:
    """ISO 13616: an IBAN, its first four characters moved to the end, is 1 modulo 97."""
    compact = "".join(text.split()).upper()
    return (
        15 <= len(compact) <= 34
        and int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1
    )


def is_address(text: str) -> bool:
    """An IPv4 or IPv6 address of a host; `::` and loopback name nobody."""
    if ":" not in text:  # the pattern has looked at each number
        return not text.startswith("127.") and text != "0.0.0.0"
    if "::" not in text and text.count(":") != 7 - text.count(".") // 3:
        return False
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def is_phone(text: str) -> bool:
    """ITU-T E.164 allows 15 digits at most; fewer than 8 is a number of something else."""
    return 8 <= sum(char.isdigit() for char in text) <= 15


_LATIN = r"A-Za-z\x{C0}-\x{24F}"

# Numbers are written in groups, and what stands beside one may look like another group of it.
_GROUP = re.compile(r"[^ .\-]+")
_CARD_STARTS = "23456"
# Where a group begins: a whole number, one grouped as cards are, and what may follow such a one.
_CARD = re.compile(
    r"(?<![^ .\-])(?=([2-6]\d{12,18}|[2-6]\d{3}[ -]\d{6}[ -]\d{4,5}|[2-6]\d{3}(?:[ -]\d{4}){3})"
    r"([ -]\d{1,3}(?![^ .\-]))?(?![^ .\-]))"
)


def cards(text: str) -> Iterator[Span]:
    """The cards in a run of digits: all of it, or those that are grouped as cards are."""
    if is_card(text):
        yield 0, len(text)
        return
    behind = 0
    for found in _CARD.finditer(text):
        start, end = found.span(1)
        if start < behind:
            continue
        longer = found.end(2) if end - start == 19 else -1
        if longer > 0 and passes_luhn(text[start:longer]):
            behind = longer
        elif passes_luhn(text[start:end]):
            behind = end
        else:
            continue
        yield start, behind


def is_card(text: str) -> bool:
    """Whether these digits can be a payment card's: its issuer's kind, and the check digit."""
    return text[0] in _CARD_STARTS and passes_luhn(text)


def beginning(check: Callable[[str], bool]) -> Callable[[str], Iterator[Span]]:
    """The longest beginning of a match, in whole groups, that passes the check."""

    def found(text: str) -> Iterator[Span]:
        for end in reversed([group.end() for group in _GROUP.finditer(text)]):
            if check(text[:end]):
                yield 0, end
                return

    return found


_IPV4 = r"(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"

# Passwords of examples, which keep nobody out: replacing them would only spoil documentation.
_SAMPLE_PASSWORDS = frozenset(
    {"password", "pass", "passwd", "secret", "pwd", "PASSWORD", "xxx", "..."}
)
_URL_SAFE = r"[A-Za-z0-9_\-]"
_ASSIGNED = r"""['"\\ \t]{0,4}(?::=|=>|=|:|,)['"\\ \t]{0,4}"""


def _prefixed(name: str, pattern: str, *keywords: str) -> Rule:
    """A token told by its prefix, at the start of a word or behind a JSON or percent escape."""
    start = r"(?:\b|\\[nrtbf]|%[0-9A-Fa-f]{2})"
    return Rule(name, rf"{start}({pattern})", keywords, is_not_placeholder)


SECRETS: tuple[Rule, ...] = (
    Rule(
        "private_key",
        r"-----BEGIN[ A-Z0-9_-]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"[^-]*(?:-----END[ A-Z0-9_-]{0,40}PRIVATE KEY(?: BLOCK)?-----)?",
        ("private key",),
    ),
    # Providers of models.
    _prefixed("anthropic_key", rf"sk-ant-{_URL_SAFE}{{16,}}", "sk-ant-"),
    _prefixed("openrouter_key", r"sk-or-(?:v1-)?[A-Za-z0-9]{24,}", "sk-or-"),
    _prefixed(
        "openai_key",
        rf"sk-(?:proj|svcacct|admin|None|service)-{_URL_SAFE}{{16,}}",
        "sk-(?:proj|svcacct|admin|none|service)-",
    ),
    _prefixed(
        "api_key",
        r"sk-[A-Za-z0-9]{20,}|sk-[a-z]{2,6}-[A-Za-z0-9]{24,}",
        "sk-[a-z0-9]{20}",
        "sk-[a-z]{2,6}-[a-z0-9]{24}",
    ),
    _prefixed("google_api_key", rf"AIza{_URL_SAFE}{{35}}", "aiza"),
    _prefixed(
        "google_oauth_token", rf"ya29\.{_URL_SAFE}{{20,}}|1//0{_URL_SAFE}{{30,}}", "ya29\\.", "1//0"
    ),
    _prefixed("google_client_secret", rf"GOCSPX-{_URL_SAFE}{{20,}}", "gocspx-"),
    _prefixed("xai_key", r"xai-[A-Za-z0-9]{40,}", "xai-"),
    _prefixed("groq_key", r"gsk_[A-Za-z0-9]{32,}", "gsk_"),
    _prefixed(
        "huggingface_token", r"(?:hf|api_org)_[A-Za-z0-9]{30,}", "hf_[a-z0-9]{30}", "api_org_"
    ),
    _prefixed("replicate_token", r"r8_[A-Za-z0-9]{30,}", "r8_[a-z0-9]{30}"),
    _prefixed("perplexity_key", r"pplx-[A-Za-z0-9]{32,}", "pplx-"),
    _prefixed("cerebras_key", r"csk-[a-z0-9]{32,}", "csk-[a-z0-9]{32}"),
    _prefixed("fireworks_key", r"fw_[A-Za-z0-9]{20,}", "fw_[a-z0-9]{20}"),
    _prefixed("nvidia_key", rf"nvapi-{_URL_SAFE}{{40,}}", "nvapi-"),
    _prefixed("together_key", r"tgp_v1_[A-Za-z0-9_\-]{30,}", "tgp_v1_"),
    _prefixed("langfuse_key", r"sk-lf-[0-9a-f\-]{30,}", "sk-lf-"),
    _prefixed("langsmith_key", r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}", "lsv2_"),
    _prefixed("voyage_key", rf"pa-{_URL_SAFE}{{40,}}", r"pa-[a-z0-9_\-]{40}"),
    _prefixed("tavily_key", r"tvly-(?:dev-|prod-)?[A-Za-z0-9]{28,}", "tvly-"),
    _prefixed("firecrawl_key", r"fc-[0-9a-f]{32}", "fc-[0-9a-f]{32}"),
    # Clouds.
    _prefixed(
        "aws_access_key",
        r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b",
        "a(?:kia|sia|bia|cca)[a-z2-7]{16}",
    ),
    _prefixed("aws_bedrock_key", r"ABSK[A-Za-z0-9+/]{60,}={0,2}", "absk"),
    Rule(
        "aws_secret_key",
        rf"(?i:aws_?secret_?(?:access_?)?key|secret_?access_?key){_ASSIGNED}([A-Za-z0-9/+]{{40}})\b",
        ("aws_?secret", "secret_?access"),
        is_not_placeholder,
    ),
    Rule(
        "aws_session_token",
        rf"(?i:aws_?session_?token){_ASSIGNED}([A-Za-z0-9/+=]{{64,}})",
        ("aws_?session",),
        is_not_placeholder,
    ),
    Rule(
        "azure_key",
        r"(?i:AccountKey|SharedAccessKey|api-key|subscription-key)"
        rf"{_ASSIGNED}([A-Za-z0-9/+]{{43,}}={{0,2}}|[0-9a-f]{{32}}\b)",
        ("accountkey", "sharedaccesskey", "api-key", "subscription-key"),
        is_not_placeholder,
    ),
    Rule("azure_sas", r"[?&;]sig=([A-Za-z0-9%+/]{40,}={0,2})", ("sig=",), is_not_placeholder),
    Rule(
        "azure_client_secret",
        r"(?:^|[^\w.~-])([\w.~]{3}[0-9]Q~[\w.~-]{31,34})",
        ("[0-9]q~",),
        is_not_placeholder,
    ),
    _prefixed("digitalocean_token", r"do[opr]_v1_[0-9a-f]{64}", "doo_v1_", "dop_v1_", "dor_v1_"),
    _prefixed("heroku_key", rf"HRKU-AA{_URL_SAFE}{{50,}}", "hrku-aa"),
    _prefixed("vault_token", rf"hv[sb]\.{_URL_SAFE}{{80,}}", r"hv[sb]\."),
    _prefixed(
        "terraform_token", rf"[A-Za-z0-9]{{14}}\.atlasv1\.{_URL_SAFE}{{40,}}", r"\.atlasv1\."
    ),
    _prefixed("databricks_token", r"dapi[0-9a-f]{32}", "dapi[0-9a-f]{32}"),
    # Code hosts, registries, services.
    _prefixed(
        "github_token",
        r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}",
        "gh[pousr]_[a-z0-9]{36}",
        "github_pat_",
    ),
    _prefixed(
        "gitlab_token",
        rf"gl(?:pat|ptt|dt|rt|cbt|ft|imt|agent|soat)-{_URL_SAFE}{{20,}}",
        "gl(?:pat|ptt|dt|rt|cbt|ft|imt|agent|soat)-",
    ),
    _prefixed("bitbucket_token", rf"ATBB{_URL_SAFE}{{28,}}", "atbb"),
    _prefixed("atlassian_token", r"ATATT3[A-Za-z0-9_\-=]{100,}", "atatt3"),
    _prefixed(
        "slack_token",
        r"xox[abeoprs]-[A-Za-z0-9\-]{10,}|xapp-[0-9]-[A-Za-z0-9\-]{20,}",
        "xox[abeoprs]-",
        "xapp-[0-9]",
    ),
    Rule(
        "slack_webhook",
        r"https://hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9+/]{20,})",
        (r"hooks\.slack\.com",),
        is_not_placeholder,
    ),
    Rule(
        "discord_webhook",
        r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/[0-9]{15,21}/([\w-]{40,})",
        ("/api/webhooks/",),
        is_not_placeholder,
    ),
    _prefixed("telegram_token", r"[0-9]{8,10}:AA[A-Za-z0-9_\-]{32,34}", ":aa[a-z0-9]"),
    _prefixed(
        "stripe_key",
        r"(?:sk|rk)_(?:live|test|prod)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/]{24,}",
        "[sr]k_(?:live|test|prod)_",
        "whsec_",
    ),
    _prefixed(
        "square_token",
        rf"(?:EAAA|sq0[a-z]{{3}}-){_URL_SAFE}{{22,}}",
        "eaaa[a-z0-9_-]{22}",
        "sq0[a-z]{3}-",
    ),
    _prefixed(
        "shopify_token",
        r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
        "shpat_",
        "shpca_",
        "shppa_",
        "shpss_",
    ),
    _prefixed("npm_token", r"npm_[A-Za-z0-9]{36}", "npm_"),
    _prefixed("pypi_token", rf"pypi-AgE{_URL_SAFE}{{50,}}", "pypi-"),
    _prefixed("rubygems_token", r"rubygems_[0-9a-f]{48}", "rubygems_"),
    _prefixed("docker_token", rf"dckr_(?:pat|oat)_{_URL_SAFE}{{20,}}", "dckr_"),
    _prefixed(
        "sendgrid_key", rf"SG\.{_URL_SAFE}{{16,32}}\.{_URL_SAFE}{{16,64}}", r"sg\.[a-z0-9_\-]{16}"
    ),
    _prefixed("twilio_key", r"SK[0-9a-f]{32}\b", "sk[0-9a-f]{32}"),
    _prefixed("mailgun_key", r"(?:key|pubkey)-[0-9a-f]{32}\b", "key-[0-9a-f]{32}"),
    _prefixed("mailchimp_key", r"[0-9a-f]{32}-us[0-9]{1,2}\b", "[0-9a-f]{8}-us[0-9]"),
    _prefixed("postman_key", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}", "pmak-"),
    _prefixed(
        "notion_token",
        r"ntn_[A-Za-z0-9]{40,}|secret_[A-Za-z0-9]{43}\b",
        "ntn_",
        "secret_[a-z0-9]{43}",
    ),
    _prefixed("linear_key", r"lin_(?:api|oauth)_[A-Za-z0-9]{32,}", "lin_api_", "lin_oauth_"),
    _prefixed(
        "grafana_token",
        r"glsa_[A-Za-z0-9]{32}_[0-9A-Fa-f]{8}|glc_[A-Za-z0-9+/]{32,}",
        "glsa_",
        "glc_[a-z0-9+/]{32}",
    ),
    _prefixed("newrelic_key", r"NR(?:AK|II|JS)-[A-Za-z0-9\-]{19,}", "nrak-", "nrii-", "nrjs-"),
    _prefixed("sentry_token", r"sntry[su]_[A-Za-z0-9+/=_]{40,}", "sntrys_", "sntryu_"),
    _prefixed(
        "doppler_token",
        r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9._\-]{40,}",
        r"dp\.(?:pt|st|ct|sa|scim|audit)\.",
    ),
    _prefixed("figma_token", rf"figd_{_URL_SAFE}{{30,}}", "figd_"),
    _prefixed("pulumi_token", r"pul-[0-9a-f]{40}", "pul-[0-9a-f]{40}"),
    _prefixed("planetscale_token", r"pscale_(?:pw|tkn|oauth)_[A-Za-z0-9=._\-]{32,}", "pscale_"),
    _prefixed(
        "supabase_token",
        r"sbp_[0-9a-f]{40}|sb_secret_[A-Za-z0-9_\-]{20,}",
        "sbp_[0-9a-f]{40}",
        "sb_secret_",
    ),
    _prefixed("age_key", r"AGE-SECRET-KEY-1[0-9A-Z]{58}", "age-secret-key-1"),
    # Shapes that many share; last, so that the more telling name wins.
    _prefixed(
        "jwt",
        rf"eyJ{_URL_SAFE}{{10,}}\.eyJ{_URL_SAFE}{{10,}}(?:\.{_URL_SAFE}*)?",
        r"eyj[a-z0-9_\-]{10,}\.eyj",
    ),
    Rule(
        "connection_string",
        r"\b[A-Za-z][A-Za-z0-9+.\-]{1,30}://[^\s:/?#@'\"<>\[\]]*:([^\s@/'\"<>\[\]]{3,})@[A-Za-z0-9\[]",
        (r"://[^\s:/?#@]*:[^\s@/]{3,}@",),
        lambda secret: not (secret.startswith(("$", "{", "%", "*")) or secret in _SAMPLE_PASSWORDS),
    ),
    Rule(
        "authorization",
        r"(?i:(?:\b|\\[nrtbf])bearer[ \t]+)([A-Za-z0-9._~+/\-]{20,}=*)"
        r"|(?i:authorization['\"\\ \t]{0,4}[:=]['\"\\ \t]{0,4}basic[ \t]+)([A-Za-z0-9+/]{12,}=*)",
        (r"bearer[ \t]+[a-z0-9._~+/\-]{20}", "basic[ \\t]+[a-z0-9+/]{12}"),
        is_not_placeholder,
    ),
)

PII: tuple[Rule, ...] = (
    # With Latin letters, accented too: all letters of the world make too large an automaton.
    Rule(
        "email",
        rf"[{_LATIN}0-9._%+\-]{{1,64}}@(?:[{_LATIN}0-9\-]{{1,63}}\.)+[{_LATIN}]{{2,24}}",
        ("@",),
    ),
    # Not behind a point: the digits of a fraction pass Luhn as often as any.
    Rule(
        "card",
        r"(?:^|[^\w.\-]|\\[nrtbf])([0-9](?:[ -]?[0-9]){12,})\b",
        within=cards,
    ),
    Rule(
        "iban",
        r"(?:\b|\\[nrtbf])([A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?)\b",
        within=beginning(passes_mod97),
    ),
    Rule(
        "phone",
        r"\+[0-9]{1,3}(?:[ .\-]?\(?[0-9]{1,5}\)?){2,6}\b"
        r"|(?:\([0-9]{3}\)[ ]?|\b[0-9]{3}[.\-])[0-9]{3}[.\-][0-9]{4}\b",
        within=beginning(is_phone),
    ),
    Rule(
        "ip",
        # IPv6 begins where nothing that looks like more of one stands before it.
        rf"\b{_IPV4}\b|(?:^|[^0-9A-Za-z:.]|\\[nrtbf]|[G-Zg-z]:)"
        rf"((?:[0-9A-Fa-f]{{1,4}}:|::)(?:[0-9A-Fa-f]{{0,4}}:){{0,6}}(?:{_IPV4}|[0-9A-Fa-f]{{1,4}}))\b",
        (),
        is_address,
    ),
)
