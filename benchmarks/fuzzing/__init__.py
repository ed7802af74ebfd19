"""Parts of ../fuzz.py: what is damaged (places), how (damage, documents, logs, configs), and when another output is right (rules)."""
