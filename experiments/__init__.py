"""How the results of the book were made: one file an experiment, and what turns it into a record.

``python -m experiments list`` names them; `runner` runs one, `records` keeps what it measured.
"""
