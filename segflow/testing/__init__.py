"""Contract tests and strategies that third parties may import."""
