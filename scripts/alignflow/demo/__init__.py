"""The embedded demo data: a small real data set that needs no download."""
