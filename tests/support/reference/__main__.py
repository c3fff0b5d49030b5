"""`python -m tests.support.reference` writes the pages about what is on the wire, and the commands."""

import sys

from tests.support.reference import PAGES, text_of

for page in PAGES:
    page.PAGE.write_text(text_of(page), encoding="utf-8")
    sys.stdout.write(f"{page.PAGE} is written\n")
