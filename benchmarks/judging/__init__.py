"""Parts of ../claims.py: what is compared (cells), how (figures), and the rule of each claim (rules)."""
