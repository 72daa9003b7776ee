"""``python -m odd_peers``, in tests/: write the table into its page."""

from odd_peers.render import PAGE, page, rendered

PAGE.write_text(page(rendered()), encoding="utf-8")
