"""The one document that every report is made of, and its renderer to HTML, Markdown, text and JSON. Never imports torch."""
