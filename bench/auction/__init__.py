"""An auction site, as RUBiS describes one: what the benchmark ``app`` lets its clients at."""
