"""``python -m tests.odd_peers``: write the table into its page."""

from tests.odd_peers.render import PAGE, page, rendered

PAGE.write_text(page(rendered()), encoding="utf-8")
