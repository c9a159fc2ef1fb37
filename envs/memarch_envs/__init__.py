"""Environments that need memory: gymnasium and numpy only, one file per environment, ids registered here."""
