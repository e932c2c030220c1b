"""A beartype check that accepts an int for a float, as Python's typing rules do (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
