"""Shipped networks, one folder each: ``model.pt``, and ``about.json`` with what else is known of it."""
