"""What else is there to cache reads with? Each peer on the rows of the benchmark, used as its own documentation says."""
