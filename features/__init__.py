"""Features: declared once, folded from events, kept live in the store, assembled for the models."""
