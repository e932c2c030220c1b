"""Read pickles as data, without running any code in them."""
