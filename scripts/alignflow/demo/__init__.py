"""The demo: a small real data set, a simulated second site cut off it, and a picture of both."""
