"""Several processes that train together: their collectives, and networks that are sharded over them."""
