"""A hundred texts that run where a page takes them for markup, and a row that is made of one."""

from __future__ import annotations

from tests.turns.scripts import Talk

MARK = "__hit"
_CALL = f"window.{MARK}=1"
_TAGS = ("script", "img", "svg", "iframe", "object", "embed", "video", "audio", "body", "details")
_EVENTS = (
    "onload",
    "onerror",
    "onfocus autofocus",
    "ontoggle open",
    "onmouseover",
    "onanimationend",
)

PAYLOADS = tuple(
    dict.fromkeys(
        (
            *(f"<{tag} src=x {event}={_CALL}>" for tag in _TAGS for event in _EVENTS),
            f"<script>{_CALL}</script>",
            f"</script><script>{_CALL}</script>",
            f"</textarea><script>{_CALL}</script>",
            f"</title><script>{_CALL}</script>",
            f"</style><script>{_CALL}</script>",
            f"--><script>{_CALL}</script>",
            f"]]><script>{_CALL}</script>",
            f'"><script>{_CALL}</script>',
            f"'><script>{_CALL}</script>",
            f'" autofocus onfocus="{_CALL}',
            f"' autofocus onfocus='{_CALL}",
            f"` onmouseover=`{_CALL}",
            f'x" style="animation:x" onanimationstart="{_CALL}" y="',
            f"javascript:{_CALL}",
            f"JaVaScRiPt:{_CALL}//",
            f"java\tscript:{_CALL}",
            f"data:text/html,<script>{_CALL}</script>",
            f"vbscript:{_CALL}",
            f"[link](javascript:{_CALL})",
            f"![image](x){{onerror={_CALL}}}",
            f"![x](https://evil.test/x.png?{_CALL})",
            "[text](https://evil.test/)",
            "https://evil.test/autolink",
            "<https://evil.test/>",
            f"$\\href{{javascript:{_CALL}}}{{x}}$",
            f"{{{{constructor.constructor('{_CALL}')()}}}}",
            f"{{% raw %}}<script>{_CALL}</script>{{% endraw %}}",
            "{{ ''.__class__.__mro__ }}",
            f"${{{_CALL}}}",
            f"&lt;script&gt;{_CALL}&lt;/script&gt;",
            f"&#60;script&#62;{_CALL}&#60;/script&#62;",
            f"\\u003cscript\\u003e{_CALL}\\u003c/script\\u003e",
            f"%3Cscript%3E{_CALL}%3C/script%3E",
            f"<<script>{_CALL}//<</script>",
            f"<scr<script>ipt>{_CALL}</scr</script>ipt>",
            f"<svg><script>{_CALL}</script></svg>",
            f"<svg><a xlink:href=javascript:{_CALL}><text y=9>x</text></a></svg>",
            f"<math><mtext><img src=x onerror={_CALL}></mtext></math>",
            f"<template><script>{_CALL}</script></template>",
            f'<base href="javascript:{_CALL}//">',
            f'<meta http-equiv="refresh" content="0;url=javascript:{_CALL}">',
            '<link rel="stylesheet" href="https://evil.test/x.css">',
            f'<form action="javascript:{_CALL}"><button>x</button></form>',
            f"<a href=javascript:{_CALL}>x</a>",
            f'<input type="image" src=x onerror={_CALL}>',
            f"data: x\n\nevent: rows\ndata: <script>{_CALL}</script>\n\n",
        )
    )
)[:100]


COLUMNS = (
    *("project_id", "model_used", "system_prompt", "response_thoughts", "provider"),
    *("client", "endpoint", "finish_reason", "error", "provider_request_id", "chat_mode"),
)


def attack(number: int, payload: str, at) -> Talk:
    """A conversation of two calls that holds the payload wherever a text can stand."""
    talk = Talk(session=f"{number} {payload}", at=at)
    texts = dict.fromkeys(COLUMNS, payload)
    more = {
        **texts,
        "labels": {payload: payload},
        "usage": {payload: payload},
        "capture": {"problems": [payload], "session_source": payload},
        "request_params": {"tools": [{"name": payload, "description": payload}], payload: payload},
    }
    talk.user(payload).call(payload, [(payload, {payload: payload})], **more)
    talk.results(f"Error: {payload}")
    talk.call(payload, outcome="stream_error", status=200, **more)
    talk.records[1].chat_history.append({"role": payload, "content": [{payload: payload}]})
    return talk
