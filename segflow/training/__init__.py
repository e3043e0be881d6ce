"""Training: configuration, targets, losses, augmentation, networks, and the loop that joins them."""
