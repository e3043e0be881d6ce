"""Shipped networks, one folder each: ``model.py`` and ``weights.pt``; see segflow.inference."""
