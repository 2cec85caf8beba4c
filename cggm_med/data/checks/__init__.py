"""Checks of what files say against the rest: of a header against itself, an image against others, a case against all.

Every kind of fault has a name, a severity and a cure in ``kinds``; what a check saw is a ``Finding``.
"""
