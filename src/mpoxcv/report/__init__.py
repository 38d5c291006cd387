"""Words and pictures from the numbers: tables, statements, figures, the page; no torch."""
