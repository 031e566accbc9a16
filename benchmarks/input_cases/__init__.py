"""Inputs that are easy to misread, one module per kind; each has a list CASES."""
