"""Vocabularies: tiktoken's encodings, built from the files that lie in the package.

`tiktoken.get_encoding` is never called: it downloads, without a time-out. What tiktoken declares
of an encoding (pattern, special tokens, checksum of the vocabulary) is taken from its own module,
with our reader in the place of its downloader. An encoding takes about 50 MB and 0.4 s to build,
hence on first use, and only where tokens are counted.
"""

from __future__ import annotations

import base64
import lzma
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib import resources
from types import FunctionType
from typing import Any, Literal

import tiktoken
from tiktoken_ext import openai_public  # type: ignore[import-untyped] # tiktoken types only itself

EncodingName = Literal["o200k_base", "cl100k_base"]

# Models of the time before gpt-4o; everything else, other providers' included, is closer to o200k.
_CL100K_MODELS = ("gpt-4-", "gpt-3.5", "gpt-35", "ft:gpt-4:", "ft:gpt-3.5", "text-", "davinci")
_CL100K_NAMES = frozenset({"gpt-4", "babbage-002", "ft:gpt-4", "ft:davinci-002", "ft:babbage-002"})


def encoding_name(model: str) -> EncodingName:
    """The encoding of a model; a router's `vendor/` in front of the name is ignored."""
    name = model.rsplit("/", 1)[-1].lower()
    is_old = name in _CL100K_NAMES or name.startswith(_CL100K_MODELS)
    return "cl100k_base" if is_old else "o200k_base"


@cache
def encoding(name: EncodingName) -> tiktoken.Encoding:
    """The encoding itself. Raises ValueError where the shipped file is not the declared one."""
    return tiktoken.Encoding(**_declared(openai_public.ENCODING_CONSTRUCTORS[name]))


def _declared(constructor: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Runs tiktoken's constructor with the shipped file in the place of a download.

    A copy of the function with other globals: the module itself stays as it is.
    """
    assert isinstance(constructor, FunctionType)
    offline = FunctionType(
        constructor.__code__, vars(openai_public) | {"load_tiktoken_bpe": _shipped}
    )
    declared: dict[str, Any] = offline()
    return declared


def _shipped(url: str, expected_hash: str) -> dict[bytes, int]:
    """The ranks of the vocabulary that tiktoken would have fetched from `url`."""
    name = url.rsplit("/", 1)[-1]
    packed = resources.files("proxy").joinpath(f"data/{name}.xz").read_bytes()
    lines = lzma.decompress(packed)
    if sha256(lines).hexdigest() != expected_hash:
        raise ValueError(f"proxy/data/{name}.xz is not the vocabulary that tiktoken declares")
    pairs = (line.split() for line in lines.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}
