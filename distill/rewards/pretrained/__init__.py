"""The pretrained networks behind the rewards."""
