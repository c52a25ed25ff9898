"""Words that a server may put into ids, errors and headers, and that nobody may act upon."""

CLEAR_SCREEN = "\x1b[2J\x1b[31m"
TITLE = "\x1b]0;owned\x07"
LINK = "\x1b]8;;http://elsewhere.invalid\x1b\\here\x1b]8;;\x1b\\"
BACKWARDS = "\u202egnihtemos\u202c"
MARKUP = "[bold red]markup[/bold red] [link=http://elsewhere.invalid]x[/link]"
HTML = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
ATTRIBUTE = "\"' onmouseover=alert(1) x='"
LINES = "one\nloadgen: valid\r\ntwo"

HOSTILE = (CLEAR_SCREEN, TITLE, LINK, BACKWARDS, MARKUP, HTML, ATTRIBUTE, LINES)

EVERYTHING = " ".join(HOSTILE)
"""All of them in one text."""
