"""Parts of ../fuzz.py: what is damaged (places) and how (damage, documents, logs, configs)."""
