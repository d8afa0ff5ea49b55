"""The web page as HTML: rows in, inert text out."""
