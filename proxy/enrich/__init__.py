"""Between decoding and storing: who called, how many tokens, what it cost, what must not be kept.

Pure: values in, values out, no clock and no I/O besides the vocabulary and price tables that are
part of the installed packages. Each module stands alone; the recorder calls them in the order
`sessions`, `tokens`, `cost`, `redact` (tokens are counted on the text as received).
"""
