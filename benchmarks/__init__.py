"""What segflow costs, as ratios against a named peer or the bare library in the same run."""
