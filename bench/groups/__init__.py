"""The groups of measurements, by the names that ``make bench GROUP=`` takes."""
