"""Tasks: boxes made from sizes, timing logs and their summary."""
