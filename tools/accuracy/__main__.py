"""Print where the estimate stands, and write the page."""

from __future__ import annotations

from tools.accuracy import PAGE, report
from tools.accuracy.page import summary

if __name__ == "__main__":
    found = report()
    PAGE.write_text(found.text)
    print(summary(found.comparisons))
