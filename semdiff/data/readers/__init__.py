"""Readers of data sets as they lie on disk, anybody's folders or official releases. Nothing is written or fetched here."""
