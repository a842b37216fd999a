"""A judgement as a page, tables and figures; several judgements side by side. Never imports torch."""
